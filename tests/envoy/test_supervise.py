"""Supervising real processes, a real Envoy first of all."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import orjson
import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2 as bootstrap
from envoy.config.core.v3 import address_pb2 as address
from envoy.extensions.filters.http.router.v3 import router_pb2 as router
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm

from controlplane.runtime import process
from controlplane.runtime.child import Child, Status
from controlplane.runtime.command import envoy_child
from controlplane.runtime.envoy import find_envoy
from controlplane.runtime.envoy_admin import EnvoyAdmin, EnvoyAdminError
from controlplane.runtime.folder import RunFolder, run_folder
from controlplane.runtime.supervise import Supervisor
from controlplane.xds.protos import pack
from tests.support.children import gone, shell, state, until

# What a control plane does, for a test to kill it.
CONTROL_PLANE = """
import asyncio, sys
from pathlib import Path
from controlplane.runtime.command import envoy_child
from controlplane.runtime.envoy import find_envoy
from controlplane.runtime.envoy_admin import EnvoyAdmin
from controlplane.runtime.folder import run_folder
from controlplane.runtime.supervise import Supervisor

async def main():
    folder = run_folder(Path(sys.argv[1]))
    async with EnvoyAdmin(folder.admin_socket) as admin, Supervisor(folder) as supervisor:
        bootstrap = Path(sys.argv[2]).read_bytes()
        await supervisor.start(envoy_child(folder, find_envoy(), bootstrap, admin=admin, workers=1, drain_s=5))
        assert await admin.wait_ready(20)
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@dataclass
class Upstream:
    """A provider that answers ``slow`` when it is told to."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            self.asked.set()
            await self.answer.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")
            await writer.drain()
        writer.close()


@dataclass
class Stage:
    """Where a test plays: a run folder, a bootstrap that serves on a unix socket, a client of it."""

    folder: RunFolder
    admin: EnvoyAdmin
    upstream: Upstream
    state: Path

    @property
    def edge(self) -> str:
        return str(self.folder.path / "edge.sock")

    def bootstrap(self, body: str = "hello") -> bytes:
        made = bootstrap.Bootstrap()
        made.admin.address.pipe.path = self.folder.admin_socket
        manager = hcm.HttpConnectionManager(stat_prefix="edge")
        host = manager.route_config.virtual_hosts.add(name="all", domains=["*"])
        slow = host.routes.add()
        slow.match.prefix = "/slow"
        slow.route.cluster = "slow"
        fast = host.routes.add()
        fast.match.prefix = "/"
        fast.direct_response.status = 200
        fast.direct_response.body.inline_string = body
        manager.http_filters.add(name="envoy.filters.http.router").typed_config.CopyFrom(pack(router.Router()))
        listener = made.static_resources.listeners.add(name="edge", address={"pipe": {"path": self.edge}})
        listener.filter_chains.add().filters.add(name="http", typed_config=pack(manager))
        cluster = made.static_resources.clusters.add(name="slow", connect_timeout={"seconds": 1})
        cluster.load_assignment.cluster_name = "slow"
        provider = address.Address(pipe={"path": str(self.folder.path / "slow.sock")})
        cluster.load_assignment.endpoints.add().lb_endpoints.add().endpoint.address.CopyFrom(provider)
        return made.SerializeToString(deterministic=True)

    def envoy(self, body: str = "hello", drain_s: int = 5) -> Child:
        made = self.bootstrap(body)
        return envoy_child(self.folder, find_envoy(), made, admin=self.admin, workers=1, drain_s=drain_s)

    async def get(self, path: str = "/") -> str:
        transport = httpx.AsyncHTTPTransport(uds=self.edge)
        async with httpx.AsyncClient(transport=transport, base_url="http://edge", timeout=60) as client:
            return (await client.get(path)).text

    @asynccontextmanager
    async def asking(self) -> AsyncGenerator[asyncio.Task[str], None]:
        """A request that has reached the upstream and waits there."""
        request = asyncio.create_task(self.get("/slow"))
        try:
            await asyncio.wait_for(self.upstream.asked.wait(), 5)
            yield request
        finally:
            request.cancel()
            await asyncio.wait([request])


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Stage, None]:
    with tempfile.TemporaryDirectory(prefix="hg-") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        folder, upstream = run_folder(tmp_path), Upstream()
        server = await asyncio.start_unix_server(upstream.serve, folder.path / "slow.sock")
        try:
            async with EnvoyAdmin(folder.admin_socket) as admin:
                yield Stage(folder, admin, upstream, tmp_path)
        finally:
            upstream.answer.set()
            server.close()
            for record in folder.path.glob("*.pid"):  # what a failed test left
                kill(**orjson.loads(record.read_bytes()))


def kill(pid: int, identity: str, **_: object) -> None:
    if process.identity(pid) == identity:
        os.kill(pid, signal.SIGKILL)


async def test_envoy_is_started_and_stopped(stage: Stage) -> None:
    async with Supervisor(stage.folder) as supervisor:
        started = await supervisor.start(stage.envoy())
        assert (started.status, started.adopted, started.restarts) == (Status.RUNNING, False, 0)
        assert await stage.admin.wait_ready(60)
        assert await stage.get() == "hello"
        assert started.pid is not None
        assert os.getsid(started.pid) == started.pid  # the end of our terminal is not its end
        assert await supervisor.start(stage.envoy()) == started  # the same again changes nothing
    assert gone(started.pid)
    assert not stage.folder.record("envoy").exists()
    assert not await stage.admin.ready()


async def test_envoy_outlives_a_killed_control_plane_and_is_adopted(stage: Stage) -> None:
    file = stage.state / "bootstrap.pb"
    file.write_bytes(stage.bootstrap())
    command = [sys.executable, "-c", CONTROL_PLANE, stage.state, file]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as control_plane:  # noqa: ASYNC220 - killed below
        assert control_plane.stdout is not None
        said = control_plane.stdout
        assert await asyncio.to_thread(lambda: b"ready\n" in iter(said.readline, b""))
        control_plane.kill()
    pid = orjson.loads(stage.folder.record("envoy").read_bytes())["pid"]
    assert await stage.get() == "hello"

    async with Supervisor(stage.folder) as supervisor:
        adopted = await supervisor.start(stage.envoy())
        assert (adopted.pid, adopted.adopted, adopted.status) == (pid, True, Status.RUNNING)
        assert await stage.get() == "hello"
    assert gone(pid)


async def test_another_bootstrap_replaces_envoy(stage: Stage) -> None:
    first = Supervisor(stage.folder)
    old = await first.start(stage.envoy("old"))
    assert await stage.admin.wait_ready(60)
    await first.leave()
    async with Supervisor(stage.folder) as supervisor:
        new = await supervisor.start(stage.envoy("new"))
        assert not new.adopted
        assert gone(old.pid)
        assert await stage.admin.wait_ready(60)
        assert await stage.get() == "new"
        newest = await supervisor.start(stage.envoy("newest"))
        assert gone(new.pid)
        assert await stage.admin.wait_ready(60)
        assert (newest.pid, await stage.get()) == (state(supervisor).pid, "newest")


async def test_a_killed_envoy_is_restarted(stage: Stage) -> None:
    async with Supervisor(stage.folder) as supervisor:
        before = await supervisor.start(stage.envoy())
        assert await stage.admin.wait_ready(60)
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
        await until(lambda: state(supervisor).restarts == 1)
        after = state(supervisor)
        assert (after.status, after.last_exit) == (Status.RUNNING, "ended by SIGKILL")
        assert after.pid != before.pid
        assert after.since > before.since
        assert await stage.admin.wait_ready(60)
        assert await stage.get() == "hello"


async def test_a_request_in_flight_may_finish(stage: Stage) -> None:
    async with Supervisor(stage.folder) as supervisor:
        await supervisor.start(stage.envoy(drain_s=4))
        assert await stage.admin.wait_ready(60)
        async with stage.asking() as request:
            await stage.admin.close()  # whoever made it may be gone by then
            stopping = asyncio.create_task(supervisor.stop("envoy"))
            await until(lambda: state(supervisor).status is Status.STOPPING)
            async with asyncio.timeout(60):
                while True:  # new connections are taken a while, then no more
                    try:
                        await stage.get()
                    except httpx.ConnectError:
                        break
                    except (httpx.ReadError, httpx.RemoteProtocolError):
                        pass  # it had not been taken yet when the listener was closed
                    await asyncio.sleep(0.02)
            assert not stopping.done()
            assert not request.done()
            stage.upstream.answer.set()
            assert await request == "slow"
        await asyncio.wait_for(stopping, 60)
        assert supervisor.states() == ()


async def test_the_wait_for_requests_has_an_end(stage: Stage) -> None:
    async with Supervisor(stage.folder) as supervisor:
        started = await supervisor.start(replace(stage.envoy(), drain_s=0.3))
        assert await stage.admin.wait_ready(60)
        async with stage.asking() as request:
            await asyncio.wait_for(supervisor.stop("envoy"), 5)
            with pytest.raises(httpx.HTTPError):
                await request
    assert gone(started.pid)


async def test_cancelling_stops_the_children(stage: Stage) -> None:
    pids: list[int | None] = []

    async def gateway() -> None:
        async with Supervisor(stage.folder) as supervisor:
            await supervisor.start(shell("exec sleep 60"))
            await supervisor.start(stage.envoy())
            pids.extend(child.pid for child in supervisor.states())
            await asyncio.Event().wait()

    task = asyncio.create_task(gateway())
    await until(lambda: len(pids) == 2)
    assert await stage.admin.wait_ready(60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(gone(pid) for pid in pids)


async def test_a_drain_that_fails_does_not_keep_a_process_alive(stage: Stage) -> None:
    async with Supervisor(stage.folder) as supervisor:
        child = Child("quiet", ("/bin/sleep", "60"), drain=stage.admin.drain, drain_s=5)
        started = await supervisor.start(child)
    assert gone(started.pid)


async def test_the_log_holds_no_rejected_configuration(stage: Stage) -> None:
    """Envoy would dump it, secrets and all."""
    made = bootstrap.Bootstrap.FromString(stage.bootstrap())
    made.node.id = made.node.cluster = "x"
    rejected = made.static_resources.listeners.pop()
    rejected.address.pipe.path += "2"
    manager = hcm.HttpConnectionManager()
    manager.route_config.virtual_hosts.add(name="sk-secret")
    rejected.filter_chains[0].filters[0].typed_config.CopyFrom(pack(manager))
    lds = stage.state / "lds.json"
    lds.write_text('{"resources": []}')
    made.dynamic_resources.lds_config.path_config_source.path = str(lds)
    fresh = stage.state / "fresh.json"
    fresh.write_bytes(orjson.dumps({"resources": [_json(rejected)]}))
    child = envoy_child(stage.folder, find_envoy(), made.SerializeToString(), admin=stage.admin, workers=1, drain_s=1)
    async with Supervisor(stage.folder) as supervisor:
        await supervisor.start(child)
        assert await stage.admin.wait_ready(60)
        fresh.replace(lds)
        async with asyncio.timeout(60):
            while not (await stage.admin.stats(r"lds\.update_rejected"))["listener_manager.lds.update_rejected"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert "secret" not in stage.folder.log("envoy").read_text()


def _json(listener: object) -> object:
    from google.protobuf import json_format

    made = json_format.MessageToDict(listener)  # type: ignore[arg-type]
    return {"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", **made}


async def test_the_admin_interface_tells(stage: Stage) -> None:
    assert not await stage.admin.ready()
    assert not await stage.admin.wait_ready(0.1)
    with pytest.raises(EnvoyAdminError, match=r"envoy\.sock does not answer /stats"):
        await stage.admin.stats()
    async with Supervisor(stage.folder) as supervisor:
        await supervisor.start(stage.envoy())
        assert await stage.admin.wait_ready(60)
        await stage.get()
        assert (await stage.admin.stats(r"^http\.edge\.downstream_rq_total$")) == {"http.edge.downstream_rq_total": 1}
        assert (await stage.admin.stats())["server.live"] == 1
        assert "configs" in await stage.admin.config_dump()
