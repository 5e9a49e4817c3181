"""The process: its protocol, its settings, how it ends, and that Redis keeps the counts when it is killed."""

import asyncio
import json
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.ratelimit.v3 import rls_pb2 as rls
from envoy.service.ratelimit.v3 import rls_pb2_grpc

from tests.support.limits import LimitService, limit_service
from tests.support.redis import RedisServer

PATIENT_S = 30.0
TOKENS = {"kind": "tokens", "amount": 250, "per_s": 3600, "scope": "fleet", "on_error": "deny"}
NEAR = {"kind": "concurrent", "amount": 2}


@pytest.fixture
def service(shared_redis: RedisServer) -> Iterator[LimitService]:
    """Rules of scope fleet need names that no other test has: the Redis is shared."""
    with (
        tempfile.TemporaryDirectory(prefix="hg-limits-") as folder,
        limit_service(Path(folder), shared_redis.url) as made,
    ):
        yield made


class Client:
    """Asks as Envoy does."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rls_pb2_grpc.RateLimitServiceStub(channel)
        self._health = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
        self.watch = channel.unary_stream("/grpc.health.v1.Health/Watch", bytes, bytes)
        self._counters = channel.unary_unary("/headgate.limits.v1.Counters/Read", bytes, bytes)

    async def ask(self, **entries: str) -> rls.RateLimitResponse:
        request = rls.RateLimitRequest(domain="headgate")
        descriptor = request.descriptors.add()
        for key, value in entries.items():
            descriptor.entries.add(key=key, value=value)
        return await self._stub.ShouldRateLimit(request, timeout=PATIENT_S)

    async def done(self, ticket: str, total: int) -> None:
        request = rls.RateLimitRequest(domain="headgate")
        for what, number in (("status", 200), ("total_tokens", total)):
            descriptor = request.descriptors.add(hits_addend={"value": number})
            descriptor.entries.add(key="ticket", value=ticket)
            descriptor.entries.add(key="count", value=what)
        await self._stub.ShouldRateLimit(request, timeout=PATIENT_S)

    async def health(self) -> bytes:
        return bytes(await self._health(b"", timeout=PATIENT_S))

    async def counters(self) -> dict[str, Any]:
        return dict(json.loads(await self._counters(b"", timeout=PATIENT_S)))


@asynccontextmanager
async def client(service: LimitService) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(f"unix:{service.socket}") as channel:
        yield Client(channel)


def passed(answer: rls.RateLimitResponse) -> bool:
    return bool(answer.overall_code == rls.RateLimitResponse.OK)


def ticket(answer: rls.RateLimitResponse) -> str:
    return str(answer.dynamic_metadata["ticket"])


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENT_S):
        while not what():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)


async def test_a_request_is_counted_and_settled(service: LimitService) -> None:
    service.write({"once": TOKENS, "near": NEAR}, prices={"gpt": {"input": "1", "output": "1"}})
    service.start()
    async with client(service) as envoy:
        assert await envoy.health() == b"\x08\x01"
        sized = {"limit": "once", "who": "alice;once;", "bytes": "300", "cap": "50"}
        first = await envoy.ask(**sized)
        assert {header.key: header.value for header in first.response_headers_to_add} == {
            "x-ratelimit-limit-tokens": "250",
            "x-ratelimit-remaining-tokens": "100",
            "x-ratelimit-reset-tokens": first.response_headers_to_add[2].value,
        }
        assert not passed(await envoy.ask(**sized))
        await envoy.done(ticket(first), 20)
        assert passed(await envoy.ask(**sized))
        assert (await envoy.counters())["passed"] == 2
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await envoy.ask(unheard="of")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_kill_and_start_again_keep_the_counts_of_the_fleet(service: LimitService) -> None:
    service.write({"survivor": TOKENS})
    service.start()
    sized = {"limit": "survivor", "who": "alice", "bytes": "300", "cap": "0"}
    async with client(service) as envoy:
        first, second = await envoy.ask(**sized), await envoy.ask(**sized)
        assert passed(second)
    service.kill()
    service.start()
    async with client(service) as envoy:
        assert not passed(await envoy.ask(**sized))
        # The ticket of a request that began before says all that is to be known.
        await envoy.done(ticket(first), 30)
        third = await envoy.ask(**sized)
        assert passed(third)
        assert third.response_headers_to_add[1].value == str(250 - 100 - 30 - 100)


async def test_settings_change_while_it_runs(service: LimitService) -> None:
    service.write({"near": NEAR})
    service.start()
    async with client(service) as envoy:
        held = [await envoy.ask(limit="near") for _ in range(3)]
        assert [passed(answer) for answer in held] == [True, True, False]
        service.write({"near": NEAR | {"amount": 3}})
        await until(lambda: "limits: new settings" in service.log)
        assert passed(await envoy.ask(limit="near"))
        service.write_text('{"rules": {"near": {"kind": "concurrent", "amount": "many"}}}')
        await until(lambda: "the old ones stay" in service.log)
        assert "rules.near.amount" in service.log
        assert not passed(await envoy.ask(limit="near"))
        service.signal(signal.SIGHUP)
        await until(lambda: service.log.count("the old ones stay") == 2)


async def test_it_drains(service: LimitService) -> None:
    service.write({})
    service.start()
    async with client(service) as envoy:
        watching = aiter(envoy.watch(b""))
        assert await anext(watching) == b"\x08\x01"
        service.signal(signal.SIGTERM)
        assert await anext(watching) == b"\x08\x02"
        assert [each async for each in watching] == []
    assert service.wait() == 0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ('{"rules": []}', "rules: Input should be"),
        ('{"rules": {}, "redis": {"url_env": "NO_SUCH_VARIABLE"}}', "NO_SUCH_VARIABLE is not set"),
        ('{"rules": {}, "redis": {"url_env": "PATH"}}', "PATH holds no URL"),
    ],
)
def test_it_does_not_start_on_settings_that_cannot_be_used(service: LimitService, settings: str, problem: str) -> None:
    service.write_text(settings)
    assert service.launch().wait(PATIENT_S) == 2
    assert problem in service.log
    assert "Traceback" not in service.log
