"""The ADS server judged by a real Envoy."""

import asyncio
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
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
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2 as tls
from google.protobuf.message import Message

from controlplane.runtime.bootstrap import Node, build_bootstrap
from controlplane.runtime.envoy import find_envoy
from controlplane.runtime.judge import in_envoys_words
from controlplane.xds.names import ads
from controlplane.xds.protos import PREFIX, millis, pack
from controlplane.xds.resource import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET, TYPES, Resource, Snapshot
from controlplane.xds.server import AdsServer, NodeView, Verdict

PATIENCE_S = 10.0


def resource(type_url: str, name: str, message: Message, tie: str = "") -> Resource:
    return Resource(type_url, name, message.SerializeToString(deterministic=True), tie)


def pipe(path: Path) -> address.Address:
    return address.Address(pipe=address.Pipe(path=str(path)))


def listening(name: str, socket: Path) -> Resource:
    """A listener with its routes by RDS and the filter "tag" by ECDS."""
    tag = hcm.HttpFilter(name="tag")
    tag.config_discovery.config_source.CopyFrom(ads())
    tag.config_discovery.type_urls.append(PREFIX + header_mutation.HeaderMutation.DESCRIPTOR.full_name)
    manager = hcm.HttpConnectionManager(
        stat_prefix=name,
        rds=hcm.Rds(config_source=ads(), route_config_name="routes"),
        http_filters=[tag, hcm.HttpFilter(name="router", typed_config=pack(router.Router()))],
    )
    made = listener.Listener(name=name, address=pipe(socket))
    made.filter_chains.add().filters.add(name="http", typed_config=pack(manager))
    return resource(LISTENER, name, made)


def broken_listener(socket: Path) -> Resource:
    made = listener.Listener(name="broken", address=pipe(socket))
    made.filter_chains.add().filters.add(name="no.such.filter")
    return resource(LISTENER, "broken", made)


def tagging(tag: str) -> Resource:
    config = header_mutation.HeaderMutation()
    config.mutations.response_mutations.add(append={"header": {"key": "x-tag", "value": tag}})
    return resource(EXTENSION, "tag", extension.TypedExtensionConfig(name="tag", typed_config=pack(config)))


def routed(to: str) -> Resource:
    made = route.RouteConfiguration(name="routes")
    made.virtual_hosts.add(name="all", domains=["*"]).routes.add(match={"prefix": "/"}, route={"cluster": to})
    return resource(ROUTES, "routes", made)


def provider(name: str, socket: Path, connect_ms: int, tied: bool) -> list[Resource]:
    made = cluster.Cluster(name=name, type=cluster.Cluster.DiscoveryType.EDS, connect_timeout=millis(connect_ms))
    made.eds_cluster_config.eds_config.CopyFrom(ads())
    assignment = endpoint.ClusterLoadAssignment(cluster_name=name)
    assignment.endpoints.add().lb_endpoints.add().endpoint.address.CopyFrom(pipe(socket))
    described = resource(CLUSTER, name, made)
    return [described, resource(ENDPOINTS, name, assignment, tie=described.version if tied else "")]


@dataclass
class Edge:
    """A folder with an Envoy, the server that it asks, and two providers that answer with their names."""

    folder: Path
    client: httpx.AsyncClient
    admin: httpx.AsyncClient
    server: AdsServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = AdsServer(f"unix:{self.folder / 'xds'}", redact=in_envoys_words)

    def configuration(
        self, *more: Resource, to: str = "one", tag: str = "a", connect_ms: int = 1000, tied: bool = True
    ) -> Snapshot:
        served = provider(to, self.folder / to, connect_ms, tied)
        return Snapshot.of([*more, listening("edge", self.folder / "edge"), tagging(tag), routed(to), *served])

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

    async def ask(self) -> tuple[str, str]:
        """Which provider answers, and the tag of the answer."""
        response = await self.client.get("http://edge/")
        assert response.status_code == 200, response.text
        return response.text, response.headers["x-tag"]

    async def statistic(self, name: str) -> int:
        answer = await self.admin.get("http://admin/stats", params={"filter": f"^{name}$", "format": "json"})
        return int(answer.json()["stats"][0]["value"])


async def answering(name: str, socket: Path) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() not in (b"", b"\r\n"):
            pass
        writer.write(f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len(name)}\r\n\r\n{name}".encode())
        writer.close()

    return await asyncio.start_unix_server(serve, socket)


@contextmanager
def envoy(folder: Path, delta: bool) -> Iterator[None]:
    node = Node(id="edge-1", xds_socket=str(folder / "xds"), admin_socket=str(folder / "admin"), delta=delta)
    config = folder / "bootstrap.pb"
    config.write_bytes(build_bootstrap(node).SerializeToString(deterministic=True))
    command = [find_envoy(), "-c", config, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.kill()


@asynccontextmanager
async def running(delta: bool = True) -> AsyncIterator[Edge]:
    """An edge on which the configuration with tag "a" is live, to "one"."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hg")))
        for name in ("one", "two"):
            await stack.enter_async_context(await answering(name, folder / name))
        clients = [httpx.AsyncHTTPTransport(uds=str(folder / name)) for name in ("edge", "admin")]
        client, admin = [await stack.enter_async_context(httpx.AsyncClient(transport=each)) for each in clients]
        edge = Edge(folder, client, admin)
        await edge.server.start()
        stack.push_async_callback(lambda: edge.server.stop(0))
        snapshot = edge.configuration()
        edge.server.publish(snapshot)
        stack.enter_context(envoy(folder, delta))
        await edge.node(lambda node: node.in_sync(snapshot, require=[t for t in TYPES if snapshot.of_type(t)]))
        yield edge


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
async def test_every_kind_of_resource_is_served_and_changes_live(delta: bool) -> None:
    async with running(delta) as edge:
        assert await edge.ask() == ("one", "a")
        assert stat.S_IMODE((edge.folder / "xds").stat().st_mode) == 0o600
        (node,) = edge.server.nodes()
        assert (node.id, node.cluster, node.transport) == ("edge-1", "headgate", "delta" if delta else "sotw")
        assert node.build_version.startswith("envoy 1.")
        await edge.push(edge.configuration(tag="b"))
        assert await edge.ask() == ("one", "b")
        await edge.push(edge.configuration(to="two", tag="b"))
        assert await edge.ask() == ("two", "b")
        assert await edge.statistic("cluster_manager.cluster_removed") == 1


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
async def test_a_rejected_listener_is_reported_and_the_last_good_snapshot_goes_on(delta: bool) -> None:
    async with running(delta) as edge:
        good = edge.configuration()
        bad = edge.configuration(broken_listener(edge.folder / "broken"), to="two", tag="b")
        edge.server.publish(bad)
        outcome = await edge.server.wait_acknowledged(bad, PATIENCE_S)
        assert outcome.verdict is Verdict.REJECTED
        (rejection,) = outcome.rejections
        assert (rejection.node, rejection.type_url, rejection.nack.names) == ("edge-1", LISTENER, ("broken",))
        assert "no.such.filter" in rejection.nack.message
        assert await edge.ask() == ("one", "a")
        updates = await edge.statistic("listener_manager.lds.update_rejected")
        await edge.push(good)
        assert await edge.ask() == ("one", "a")
        assert await edge.statistic("listener_manager.lds.update_rejected") == updates == 1
        await edge.push(edge.configuration(to="two", tag="b"))
        assert await edge.ask() == ("two", "b")


async def test_a_cluster_that_cannot_get_warm_is_taken_back() -> None:
    """Envoy acknowledges clusters when they are warm, which this one never is for want of its certificate.

    Only state-of-the-world cannot say that there is no such certificate.
    """
    async with running(delta=False) as edge:
        waiting = cluster.Cluster(name="two", type=cluster.Cluster.DiscoveryType.STATIC)
        context = tls.UpstreamTlsContext()
        context.common_tls_context.tls_certificate_sds_secret_configs.add(name="absent", sds_config=ads())
        waiting.transport_socket.name = "envoy.transport_sockets.tls"
        waiting.transport_socket.typed_config.CopyFrom(pack(context))
        bad = edge.configuration(resource(CLUSTER, "two", waiting), tag="b")
        edge.server.publish(bad)
        await edge.node(lambda node: any(view.type_url == SECRET for view in node.types))
        outcome = await edge.server.wait_acknowledged(bad, 0.2)
        assert (outcome.verdict, outcome.waiting[0].node) == (Verdict.TIMEOUT, "edge-1")
        assert set(outcome.waiting[0].types) == {CLUSTER, EXTENSION}
        assert await edge.ask() == ("one", "a")
        await edge.push(edge.configuration(tag="c"))
        assert await edge.ask() == ("one", "c")
        assert await edge.statistic("cluster_manager.warming_clusters") == 0


async def test_a_new_server_resends_nothing_that_envoy_has() -> None:
    async with running() as edge:
        snapshot = edge.configuration()
        await edge.server.stop(0)
        assert await edge.ask() == ("one", "a")
        edge.server = AdsServer(edge.server.address, redact=in_envoys_words)
        await edge.server.start()
        edge.server.publish(snapshot)
        kinds = [t for t in TYPES if snapshot.of_type(t)]
        node = await edge.node(lambda node: node.in_sync(snapshot, require=kinds))
        assert {view.type_url: view.sent for view in node.types} == dict.fromkeys(kinds)
        await edge.push(edge.configuration(to="two"))
        assert await edge.ask() == ("two", "a")


async def test_envoy_keeps_what_it_has_until_a_new_server_publishes() -> None:
    async with running() as edge:
        await edge.server.stop(0)
        edge.server = AdsServer(edge.server.address, redact=in_envoys_words)
        await edge.server.start()
        await edge.node(lambda node: len(node.types) == 5)
        assert await edge.ask() == ("one", "a")
        await edge.push(edge.configuration(to="two"))
        assert await edge.ask() == ("two", "a")


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
async def test_a_changed_cluster_gets_its_endpoints(delta: bool, tied: bool) -> None:
    async with running(delta) as edge:
        await edge.push(edge.configuration(connect_ms=2000, tied=tied))
        await edge.push(edge.configuration(connect_ms=3000, tied=tied))
        assert await edge.ask() == ("one", "a")
        assert await edge.statistic("cluster_manager.warming_clusters") == 0


async def test_no_request_fails_while_providers_come_and_go() -> None:
    async with running() as edge:
        stop = asyncio.Event()

        async def load() -> int:
            count = 0
            while not stop.is_set():
                await edge.ask()
                count += 1
            return count

        asking = asyncio.create_task(load())
        for turn in range(10):
            await edge.push(edge.configuration(to=("two", "one")[turn % 2], connect_ms=1000 + turn))
        stop.set()
        assert await asking > 10
