"""A worker as Envoy and the control plane see it: over gRPC, on its socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from extproc.server import exchange as exchanges
from extproc.server import settings
from extproc.server.counters import Counters
from extproc.server.library import Library
from extproc.server.service import Service
from extproc.server.settings import RuleSpec, Settings, StageSpec

_SERVING, _NOT_SERVING, _UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
_PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


@asynccontextmanager
async def _running(folder: Path) -> AsyncIterator[tuple[Service, Any]]:
    """A service and a channel to it."""
    service = Service(str(folder / "worker.sock"), Library(folder), Counters())
    await service.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{service.socket}") as channel:
            yield service, channel
    finally:
        await service.drain(0)


def _version(folder: Path, *stages: StageSpec) -> str:
    rule = RuleSpec("rule", stages or (StageSpec("safety", {"rules": [{"find": ["email"]}]}),), closed=True)
    document = settings.dump(Settings(1, (rule,)))
    version = settings.version(document)
    (folder / settings.file_name(version)).write_bytes(document)
    return version


def _request(version: str, text: str = "I am ada@example.com", chain: str = "0") -> bytes:
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": text}]})
    message: Any = ext_proc.ProcessingRequest(request_body={"body": body, "end_of_stream": True})
    fields = message.attributes[exchanges.ATTRIBUTES].fields
    fields[exchanges.ROUTE].string_value = settings.route_name(version, chain, streamed=False)
    fields[exchanges.PATH].string_value = "/v1/chat/completions"
    return bytes(message.SerializeToString())


async def _health(channel: Any, version: str = "") -> bytes:
    name = b"\x0a" + bytes([len(version)]) + version.encode() if version else b""
    found: bytes = await channel.unary_unary("/grpc.health.v1.Health/Check")(name, timeout=60)
    return found


async def _asked(channel: Any, request: bytes) -> Any:
    call = channel.stream_stream(_PROCESS)(timeout=60)
    await call.write(request)
    answer = await call.read()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined]
    return ext_proc.ProcessingResponse.FromString(answer)


async def test_its_health_is_that_of_a_version(tmp_path: Path) -> None:
    version = _version(tmp_path)
    broken = b'{"format":1,"rules":[{"name":"a","stages":[{"kind":"none","settings":{}}]}]}'
    (tmp_path / settings.file_name(settings.version(broken))).write_bytes(broken)
    async with _running(tmp_path) as (_, channel):
        assert await _health(channel) == _SERVING
        assert await _health(channel, version) == _SERVING
        assert await _health(channel, "0123456789abcdef") == _UNKNOWN
        assert await _health(channel, settings.version(broken)) == _NOT_SERVING


@pytest.mark.parametrize("words", [1, 60_000])  # a large body goes to a thread
async def test_an_exchange(tmp_path: Path, words: int) -> None:
    version = _version(tmp_path)
    async with _running(tmp_path) as (_, channel):
        answer = await _asked(channel, _request(version, "ada@example.com " * words))
        body = orjson.loads(answer.request_body.response.body_mutation.body)
        assert body["messages"][0]["content"] == "[EMAIL] " * words
        counted = orjson.loads(await channel.unary_unary("/headgate.inline.v1.Counters/Read")(b""))
        assert (counted["requests"], counted["found"]) == (1, {"rule.safety.email": words})


async def test_many_exchanges_at_once_each_keep_their_version(tmp_path: Path) -> None:
    stages = [StageSpec("transform", {"operations": [{"set": {"seed": number}}]}) for number in range(3)]
    versions = [_version(tmp_path, stage) for stage in stages]
    async with _running(tmp_path) as (_, channel):
        answers = await asyncio.gather(*(_asked(channel, _request(versions[number % 3])) for number in range(150)))
    seeds = [orjson.loads(answer.request_body.response.body_mutation.body)["seed"] for answer in answers]
    assert seeds == [number % 3 for number in range(150)]


@pytest.mark.parametrize(
    "request_",
    [_request("0123456789abcdef"), ext_proc.ProcessingRequest(request_body={}).SerializeToString()],
)
async def test_what_cannot_be_served_is_an_error_and_no_silent_end(tmp_path: Path, request_: bytes) -> None:
    async with _running(tmp_path) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _asked(channel, request_)
        assert caught.value.code() is not grpc.StatusCode.OK
        assert await _health(channel) == _SERVING


async def test_a_call_ends_with_its_answer_where_nothing_more_will_come(tmp_path: Path) -> None:
    version = _version(tmp_path, StageSpec("transform", {"operations": [{"set": {"seed": 1}}]}))
    async with _running(tmp_path) as (_, channel):
        call = channel.stream_stream(_PROCESS)(timeout=60)
        await call.write(_request(version))
        assert b'"seed":1' in await call.read()
        assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined]
        assert await call.code() is grpc.StatusCode.OK


async def test_a_header_that_is_no_text_is_refused(tmp_path: Path) -> None:
    request = _request(_version(tmp_path)).replace(b"/v1/chat/completions", b"/v1/chat/completion\xff")
    async with _running(tmp_path) as (_, channel):
        answer = (await _asked(channel, request)).immediate_response
    assert (answer.status.code, orjson.loads(answer.body)["error"]["code"]) == (400, "invalid_header")


async def test_a_chain_that_the_version_lacks_is_an_error(tmp_path: Path) -> None:
    version = _version(tmp_path)
    async with _running(tmp_path) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await _asked(channel, _request(version, chain="7"))


async def test_it_drains(tmp_path: Path) -> None:
    version = _version(tmp_path)
    async with _running(tmp_path) as (service, channel):
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert await watch.read() == _SERVING
        call = channel.stream_stream(_PROCESS)()
        await call.write(_request(version))
        assert await call.read()
        draining = asyncio.create_task(service.drain(10))
        assert await watch.read() == _NOT_SERVING
        answer: Any = ext_proc.ProcessingRequest(
            response_body={"body": b'{"a":"bob@example.com"}', "end_of_stream": True}
        )
        await call.write(answer.SerializeToString())
        assert await call.read()
        await call.done_writing()
        await asyncio.wait_for(draining, 60)


async def test_a_socket_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    service = Service(str(tmp_path / "none" / "worker.sock"), Library(tmp_path), Counters())
    with pytest.raises(OSError, match="folder that exists"):
        await service.start()
