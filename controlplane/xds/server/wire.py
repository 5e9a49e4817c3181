"""Responses as bytes. Each resource is serialized once, however many nodes are told of it.

Serialized messages that follow each other are one message, whose repeated fields have the elements of all of
them (https://protobuf.dev/programming-guides/encoding/#last-one-wins): a response is its head and then, one
by one, responses of a single resource, which can be kept.
"""

from collections.abc import Callable
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2 as discovery
from google.protobuf.any_pb2 import Any as AnyProto

from controlplane.xds.resource import Resource, Snapshot
from controlplane.xds.server.stream import Response

# What is larger is made anew for each node: keeping it would take more than it spares.
_LARGE = 1 << 20
_IDENTIFIER = {"identifier": "headgate"}


class Encoder:
    """Encodes the responses of one transport ("delta" or "sotw")."""

    def __init__(self, transport: str) -> None:
        self._head: Callable[[Response], Any] = _delta_head if transport == "delta" else _sotw_head
        self._frame: Callable[[Resource], Any] = _delta_frame if transport == "delta" else _sotw_frame
        self._frames: dict[tuple[str, str, str], bytes] = {}

    def encode(self, response: Response) -> bytes:
        """The serialized DeltaDiscoveryResponse or DiscoveryResponse."""
        return b"".join((self._head(response).SerializeToString(), *map(self._resource, response.resources)))

    def keep(self, snapshot: Snapshot) -> None:
        """Forgets what is in no snapshot any more."""
        kept = {_key(resource) for named in snapshot.resources.values() for resource in named.values()}
        self._frames = {key: frame for key, frame in self._frames.items() if key in kept}

    def _resource(self, resource: Resource) -> bytes:
        frame = self._frames.get(_key(resource))
        if frame is None:
            frame = self._frame(resource).SerializeToString()
            if len(frame) < _LARGE:
                self._frames[_key(resource)] = frame
        return frame


def _key(resource: Resource) -> tuple[str, str, str]:
    return resource.type_url, resource.name, resource.version


def _any(resource: Resource) -> AnyProto:
    return AnyProto(type_url=resource.type_url, value=resource.body)


def _delta_head(response: Response) -> discovery.DeltaDiscoveryResponse:
    return discovery.DeltaDiscoveryResponse(
        system_version_info=response.version,
        type_url=response.type_url,
        removed_resources=response.removed,
        nonce=response.nonce,
        control_plane=_IDENTIFIER,
    )


def _delta_frame(resource: Resource) -> discovery.DeltaDiscoveryResponse:
    named = discovery.Resource(name=resource.name, version=resource.version, resource=_any(resource))
    return discovery.DeltaDiscoveryResponse(resources=[named])


def _sotw_head(response: Response) -> discovery.DiscoveryResponse:
    return discovery.DiscoveryResponse(
        version_info=response.version, type_url=response.type_url, nonce=response.nonce, control_plane=_IDENTIFIER
    )


def _sotw_frame(resource: Resource) -> discovery.DiscoveryResponse:
    return discovery.DiscoveryResponse(resources=[_any(resource)])
