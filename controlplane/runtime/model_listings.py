"""Providers' listings of their models: asked for off the request path, kept in the state folder, passed on to Envoy."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import structlog

from controlplane.compiling import Compiled
from controlplane.metadata import listings
from controlplane.metadata.facts import Told
from controlplane.metadata.listings import Listing
from controlplane.metadata.models import Listed
from controlplane.metadata.rows import rows
from controlplane.plan.ir import Plan, Upstream
from controlplane.runtime.asking import ListingError, ask, client
from controlplane.runtime.memory import give_back
from controlplane.runtime.parts import Part
from controlplane.xds.lower import describe
from controlplane.xds.resource import Snapshot
from extproc.usage.files import replace

Spread = Callable[[], Awaitable[None]]

_log = structlog.get_logger(__name__)
_AT_ONCE = 4  # providers that are asked at the same time
_FIRST_AGAIN_S = 10.0  # after a failure; twice as long after each further one
_SHOWN = 5  # models that a warning names


@dataclass(slots=True)
class _Asked:
    """How it goes with one provider. `due`: when it is asked next, by the monotonic clock."""

    upstream: Upstream
    wanted: tuple[str, ...]
    due: float = 0.0
    failures: int = 0
    problem: str = ""
    at: datetime | None = None
    listing: Listing | None = None
    told: Mapping[str, Told] = field(default_factory=dict)


class ModelListings(Part):
    """What providers tell of the models that the live policy asks them for."""

    def __init__(self, socket: str, folder: Path) -> None:
        """`socket`: where Envoy passes questions on. `folder`: where answers are kept."""
        self._socket, self._folder = socket, folder
        self._asked: dict[str, _Asked] = {}
        self._plan: Plan | None = None
        self._changed = asyncio.Event()
        self._listed: Listed = {}

    @property
    def listed(self) -> Listed:
        """What providers tell of their models, as nodes are told."""
        return self._listed

    def overlay(self, snapshot: Snapshot, compiled: Compiled) -> Snapshot:
        """The snapshot of a policy, with what providers tell."""
        return describe(snapshot, compiled.plan, self._listed)

    async def conclude(self, compiled: Compiled) -> None:
        """After a push: other providers may be there, or other models asked for."""
        self._plan = compiled.plan
        self._changed.set()

    def warnings(self) -> list[dict[str, str]]:
        """Models that their provider does not list, though the policy asks it for them."""
        found = []
        for name, asked in self._asked.items():
            missing = asked.listing.missing if asked.listing is not None else ()
            if missing:
                more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
                message = f"{name} does not list {', '.join(missing[:_SHOWN])}{more}: requests may fail"
                found.append({"name": "not-listed", "message": message})
        return found

    def states(self) -> list[dict[str, Any]]:
        """Of each provider that is asked: when it last answered, how many models it has, and what is wrong."""
        return [
            {
                "provider": name,
                "at": asked.at.isoformat(timespec="seconds") if asked.at else None,
                "models": asked.listing.total if asked.listing is not None else None,
                "problem": asked.problem or None,
            }
            for name, asked in self._asked.items()
        ]

    async def keep_up(self, spread: Spread) -> None:
        """Runs until it is cancelled: reads what is kept, asks whoever is due, and has nodes told what changed."""
        async with client(self._socket) as http:
            while True:
                if self._changed.is_set():
                    self._changed.clear()
                    await self._follow(spread)
                if due := [asked for asked in self._asked.values() if asked.due <= time.monotonic()]:
                    await self._ask_all(http, due, spread)
                    give_back()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._wait_s()):
                        await self._changed.wait()

    def _wait_s(self) -> float | None:
        due = min((asked.due for asked in self._asked.values()), default=None)
        return None if due is None else max(0.0, due - time.monotonic())

    async def _follow(self, spread: Spread) -> None:
        """Takes over whom the live policy asks, and for which models."""
        before, self._asked = self._asked, {}
        for upstream, wanted in _asked_by(self._plan):
            known = before.get(upstream.name)
            if known is None or _place(known.upstream) != _place(upstream):
                known = _Asked(upstream, ())
            elif _manner(known.upstream) != _manner(upstream):
                known.due = 0.0
            known.upstream = upstream
            if known.wanted != wanted:
                known.wanted = wanted
                await asyncio.to_thread(self._recall, known)
            self._asked[upstream.name] = known
        await self._pass_on(spread)

    def _recall(self, asked: _Asked) -> None:
        """What the provider told last, read for the models that are wanted now; where that does not do, it is asked."""
        upstream = asked.upstream
        try:
            kept = orjson.loads(self._file(upstream).read_bytes())
            if kept["from"] != list(_place(upstream)):
                raise ValueError("somebody else told it")
            listing = listings.read(upstream.kind, upstream.name, kept["listing"], asked.wanted)
            at = datetime.fromisoformat(kept["at"])
        except (OSError, ValueError, LookupError, TypeError):
            asked.due = 0.0
            return
        asked.listing, asked.at, asked.told = listing, at, listings.changed(listing.models, asked.told)
        # Ollama keeps to itself what was not asked for; a service of our own may have had other models.
        if upstream.kind in ("ollama", "onnx"):
            asked.due = 0.0

    async def _ask_all(self, http: httpx.AsyncClient, due: list[_Asked], spread: Spread) -> None:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(asked: _Asked) -> None:
            async with turns:
                try:
                    await self._ask(http, asked)
                except Exception as error:  # whatever a provider tells, the gateway goes on
                    _log.exception("a listing cannot be read", provider=asked.upstream.name)
                    asked.problem = f"it cannot be read ({type(error).__name__})"
                    asked.due = time.monotonic() + asked.upstream.listing_ms / 1000
            await self._pass_on(spread)

        async with asyncio.TaskGroup() as group:
            for asked in due:
                group.create_task(one(asked))

    async def _ask(self, http: httpx.AsyncClient, asked: _Asked) -> None:
        every_s = asked.upstream.listing_ms / 1000
        try:
            document = await ask(http, asked.upstream, asked.wanted)
            asked.listing = await asyncio.to_thread(self._read, asked, document)
        except ListingError as error:
            asked.problem, asked.failures = str(error), asked.failures + 1
            again_s = _FIRST_AGAIN_S * 2 ** min(asked.failures - 1, 10) * random.uniform(0.9, 1.1)  # noqa: S311
            asked.due = time.monotonic() + (every_s if error.final else min(every_s, again_s))
            return
        asked.problem, asked.failures, asked.at = "", 0, datetime.now(UTC)
        asked.told = listings.changed(asked.listing.models, asked.told)
        asked.due = time.monotonic() + every_s

    def _read(self, asked: _Asked, document: Any) -> Listing:
        """Reads a listing, and keeps it. Raises ListingError."""
        upstream = asked.upstream
        try:
            found = listings.read(upstream.kind, upstream.name, document, asked.wanted)
        except ValueError as error:
            raise ListingError(f"its answer is no listing: {error}", final=True) from None
        kept = {"from": _place(upstream), "at": datetime.now(UTC).isoformat(), "listing": document}
        with suppress(OSError):  # a full disk: it is asked again after the next start
            self._folder.mkdir(mode=0o700, exist_ok=True)
            replace(self._file(upstream), orjson.dumps(kept))
        return found

    def _file(self, upstream: Upstream) -> Path:
        return self._folder / f"{upstream.name}.json"

    async def _pass_on(self, spread: Spread) -> None:
        """Tells what changed, once."""
        listed = {name: asked.told for name, asked in self._asked.items() if asked.told}
        if listed != self._listed and self._plan is not None:
            # What is new takes its time: it is made aside, and found again then.
            await asyncio.to_thread(rows, self._plan, listed)
            self._listed = listed
            await spread()


def _asked_by(plan: Plan | None) -> Iterator[tuple[Upstream, tuple[str, ...]]]:
    """The providers that a plan has asked, and the models that it wants to know of: those it names."""
    if plan is None:
        return
    wanted: dict[str, dict[str, None]] = {
        name: {} for name, upstream in plan.upstreams.items() if upstream.listing_ms and upstream.kind in listings.APIS
    }
    for route in plan.routes:
        for target in route.targets:
            name = target.model or route.upstream_model or (route.name if route.prefix is None else None)
            if name is not None and target.provider in wanted:
                wanted[target.provider].setdefault(name)
    for provider, models in wanted.items():
        yield plan.upstreams[provider], tuple(models)


def _manner(upstream: Upstream) -> tuple[Any, ...]:
    """How a provider is asked: where that changes, it is asked at once."""
    return upstream.listing_ms, upstream.api_key, upstream.headers, upstream.tls


def _place(upstream: Upstream) -> tuple[str, ...]:
    """Where a listing is from: that of another place is another."""
    addresses = ",".join(f"{endpoint.host}:{endpoint.port}" for endpoint in upstream.endpoints)
    return upstream.kind, upstream.host, upstream.base_path, addresses
