"""The ADS server over real gRPC: addresses, streams, nodes, and what it says about a publication."""

import asyncio
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import h2.connection
import h2.events
import pytest
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as discovery
from structlog.testing import capture_logs

from controlplane.xds.resource import CLUSTER, EMPTY, EXTENSION, LISTENER, Resource, Snapshot
from controlplane.xds.server import AdsAddressError, AdsServer, Verdict, Waiting
from tests.unit.xds_server.ads_client import resource

ONE, TWO = Snapshot.of([resource(CLUSTER, "c", v=1)]), Snapshot.of([resource(CLUSTER, "c", v=2)])
PATIENCE_S = 30.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="hg") as name:
        yield Path(name)


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[AdsServer]:
    made = AdsServer(f"unix:{folder}/xds", redact=lambda words: words.replace("sesame", "[redacted]"))
    await made.start()
    yield made
    await made.stop(0)


class Node:
    """A stream that a test speaks by hand."""

    def __init__(self, call: Any, name: str) -> None:
        self.call, self.name = call, name

    async def ask(self, type_url: str, *names: str, **fields: Any) -> None:
        request = discovery.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names, **fields)
        request.node.id, request.node.cluster = self.name, "tests"
        request.node.user_agent_name, request.node.user_agent_version = "tester", "1.2"
        await self.call.write(request)

    async def hears(self) -> discovery.DeltaDiscoveryResponse:
        async with asyncio.timeout(PATIENCE_S):
            return await self.call.read()

    async def answers(self, response: discovery.DeltaDiscoveryResponse, nack: str = "") -> None:
        error = {"error_detail": {"message": nack}} if nack else {}
        await self.ask(response.type_url, response_nonce=response.nonce, **error)


@asynccontextmanager
async def connected(server: AdsServer, name: str = "n") -> AsyncIterator[Node]:
    unlimited = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(server.address, unlimited) as channel:
        call = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources()
        yield Node(call, name)
        call.cancel()


async def until(server: AdsServer, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        seen = server.generation
        while sum(node.connected for node in server.nodes()) != count:
            seen = await server.wait_changed(seen)


async def test_the_socket_is_private_and_goes_when_the_server_stops(folder: Path) -> None:
    server = AdsServer(f"unix:{folder}/xds", redact=str)
    await server.start()
    assert stat.S_IMODE((folder / "xds").stat().st_mode) == 0o600
    with pytest.raises(AdsAddressError, match="another process serves"):
        await AdsServer(server.address, redact=str).start()
    await server.stop()
    assert not (folder / "xds").exists()


async def test_a_stale_socket_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(folder / "xds"))
    server = AdsServer(f"unix:{folder}/xds", redact=str)
    await server.start()
    await server.stop(0)


async def test_addresses_that_cannot_be_had_are_named(folder: Path) -> None:
    (folder / "file").write_text("kept")
    for path, words in [
        ("file", "another kind of file"),
        ("absent/xds", "does not exist"),
        ("x" * 120, "longer than 107"),
    ]:
        with pytest.raises(AdsAddressError, match=words):
            await AdsServer(f"unix:{folder}/{path}", redact=str).start()
    assert (folder / "file").read_text() == "kept"


async def test_port_zero_names_the_port_that_was_taken() -> None:
    server = AdsServer("127.0.0.1:0", redact=str)
    await server.start()
    try:
        assert int(server.address.removeprefix("127.0.0.1:")) > 0
        with pytest.raises(AdsAddressError, match="in use"):
            await AdsServer(server.address, redact=str).start()
    finally:
        await server.stop(0)


async def test_a_publication_is_acknowledged_by_all_nodes(server: AdsServer) -> None:
    server.publish(ONE)
    assert (await server.wait_acknowledged(ONE, PATIENCE_S)).verdict is Verdict.NO_NODES
    async with connected(server, "a") as a, connected(server, "b") as b:
        for node in (a, b):
            await node.ask(CLUSTER)
            await node.answers(await node.hears())
        await until(server, 2)
        outcome = await server.wait_acknowledged(ONE, PATIENCE_S)
        assert (outcome.ok, sorted(outcome.nodes)) == (True, ["a", "b"])
        assert str(outcome).startswith("acknowledged by")
        server.publish(TWO)
        assert (await server.wait_acknowledged(ONE, PATIENCE_S)).verdict is Verdict.SUPERSEDED
        await a.answers(await a.hears())
        async with asyncio.timeout(PATIENCE_S):
            while len((outcome := await server.wait_acknowledged(TWO, 0.05)).waiting) > 1:  # a's answer is on its way
                pass
        assert (outcome.verdict, outcome.waiting) == (Verdict.TIMEOUT, (Waiting("b", (CLUSTER,)),))
        assert str(outcome) == "no acknowledgement in time from node b (Cluster)"


async def test_a_rejection_ends_the_wait_at_once_and_tells_no_secret(server: AdsServer) -> None:
    server.publish(ONE)
    async with connected(server) as node:
        await node.ask(CLUSTER)
        response = await node.hears()
        waiting = asyncio.create_task(server.wait_acknowledged(ONE, 60))
        with capture_logs() as logs:
            await node.answers(response, nack="c: sesame is no number")
            outcome = await waiting
        assert str(outcome) == "node n rejected Cluster c: c: [redacted] is no number"
        assert "sesame" not in str(logs)
        assert server.nodes()[0].nack == outcome.rejections[0].nack


async def test_types_can_be_required(server: AdsServer) -> None:
    server.publish(ONE)
    async with connected(server) as node:
        await node.ask(CLUSTER)
        await node.answers(await node.hears())
        assert (await server.wait_acknowledged(ONE, PATIENCE_S)).ok
        outcome = await server.wait_acknowledged(ONE, 0.05, require=[LISTENER])
        assert outcome.waiting == (Waiting("n", (LISTENER,)),)
        await node.ask(LISTENER)
        await node.answers(await node.hears())
        assert (await server.wait_acknowledged(ONE, PATIENCE_S, require=[LISTENER])).ok


async def test_nodes_that_left_are_remembered_for_a_while(folder: Path) -> None:
    time = [100.0]
    server = AdsServer(f"unix:{folder}/xds", redact=str, now=lambda: time[0])
    await server.start()
    try:
        server.publish(ONE)
        async with connected(server) as node:
            await node.ask(CLUSTER)
            await node.answers(await node.hears())
            assert (await server.wait_acknowledged(ONE, PATIENCE_S)).ok
            time[0] = 200.0
        await until(server, 0)
        (gone,) = server.nodes()
        assert (gone.id, gone.cluster, gone.build_version, gone.transport) == ("n", "tests", "tester 1.2", "delta")
        assert (gone.connected, gone.connected_since, gone.disconnected_at) == (False, 100.0, 200.0)
        assert gone.types[0].runs(ONE.versions[CLUSTER])
        time[0] = 200.0 + 3601
        assert server.nodes() == ()
    finally:
        await server.stop(0)


async def test_a_stream_must_name_its_node_and_types(server: AdsServer) -> None:
    for name, type_url, words in [("", CLUSTER, "node.id"), ("n", "", "type_url is empty")]:
        async with connected(server, name) as node:
            await node.ask(type_url)
            assert await node.call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert words in await node.call.details()
    await until(server, 0)


async def test_stopping_ends_streams_and_nothing_is_sent_before_a_publication(server: AdsServer) -> None:
    async with connected(server) as node:
        await node.ask(CLUSTER)
        await until(server, 1)
        await server.stop()
        assert await node.hears() is grpc.aio.EOF
        assert await node.call.code() is grpc.StatusCode.OK


async def test_a_quiet_node_that_pings_is_not_cut_off(server: AdsServer) -> None:
    node = h2.connection.H2Connection()
    node.initiate_connection()
    reader, writer = await asyncio.open_unix_connection(server.address.removeprefix("unix:"))
    heard: list[type[h2.events.Event]] = []
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(8):
            node.ping(b"headgate")
            writer.write(node.data_to_send())
        while heard.count(h2.events.PingAckReceived) < 8 and (data := await reader.read(65536)):
            heard += [type(event) for event in node.receive_data(data)]
    writer.close()
    assert heard.count(h2.events.PingAckReceived) == 8
    assert h2.events.ConnectionTerminated not in heard


async def test_large_resources_pass(server: AdsServer) -> None:
    body = bytes(65 << 20)
    server.publish(Snapshot.of([Resource(EXTENSION, "keys", body)]))
    async with connected(server) as node:
        await node.ask(EXTENSION, "keys")
        response = await node.hears()
        assert response.resources[0].resource.value == body


async def test_both_transports_and_several_resources_encode_as_the_protocol_says(server: AdsServer) -> None:
    snapshot = Snapshot.of([resource(CLUSTER, "a"), resource(CLUSTER, "b")])
    server.publish(EMPTY)
    server.publish(snapshot)
    bodies = [r.body for r in snapshot.of_type(CLUSTER).values()]
    async with connected(server) as node, grpc.aio.insecure_channel(server.address) as channel:
        await node.ask(CLUSTER, "*", "missing")
        delta = await node.hears()
        assert [(r.name, r.version, r.resource.type_url) for r in delta.resources] == [
            (r.name, r.version, CLUSTER) for r in snapshot.of_type(CLUSTER).values()
        ]
        assert [r.resource.value for r in delta.resources] == bodies
        assert (list(delta.removed_resources), delta.type_url) == (["missing"], CLUSTER)
        call = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources()
        request = discovery.DiscoveryRequest(type_url=CLUSTER)
        request.node.id = "sotw"
        await call.write(request)
        sotw = await call.read()
        assert [(r.type_url, r.value) for r in sotw.resources] == [(CLUSTER, body) for body in bodies]
        assert sotw.version_info == delta.system_version_info == snapshot.versions[CLUSTER]
        call.cancel()
