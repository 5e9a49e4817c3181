"""Runs the service: sockets, signals, the drain."""

import asyncio
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
import uvicorn
import uvloop

from sidecars.announce import Announcer, Said
from sidecars.listen import Address, bind, release
from sidecars.onnx.announced import Load
from sidecars.onnx.app import build_app
from sidecars.onnx.fleet import Fleet
from sidecars.onnx.follow import follow
from sidecars.onnx.metrics import Metrics
from sidecars.onnx.settings import Settings
from sidecars.serving import BACKLOG, Serving

# Longer than a gateway keeps an idle connection, so that it is never the service that closes first.
_KEEP_ALIVE_S = 3600
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Announced:
    """Where the service announces itself, and as what; its models are added."""

    url: str
    token: str = field(repr=False)
    said: Said


def serve(settings: Settings, file: Path, addresses: Sequence[Address], announced: Announced | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then lets what is in work end. Raises AddressError.

    `file` is where the settings are from; it is followed.
    """
    bound: list[socket.socket] = []
    try:
        bound.extend(bind(address) for address in addresses)
        uvloop.run(_serve(settings, file, bound, announced))
    finally:
        release(addresses[: len(bound)])
        for sock in bound:
            sock.close()


async def _serve(settings: Settings, file: Path, bound: Sequence[socket.socket], announced: Announced | None) -> None:
    fleet = Fleet(settings, Metrics())
    stop = asyncio.Event()
    announcing: list[asyncio.Task[None]] = []

    def ready(shown: Sequence[str]) -> None:
        fleet.start()
        if announced is not None:
            announcing.append(asyncio.create_task(_announce(announced, fleet, stop)))
        _log.info(
            "onnx: listening", addresses=list(shown), models=list(settings.models), threads=settings.threads,
            tokenizer_threads=settings.tokenizer_threads,
        )  # fmt: skip

    async def leave() -> None:
        stop.set()
        await asyncio.gather(*announcing)

    config = uvicorn.Config(
        build_app(fleet),
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",  # what can be said about a request is said where it is known
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    config.load()
    following = asyncio.create_task(follow(file, settings, fleet.apply))
    await Serving(config, bound, ready, leave).serve()
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
    await fleet.close()
    _log.info("onnx: stopped")
    sys.stderr.flush()


async def _announce(announced: Announced, fleet: Fleet, stop: asyncio.Event) -> None:
    said = replace(announced.said, models=tuple(fleet.models))
    await Announcer(announced.url, announced.token, said, Load(fleet, said.capacity)).run(stop)
