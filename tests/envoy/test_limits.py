"""Limits behind the rate limit service, judged by a real Envoy: one strict token limit, and an upstream that counts."""

import asyncio
import json
import re
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as lua
from envoy.extensions.filters.http.router.v3 import router_pb2 as router
from google.protobuf import json_format
from google.protobuf.message import Message

from controlplane.plan.limits import Counted, Use
from controlplane.policy.limits import Per, Place
from controlplane.runtime.envoy import find_envoy
from controlplane.xds import fleet, names
from controlplane.xds.protos import PREFIX, pack
from extproc.limits.settings import Kind, Redis, Rule, Settings, Unit, dump
from tests.support.limits import LimitService, limit_service
from tests.support.redis import RedisServer, shared_redis

__all__ = ["shared_redis"]

PATIENCE_S = 15.0
AMOUNT = 3000
CAP = 100
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 240}]}).encode()
RESERVED = -(-len(BODY) // 3) + CAP
HTTP = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
ALICE = {names.CLIENT: "acme/search/alice;standard;", names.MODEL: "m", names.CAP: str(CAP)}

# Stands for the gateway's own script, which leaves the total where `fleet` looks for it.
USAGE = """
function envoy_on_response(handle)
  local body = handle:body()
  local total = body and body:getBytes(0, body:length()):match('"total_tokens": (%d+)')
  if total then handle:streamInfo():dynamicMetadata():set("headgate", "total_tokens", tonumber(total)) end
end
"""
KEYS = Use("standard", Place.KEYS, Per.KEY)
STANDARD = Rule(Kind.TOKENS, AMOUNT, per_s=3600, scope="fleet", on_error="deny")
COUNTED = (Counted(KEYS, STANDARD), Counted(KEYS, Rule(Kind.CONCURRENT, 48, on_error="deny")))
RULES = json.loads(dump(Settings({each.name: each.rule for each in COUNTED}, redis=Redis("UNUSED"))))["rules"]


@dataclass
class Upstream:
    """Answers with a usage of its own choice, never above what was reserved, and knows what it served."""

    served: int = 0
    at_once: int = 0
    most_at_once: int = 0
    requests: int = 0
    status: int = 200
    silent: bool = False
    seen: set[str] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head)
                size = int(length[1]) if length else 0
                await reader.readexactly(size)
                self.seen |= {line.split(b":")[0].decode() for line in head.split(b"\r\n")[1:] if line}
                writer.write(await self.answer(tell=size > 0 and self.status == 200))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, tell: bool) -> bytes:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        usage = {}
        if tell:
            self.requests += 1
            used = self.requests * 37 % (RESERVED + 1) or RESERVED
            self.served += used
            usage = {} if self.silent else {"usage": {"total_tokens": used}}
        body = json.dumps({"object": "chat.completion"} | usage).encode()
        self.at_once -= 1
        return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (self.status, len(body), body)


@dataclass
class Edge:
    folder: Path
    client: httpx.AsyncClient
    limits: LimitService
    upstream: Upstream

    async def ask(self, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", content=BODY, headers=ALICE | (headers or {}))

    async def remaining(self) -> int:
        """Asks for nothing, so that the counter is seen once what came before is settled."""
        answer = await self.client.post("/", content=b"", headers=ALICE | {names.CAP: "0"})
        return int(answer.headers["x-ratelimit-remaining-tokens"])

    async def settled(self, remaining: int) -> None:
        """Waits until that is what remains: Envoy tells of the end of a stream when the client has its answer."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.remaining() != remaining:  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.01)


def typed(message: Message) -> Any:
    return json_format.MessageToDict(pack(message))


def listener(folder: Path, limits: Sequence[Counted]) -> dict[str, Any]:
    error = {
        "error": {
            "code": f"%DYNAMIC_METADATA({fleet.TICKETS}:code)%",
            "limit": f"%DYNAMIC_METADATA({fleet.TICKETS}:refused)%",
        }
    }
    usage = lua.Lua(default_source_code={"inline_string": USAGE})
    filters = [fleet.lower(limits, timeout_ms=5000), fleet.no_counts(limits), usage, router.Router()]
    status = {"comparison": {"op": "EQ", "value": {"defaultValue": 429, "runtimeKey": "none"}}}
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": "upstream"},
        # As the gateway does: what is internal is gone when the stream is done.
        "requestHeadersToRemove": [names.CLIENT, names.MODEL, names.CAP],
    }
    manager = {
        "@type": PREFIX + HTTP,
        "statPrefix": "edge",
        "routeConfig": {"virtualHosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "httpFilters": [{"name": f"f{i}", "typedConfig": typed(each)} for i, each in enumerate(filters)],
        "localReplyConfig": {
            "mappers": [{"filter": {"statusCodeFilter": status}, "bodyFormatOverride": {"jsonFormat": error}}]
        },
    }
    return {
        "name": "edge",
        "address": {"pipe": {"path": str(folder / "edge")}},
        "filterChains": [{"filters": [{"name": "http", "typedConfig": manager}]}],
    }


def cluster(name: str, socket: Path, **more: Any) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
    assignment = {"clusterName": name, "endpoints": [{"lbEndpoints": [endpoint]}]}
    return {"name": name, "type": "STATIC", "connectTimeout": "1s", "loadAssignment": assignment, **more}


def configuration(folder: Path, service: Path, limits: Sequence[Counted] = COUNTED) -> bytes:
    http2 = {"@type": PREFIX + OPTIONS, "explicitHttpConfig": {"http2ProtocolOptions": {}}}
    clusters = [
        cluster("upstream", folder / "upstream"),
        cluster(names.LIMITS_CLUSTER, service, typedExtensionProtocolOptions={OPTIONS: http2}),
    ]
    return json.dumps({"staticResources": {"listeners": [listener(folder, limits)], "clusters": clusters}}).encode()


@pytest.fixture
async def edge(shared_redis: RedisServer) -> AsyncIterator[Edge]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hg")))
        limits = stack.enter_context(limit_service(folder, shared_redis.url))
        with shared_redis.client() as redis:
            redis.flushall()
        limits.write(RULES)
        limits.start()
        upstream = Upstream()
        server = await asyncio.start_unix_server(upstream.serve, folder / "upstream")
        await stack.enter_async_context(server)
        process = stack.enter_context(envoy(folder, limits.socket))
        async with asyncio.timeout(PATIENCE_S):
            while not (folder / "edge").exists():
                assert process.poll() is None, (folder / "log").read_text()
                await asyncio.sleep(0.01)
        pool = httpx.AsyncHTTPTransport(uds=str(folder / "edge"), limits=httpx.Limits(max_connections=64))
        client = httpx.AsyncClient(transport=pool, base_url="http://edge", timeout=PATIENCE_S)
        yield Edge(folder, await stack.enter_async_context(client), limits, upstream)


@contextmanager
def envoy(folder: Path, limits: Path) -> Iterator[subprocess.Popen[bytes]]:
    config = folder / "bootstrap.json"
    config.write_bytes(configuration(folder, limits))
    command = [
        str(find_envoy()),
        "-c",
        str(config),
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "--log-level",
        "warning",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_64_clients_are_never_over_and_never_refused_with_room(edge: Edge) -> None:
    async def client() -> list[httpx.Response]:
        return [await edge.ask() for _ in range(4)]

    answers = [answer for each in await asyncio.gather(*(client() for _ in range(64))) for answer in each]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert edge.upstream.served <= AMOUNT
    assert edge.upstream.most_at_once <= 48
    await edge.settled(AMOUNT - edge.upstream.served)
    while (last := await edge.ask()).status_code == 200:
        await edge.settled(AMOUNT - edge.upstream.served)
    assert AMOUNT - RESERVED < edge.upstream.served <= AMOUNT
    assert last.json() == {"error": {"code": "rate_limit_exceeded", "limit": "standard"}}
    assert int(last.headers["retry-after"]) > 3000
    assert int(last.headers["x-ratelimit-limit-tokens"]) == AMOUNT
    assert not edge.upstream.seen & {names.CLIENT, names.MODEL, names.CAP}
    log = (edge.folder / "log").read_text()
    assert "hits_addend" not in log


async def test_what_was_not_used_is_given_back(edge: Edge) -> None:
    edge.upstream.status = 500
    assert (await edge.ask()).status_code == 500
    await edge.settled(AMOUNT)
    edge.upstream.status, edge.upstream.silent = 200, True
    assert (await edge.ask()).headers["x-ratelimit-remaining-tokens"] == str(AMOUNT - RESERVED)
    # A provider that does not say what it used may have used all of it.
    await edge.settled(AMOUNT - RESERVED)


async def test_others_are_not_counted(edge: Edge) -> None:
    answer = await edge.ask({names.CLIENT: "acme/search/bob"})
    assert (answer.status_code, "x-ratelimit-limit-tokens" in answer.headers) == (200, False)


def test_envoy_takes_every_kind_of_limit(tmp_path: Path) -> None:
    money = Rule(Kind.BUDGET, 10**12, calendar="day", unit=Unit.PICODOLLARS)
    uses = [Use("a.b", place, per, ("x", "y.z"), ("x", "y.z")) for place in Place for per in Per]
    every = [Counted(use, rule) for use in uses for rule in (STANDARD, Rule(Kind.CONCURRENT, 1), money)]
    config = tmp_path / "bootstrap.json"
    config.write_bytes(configuration(tmp_path, tmp_path / "limits", every))
    command = [str(find_envoy()), "-c", str(config), "--mode", "validate", "--log-level", "error"]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert judged.returncode == 0, judged.stderr


async def test_the_service_killed_and_started_again(edge: Edge) -> None:
    assert (await edge.ask()).status_code == 200
    await edge.settled(AMOUNT - edge.upstream.served)
    edge.limits.signal(signal.SIGKILL)
    edge.limits.wait()
    assert (await edge.ask()).status_code == 503
    edge.limits.start()
    async with asyncio.timeout(PATIENCE_S):
        while (await edge.ask()).status_code != 200:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.01)
    await edge.settled(AMOUNT - edge.upstream.served)
