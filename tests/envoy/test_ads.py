"""The ADS server judged by a real Envoy."""

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from envoy.config.cluster.v3 import cluster_pb2 as cluster
from envoy.config.core.v3 import address_pb2 as address
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.config.endpoint.v3 import endpoint_pb2 as endpoint
from envoy.config.listener.v3 import listener_pb2 as listener
from envoy.config.route.v3 import route_pb2 as route
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as header_mutation
from envoy.extensions.filters.http.router.v3 import router_pb2 as router
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from google.protobuf.message import Message

from controlplane.runtime.bootstrap import Node, build_bootstrap
from controlplane.runtime.envoy import find_envoy
from controlplane.xds.names import ads
from controlplane.xds.protos import millis, pack
from controlplane.xds.resource import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, TYPES, Resource, Snapshot
from controlplane.xds.server import AdsServer, NodeView, Verdict

TYPE_PREFIX = "type.googleapis.com/"
PATIENCE_S = 10.0


def resource(type_url: str, name: str, message: Message, tie: str = "") -> Resource:
    return Resource(type_url, name, message.SerializeToString(deterministic=True), tie)


def pipe(path: Path) -> address.Address:
    return address.Address(pipe=address.Pipe(path=str(path)))


def edge_listener(socket: Path) -> Resource:
    """Routes by RDS, the filter "tag" by ECDS."""
    tag = hcm.HttpFilter(name="tag")
    tag.config_discovery.config_source.CopyFrom(ads())
    tag.config_discovery.type_urls.append(TYPE_PREFIX + header_mutation.HeaderMutation.DESCRIPTOR.full_name)
    manager = hcm.HttpConnectionManager(
        stat_prefix="edge",
        rds=hcm.Rds(config_source=ads(), route_config_name="routes"),
        http_filters=[tag, hcm.HttpFilter(name="router", typed_config=pack(router.Router()))],
    )
    made = listener.Listener(name="edge", address=pipe(socket))
    made.filter_chains.add().filters.add(name="http", typed_config=pack(manager))
    return resource(LISTENER, "edge", made)


def tag_filter(tag: str) -> Resource:
    config = header_mutation.HeaderMutation()
    config.mutations.response_mutations.add().append.header.MergeFrom({"key": "x-tag", "value": tag}) if False else None
    config.mutations.response_mutations.add(append={"header": {"key": "x-tag", "value": tag}})
    return resource(EXTENSION, "tag", extension.TypedExtensionConfig(name="tag", typed_config=pack(config)))


def routes_to(name: str) -> Resource:
    made = route.RouteConfiguration(name="routes")
    made.virtual_hosts.add(name="all", domains=["*"]).routes.add(match={"prefix": "/"}, route={"cluster": name})
    return resource(ROUTES, "routes", made)


def provider(name: str, socket: Path, *, connect_timeout: int = 1000, tied: bool = True) -> tuple[Resource, Resource]:
    """A cluster and its endpoints."""
    made = cluster.Cluster(name=name, type=cluster.Cluster.DiscoveryType.EDS, connect_timeout=millis(connect_timeout))
    made.eds_cluster_config.eds_config.CopyFrom(ads())
    assignment = endpoint.ClusterLoadAssignment(cluster_name=name)
    assignment.endpoints.add().lb_endpoints.add().endpoint.address.CopyFrom(pipe(socket))
    described = resource(CLUSTER, name, made)
    return described, resource(ENDPOINTS, name, assignment, tie=described.version if tied else "")


@dataclass
class Edge:
    """A folder with an Envoy, a server that may be replaced, and two providers that answer their names."""

    folder: Path
    server: AdsServer
    client: httpx.AsyncClient

    def configuration(self, *more: Resource, to: str = "one", tag: str = "a", tied: bool = True) -> Snapshot:
        names = {to, "one"} if not more else {to}
        providers = [r for name in sorted(names) for r in provider(name, self.folder / name, tied=tied)]
        replaced = {(r.type_url, r.name) for r in more}
        base = [edge_listener(self.folder / "edge"), tag_filter(tag), routes_to(to), *providers]
        return Snapshot.of([*more, *(r for r in base if (r.type_url, r.name) not in replaced)])

    async def push(self, snapshot: Snapshot) -> None:
        self.server.publish(snapshot)
        outcome = await self.server.wait_acknowledged(snapshot, PATIENCE_S)
        assert outcome.ok, str(outcome)

    async def node(self, check: Callable[[NodeView], bool]) -> NodeView:
        """The connected node, once the check holds."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                seen = self.server.generation
                for node in self.server.nodes():
                    if node.connected and check(node):
                        return node
                await self.server.wait_changed(seen)

    async def asks(self) -> tuple[str, str]:
        """Which provider answers, and the tag on the answer."""
        response = await self.client.get("http://edge/")
        assert response.status_code == 200, response.text
        return response.text, response.headers["x-tag"]


async def eventually[T](attempt: Callable[[], Awaitable[T]]) -> T:
    return await attempt()
