"""Runs the service: sockets, signals, the drain."""

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
import uvloop

from sidecars.announce import Announcer, Said
from sidecars.listen import Address, binding, bound_address
from sidecars.onnx.announced import Load
from sidecars.onnx.app import build_app
from sidecars.onnx.fleet import Fleet
from sidecars.onnx.follow import follow
from sidecars.onnx.metrics import Metrics
from sidecars.onnx.settings import Settings
from sidecars.serving import Serving, config

# Longer than a gateway keeps an idle connection, so that it is never the service that closes first.
_KEEP_ALIVE_S = 3600
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - to compare with
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Announced:
    """Where the service announces itself, and as what: `describe` is given the address where it listens, if any.

    Its models are added.
    """

    url: str
    token: str = field(repr=False)
    describe: Callable[[str], Said]


def serve(settings: Settings, file: Path, addresses: Sequence[Address], announced: Announced | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then lets what is in work end. Raises AddressError, OptionsError.

    `file` is where the settings are from; it is followed.
    """
    with binding(addresses) as bound:
        announcer = None
        if announced is not None:
            said = announced.describe(_listening(bound))
            announcer = partial(Announcer, announced.url, announced.token, said)
        uvloop.run(_serve(settings, file, bound, announcer))


async def _serve(
    settings: Settings, file: Path, bound: Sequence[socket.socket], announcer: Callable[..., Announcer] | None
) -> None:
    fleet = Fleet(settings, Metrics())
    stop = asyncio.Event()
    announcing: list[asyncio.Task[None]] = []

    def ready(shown: Sequence[str]) -> None:
        fleet.start()
        if announcer is not None:
            announcing.append(asyncio.create_task(announcer(Load(fleet)).run(stop)))
        _log.info(
            "onnx: listening", addresses=list(shown), models=list(settings.models), threads=settings.threads,
            tokenizer_threads=settings.tokenizer_threads,
        )  # fmt: skip

    async def leave() -> None:
        stop.set()
        await asyncio.gather(*announcing)

    made = config(
        build_app(fleet),
        grace_s=max(1, round(settings.drain_s)),
        http="httptools",
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    following = asyncio.create_task(follow(file, settings, fleet.apply))
    await Serving(made, bound, ready, leave).serve()
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
    await fleet.close()
    _log.info("onnx: stopped")
    sys.stderr.flush()


def _listening(bound: Sequence[socket.socket]) -> str:
    """The first address that others can reach; a host that stands for all of them is left out. Empty: none."""
    for address in map(bound_address, bound):
        if address.path is None:
            return f":{address.port}" if address.host in _EVERYWHERE else str(address)
    return ""
