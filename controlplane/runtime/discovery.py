"""Endpoints that come and go: who is registered, what files say, and that nodes and the state folder know it."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import structlog

from controlplane.audit.entry import SYSTEM, Action, Actor, Event
from controlplane.compiling import Compiled
from controlplane.discovery import kept, registry
from controlplane.discovery.found import Found
from controlplane.discovery.registry import Announced, Load, Registry, Service
from controlplane.plan.ir import Endpoint
from controlplane.policy.discovery import ByRegistration, Registration
from controlplane.policy.grammar import Address
from controlplane.policy.language import Policy
from controlplane.runtime.changes import utc_now
from controlplane.runtime.controller import Controller
from controlplane.runtime.listings import Listings, listings
from controlplane.runtime.parts import Alarm, Part, alarm
from controlplane.runtime.watch import changes
from controlplane.xds.overlay import overlay
from controlplane.xds.resource import Snapshot
from controlplane.xds.subsets import lacking

_STATE, _ALARM = "endpoints.json", "endpoints"
_PACE_S = 0.1  # between pushes, however many heartbeats change a weight
_SHOWN = 5  # models, of those that nobody has
_LOOK_S = 1.0  # between looks for services that are silent
_EVERYWHERE_S = 5.0  # for nodes to hear that an endpoint left
_log = structlog.get_logger(__name__)


def registrations(policy: Policy) -> dict[str, Registration]:
    """The providers whose services announce themselves."""
    found = ((name, getattr(provider, "discover", None)) for name, provider in policy.providers.items())
    return {name: each.registered for name, each in found if isinstance(each, ByRegistration)}


class Discovery(Part):
    """Holds the registry and the listings of one gateway. Belongs to the event loop."""

    def __init__(self, base: Path, state: Path, tell: Callable[[Event], Awaitable[None]]) -> None:
        """`base` is the policy's folder, `state` that of its state. `tell` hears of what joins and leaves."""
        self._file, self._tell = state / _STATE, tell
        self._registry, files = _kept(self._file)
        self._listings = Listings(base, files)
        self._live: Compiled | None = None
        self._changed, self._others = asyncio.Event(), asyncio.Event()
        self._saved = b""
        self._trouble = ""

    @property
    def registry(self) -> Registry:
        return self._registry

    async def prepare(self, compiled: Compiled) -> None:
        """Before a policy is pushed: the files that it names are read."""
        before, self._live = self._live, compiled
        names = listings(compiled.policy).values()
        if names:
            await asyncio.to_thread(self._listings.first_look, names)
            self._changed.set()  # what they say is to be kept
        if before is None or set(listings(before.policy).values()) != set(names):
            self._others.set()

    def overlay(self, snapshot: Snapshot, compiled: Compiled) -> Snapshot:
        """The snapshot of a policy with the endpoints that it has now."""
        return overlay(snapshot, compiled.plan, self.found(compiled.policy))

    def found(self, policy: Policy) -> dict[str, tuple[Found, ...]]:
        """The endpoints of each provider that has them discovered."""
        registered = {
            name: tuple(service.found for service in self._registry.of(name)) for name in registrations(policy)
        }
        return registered | {name: self._listings.endpoints(file) for name, file in listings(policy).items()}

    async def join(self, said: Announced, source: str) -> None:
        """Takes a service in. Raises TakenError, FullError."""
        known = self._registry.services.get(said.id)
        self._registry, gone = registry.join(self._registry, said, time.monotonic(), utc_now())
        self._changed.set()
        for service in gone:
            await self._tell(_left(service, Actor("client", said.id, source), "replaced"))
        moved = known is not None and known.said.endpoint != said.endpoint
        if known is not None and moved:
            await self._tell(_left(known, Actor("client", said.id, source), "moved"))
        if known is None or moved:
            await self._tell(_joined(said, source))

    def heartbeat(self, name: str, load: Load, capacity: int | None) -> Service:
        """Raises KeyError: there is no such service."""
        before = self._registry.services[name]
        self._registry = registry.heartbeat(self._registry, name, load, capacity, time.monotonic())
        service = self._registry.services[name]
        if service.found != before.found:
            self._changed.set()
        return service

    async def leave(self, name: str, source: str, controller: Controller) -> bool:
        """Takes a service out; whether every node knows it. Raises KeyError: there is no such service."""
        service = self._registry.services[name]
        self._registry = registry.leave(self._registry, name)
        self._changed.set()
        await self._tell(_left(service, Actor("client", name, source), "left"))
        await controller.spread()
        return await controller.everywhere(_EVERYWHERE_S)

    def tasks(self, controller: Controller) -> tuple[Coroutine[Any, Any, None], ...]:
        """What runs as long as the gateway does."""
        return self._keep_up(controller), self._expire(), self._follow()

    async def _keep_up(self, controller: Controller) -> None:
        """Passes changes on to nodes and into the state folder, for ever; many at once are one push."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await controller.spread()
                await self._save()
                await asyncio.sleep(_PACE_S)
        finally:
            await self._save()

    async def _expire(self) -> None:
        """Takes out services that are not heard of any more, for ever."""
        while True:
            self._registry, gone = registry.expire(self._registry, time.monotonic())
            for service in gone:
                _log.warning(
                    "a service is gone without a word", service=service.said.id, provider=service.said.provider
                )
                await self._tell(_left(service, SYSTEM, "stale"))
            if gone:
                self._changed.set()
            until = registry.next_expiry(self._registry)
            await asyncio.sleep(_LOOK_S if until is None else min(_LOOK_S, max(0.01, until - time.monotonic())))

    async def _follow(self) -> None:
        """Follows edits of the files that the policy names, for ever."""
        while True:
            self._others.clear()
            names = frozenset(listings(self._live.policy).values()) if self._live else frozenset()
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch(names))
                await self._others.wait()
                watching.cancel()

    async def _watch(self, names: frozenset[str]) -> None:
        if not names:
            return
        paths = {self._listings.path(name): name for name in names}
        edits = changes(paths.keys)
        await self._look(names)  # an edit since they were read
        async with aclosing(edits):
            async for changed in edits:
                await self._look(frozenset(paths[path] for path in changed))

    async def _look(self, names: frozenset[str]) -> None:
        for name in sorted(names):
            if not await asyncio.to_thread(self._listings.look, name):
                continue
            self._changed.set()
            details = {"endpoints": len(self._listings.endpoints(name))}
            await self._tell(Event(SYSTEM, Action.ENDPOINTS_LISTED, name, details))

    async def alarms(self) -> list[Alarm]:
        """What the operator should know: providers that nobody serves, files that are wrong, what cannot be kept."""
        if self._live is None:
            return []
        policy = self._live.policy
        found = self._listings.alarms(set(listings(policy).values()))
        lacks = lacking(self._live.plan, self.found(policy))
        for name in registrations(policy):
            if not self._registry.of(name):
                found.append(alarm(_ALARM, f"no service has registered for provider `{name}`"))
                del lacks[name]
        for name, models in lacks.items():
            if models:
                shown = ", ".join(f"`{model}`" for model in models[:_SHOWN]) + (" …" if len(models) > _SHOWN else "")
                found.append(alarm(_ALARM, f"no endpoint of provider `{name}` has {shown}: requests for it fail there"))
        if self._trouble:
            found.append(
                alarm(_ALARM, f"{self._file} cannot be written: {self._trouble}; a restart would forget who is here")
            )
        return found

    def counts(self) -> dict[str, int]:
        """How many endpoints each provider of the live policy has that has them discovered."""
        return {name: len(found) for name, found in self.found(self._live.policy).items()} if self._live else {}

    def rows(self) -> list[dict[str, Any]]:
        """The endpoints that were found, for people: those of the live policy's providers."""
        if self._live is None:
            return []
        policy, now = self._live.policy, time.monotonic()
        registered = [
            _registered(service, now) for name in registrations(policy) for service in self._registry.of(name)
        ]
        listed = [
            _listed(provider, file, found)
            for provider, file in listings(policy).items()
            for found in self._listings.endpoints(file)
        ]
        return registered + listed

    async def _save(self) -> None:
        """Keeps what is to outlive a restart; tried again with the next change."""
        document = kept.dump(self._registry, self._listings.good)
        if document == self._saved:
            return
        try:
            await asyncio.to_thread(_replace, self._file, document)
        except OSError as error:
            self._trouble = error.strerror or type(error).__name__
        else:
            self._saved, self._trouble = document, ""


def _kept(file: Path) -> tuple[Registry, kept.Files]:
    """What an earlier control plane left; services announce themselves again where it is lost."""
    try:
        return kept.read(file.read_bytes(), time.monotonic())
    except FileNotFoundError:
        pass
    except (OSError, kept.KeptError) as error:
        _log.error("what was discovered before is lost", file=str(file), reason=str(error))
    return Registry(), {}


def _replace(file: Path, content: bytes) -> None:
    """Puts a private file in place, whole or not at all."""
    fresh = file.with_name(f".{file.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
        handle.write(content)
    fresh.replace(file)


def _joined(said: Announced, source: str) -> Event:
    details = {"provider": said.provider, "address": _address(said.endpoint), "models": said.models}
    return Event(Actor("client", said.id, source), Action.ENDPOINT_JOINED, said.id, details)


def _left(service: Service, actor: Actor, why: str) -> Event:
    said = service.said
    details = {"provider": said.provider, "address": _address(said.endpoint), "why": why}
    return Event(actor, Action.ENDPOINT_LEFT, said.id, details)


def _registered(service: Service, now_s: float) -> dict[str, Any]:
    said = service.said
    return {
        "provider": said.provider,
        "source": "registered",
        "id": said.id,
        "address": _address(said.endpoint),
        "models": list(said.models),
        "capabilities": list(said.capabilities),
        "capacity": said.capacity,
        "queue": service.load.queue,
        "running": service.load.running,
        "weight": service.weight,
        "joined": service.joined.isoformat(timespec="seconds"),
        "heard_s": round(now_s - service.heard_s, 1),
        "ttl_s": said.ttl_s,
    }


def _listed(provider: str, file: str, found: Found) -> dict[str, Any]:
    unknown = dict.fromkeys(("capacity", "queue", "running", "joined", "heard_s", "ttl_s"))
    row = {"provider": provider, "source": file, "id": "", "address": _address(found.endpoint)}
    return row | {"models": list(found.models), "capabilities": [], "weight": found.weight} | unknown


def _address(endpoint: Endpoint) -> str:
    return str(Address(endpoint.host, endpoint.port))
