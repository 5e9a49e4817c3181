"""The services that announced themselves, as a value: join, heartbeat, leave and expire are functions of it.

Times are seconds of a clock that only has to run evenly: none of them outlives the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from controlplane.discovery import weights
from controlplane.discovery.found import Found
from controlplane.plan.ir import Endpoint

MOST = 1000  # services of one provider
HEARTBEATS = 3  # in the time after which a silent service leaves


class TakenError(Exception):
    """The id is that of a service of another provider."""


class FullError(Exception):
    """The provider has as many services as it may have."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What a service says of itself. `capacity` is how many requests it works on at a time."""

    id: str
    provider: str
    endpoint: Endpoint
    models: tuple[str, ...]
    capabilities: tuple[str, ...]
    capacity: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What a service says in a heartbeat: requests that wait, requests in work."""

    queue: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """`said` is what it announced, with the capacity of its last heartbeat; `queue` is its smoothed queue."""

    said: Announced
    joined: datetime
    heard_s: float
    load: Load = Load()
    queue: float = 0.0
    weight: int = 0

    @property
    def until_s(self) -> float:
        """When it counts as gone, unless it is heard of before."""
        return self.heard_s + self.said.ttl_s

    @property
    def found(self) -> Found:
        said = self.said
        return Found(said.endpoint, self.weight, weights.full(said.capacity), said.models)


@dataclass(frozen=True, slots=True)
class Registry:
    """All services, by their ids."""

    services: Mapping[str, Service] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, provider: str) -> tuple[Service, ...]:
        """A provider's services, by their ids."""
        mine = (service for service in self.services.values() if service.said.provider == provider)
        return tuple(sorted(mine, key=lambda service: service.said.id))


def join(registry: Registry, said: Announced, now_s: float, at: datetime) -> tuple[Registry, tuple[Service, ...]]:
    """Takes a service in, and tells which others are gone with that: those at the same address of the same provider.

    A service that is there already has started anew: what it says now counts.

    Raises:
        TakenError: another provider has a service by this id.
        FullError: the provider has `MOST` services already.
    """
    known = registry.services.get(said.id)
    if known is not None and known.said.provider != said.provider:
        raise TakenError
    others = [service for service in registry.of(said.provider) if service.said.id != said.id]
    gone = tuple(service for service in others if service.said.endpoint == said.endpoint)
    if len(others) - len(gone) >= MOST:
        raise FullError
    joined = known.joined if known is not None and known.said.endpoint == said.endpoint else at
    service = Service(said, joined, now_s, weight=weights.full(said.capacity))
    left = _without(registry, {each.said.id for each in gone})
    return _with(left, service), gone


def heartbeat(registry: Registry, name: str, load: Load, capacity: int | None, now_s: float) -> Registry:
    """Notes that a service is alive, and how busy. Raises KeyError: there is no such service."""
    service = registry.services[name]
    said = service.said if capacity is None else replace(service.said, capacity=capacity)
    queue = weights.smoothed(service.queue, load.queue, said.capacity)
    weight = weights.told(service.weight, said.capacity, queue)
    return _with(registry, replace(service, said=said, heard_s=now_s, load=load, queue=queue, weight=weight))


def leave(registry: Registry, name: str) -> Registry:
    """Raises KeyError: there is no such service."""
    return _without(registry, {registry.services[name].said.id})


def expire(registry: Registry, now_s: float) -> tuple[Registry, tuple[Service, ...]]:
    """Leaves out those that were not heard of in time, and tells which."""
    gone = tuple(service for service in registry.services.values() if service.until_s <= now_s)
    return (_without(registry, {each.said.id for each in gone}) if gone else registry), gone


def next_expiry(registry: Registry) -> float | None:
    return min((service.until_s for service in registry.services.values()), default=None)


def _with(registry: Registry, service: Service) -> Registry:
    return Registry(MappingProxyType({**registry.services, service.said.id: service}))


def _without(registry: Registry, names: set[str]) -> Registry:
    kept = {name: service for name, service in registry.services.items() if name not in names}
    return Registry(MappingProxyType(kept))
