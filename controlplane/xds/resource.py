"""The values that travel over xDS: named, typed, versioned by their content."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_CONFIG = "type.googleapis.com/envoy.config."
CLUSTER = _CONFIG + "cluster.v3.Cluster"
ENDPOINTS = _CONFIG + "endpoint.v3.ClusterLoadAssignment"
LISTENER = _CONFIG + "listener.v3.Listener"
ROUTES = _CONFIG + "route.v3.RouteConfiguration"
EXTENSION = _CONFIG + "core.v3.TypedExtensionConfig"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - the name of a type

# The order in which Envoy must learn of additions so that nothing refers to what is not there yet:
# https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol#eventual-consistency-considerations
TYPES = (CLUSTER, ENDPOINTS, SECRET, LISTENER, EXTENSION, ROUTES)


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource. `body` is its deterministic serialization; `version` is a hash of it.

    `tie` is mixed into the version: endpoints carry their cluster's version there, because a changed
    cluster stays warming until a *new* endpoint response arrives.
    """

    type_url: str
    name: str
    body: bytes = field(repr=False)
    tie: str = ""
    version: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(self.tie.encode() + b"\0" + self.body, digest_size=8).hexdigest()
        object.__setattr__(self, "version", digest)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything an Envoy is told, at one moment: type URL -> name -> resource, and a version per type."""

    resources: Mapping[str, Mapping[str, Resource]]
    versions: Mapping[str, str]
    version: str

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> "Snapshot":
        """Groups resources; raises ValueError when two of one type share a name."""
        grouped: dict[str, dict[str, Resource]] = {type_url: {} for type_url in TYPES}
        for resource in resources:
            if resource.name in grouped[resource.type_url]:
                raise ValueError(f"two resources named {resource.name!r} of type {resource.type_url}")
            grouped[resource.type_url][resource.name] = resource
        frozen = {type_url: MappingProxyType(dict(sorted(named.items()))) for type_url, named in grouped.items()}
        return cls._versioned(frozen, {type_url: _version(named) for type_url, named in frozen.items()})

    def replaced(self, type_url: str, resources: Iterable[Resource]) -> "Snapshot":
        """The same with other resources of one type, by their names; no other type is looked at."""
        named = MappingProxyType({**self.resources[type_url], **{resource.name: resource for resource in resources}})
        versions = {**self.versions, type_url: _version(named)}
        return self._versioned({**self.resources, type_url: named}, versions)

    @classmethod
    def _versioned(cls, resources: Mapping[str, Mapping[str, Resource]], versions: Mapping[str, str]) -> "Snapshot":
        whole = hashlib.blake2b("\0".join(versions[t] for t in TYPES).encode(), digest_size=8).hexdigest()
        return cls(MappingProxyType(dict(resources)), MappingProxyType(dict(versions)), whole)

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        return self.resources.get(type_url, MappingProxyType({}))


def _version(named: Mapping[str, Resource]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(named):
        digest.update(f"{name}\0{named[name].version}\0".encode())
    return digest.hexdigest()


EMPTY = Snapshot.of(())
