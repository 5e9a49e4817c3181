"""Counters and records stay exact under load and under clients that leave."""

import asyncio
import json
import resource
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from sidecars.mock.answer import Plain, Stream, Usage
from sidecars.mock.controls import Controls
from sidecars.mock.deliver import Delivery
from sidecars.mock.stats import Stats
from sidecars.mock.wire import Wire
from tests.support.mock import MockProvider

_OPEN_FOR = ("700ms", "3s", "12s")  # between chunks: as long as a machine takes to open so many streams


@pytest.fixture
async def fresh() -> AsyncIterator[MockProvider]:
    async with MockProvider() as started:
        yield started


def request(model: str, **fields: Any) -> bytes:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "one two"}], **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: m\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def row(stats: dict[str, Any], model: str) -> dict[str, Any]:
    found = [one for one in stats["by"] if one["model"] == model]
    assert len(found) == 1, stats["by"]
    return dict(found[0])


async def test_2000_slow_streams_at_once() -> None:
    count, most = 2000, 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for delay in _OPEN_FOR:
        async with MockProvider() as mock:
            most = await _streams(mock, count, f"mock+chunks=4+chunk-delay={delay}")
        if most == count:
            break
    assert most == count


async def _streams(mock: MockProvider, count: int, model: str) -> int:
    """Has so many streams, and checks all that is counted of them; how many were open at once."""
    message = request(model, stream=True)

    async def stream() -> bytes:
        reader, writer = await asyncio.open_unix_connection(mock.socket)
        try:
            writer.write(message)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    streams = [asyncio.create_task(stream()) for _ in range(count)]
    most = 0
    try:
        while most < count and not any(one.done() for one in streams):
            most = max(most, (await asyncio.to_thread(mock.stats))["open_streams"])
        answers = await asyncio.gather(*streams)
    finally:
        for one in streams:
            one.cancel()
    assert {(answer.count(b"data: "), answer.endswith(b"0\r\n\r\n")) for answer in answers} == {(7, True)}
    stats = await asyncio.to_thread(mock.wait_for, lambda stats: stats["open_requests"] == 0)
    assert (stats["requests"], stats["streams"], stats["completed"], stats["aborts"]) == (count, count, count, 0)
    assert stats["tokens"] == {"prompt": 2 * count, "completion": 4 * count}
    return most


async def test_counts_are_exact_when_clients_leave(fresh: MockProvider) -> None:
    """Clients leave while uploading, before the headers, amid a stream, and after the end."""

    async def leave(message: bytes, until: bytes) -> None:
        reader, writer = await asyncio.open_unix_connection(fresh.socket)
        writer.write(message)
        if until:
            await reader.readuntil(until)
        else:
            await writer.drain()
        if until == b"":
            # Not before the mock has the connection, or it may never see the request.
            await asyncio.to_thread(fresh.wait_for, lambda stats: stats["open_requests"] > 0)
        writer.close()
        await writer.wait_closed()

    endless = request("mock+chunks=1000+chunk-delay=20ms", stream=True)
    await asyncio.gather(*(leave(endless, b"You") for _ in range(40)))
    await asyncio.gather(*(leave(request("mock+chunk-delay=1h", stream=True), b"assistant") for _ in range(20)))
    await leave(request("mock+hang=headers"), b"")
    await leave(request("mock+delay=1h"), b"")
    await leave(request("mock-cut-upload")[:-5], b"")
    await asyncio.gather(*(leave(request("mock-done"), b"}}}") for _ in range(30)))
    stats = await asyncio.to_thread(fresh.wait_for, lambda stats: stats["open_requests"] == 0)
    assert stats["open_streams"] == 0
    assert (stats["requests"], stats["streams"], stats["completed"], stats["aborts"], stats["cuts"]) == (
        93,
        60,
        30,
        63,
        0,
    )
    assert row(stats, "mock+chunks=1000+chunk-delay=20ms")["aborts"] == 40
    assert row(stats, "mock+chunk-delay=1h")["aborts"] == 20
    assert (row(stats, "mock+hang=headers")["status"], row(stats, "mock+delay=1h")["status"]) == (0, 200)
    assert row(stats, "")["aborts"] == 1
    # Streams that were left count the prompt and what was sent; answers never begun count nothing.
    assert stats["tokens"]["prompt"] == 2 * (40 + 20 + 30)
    assert 40 + 4 * 30 <= stats["tokens"]["completion"] < 40 * 1000
    assert row(stats, "mock-done")["tokens"] == {"prompt": 2 * 30, "completion": 4 * 30}
    assert row(stats, "mock+chunk-delay=1h")["tokens"] == {"prompt": 2 * 20, "completion": 0}
    assert row(stats, "mock+delay=1h")["tokens"] == {"prompt": 0, "completion": 0}


async def test_a_large_plain_answer_that_is_not_read_is_an_abort(fresh: MockProvider) -> None:
    reader, writer = await asyncio.open_unix_connection(fresh.socket, limit=1024)
    writer.write(request("mock+size=16MiB"))
    await reader.readexactly(10)
    writer.close()
    stats = await asyncio.to_thread(fresh.wait_for, lambda stats: stats["open_requests"] == 0)
    assert (stats["requests"], stats["aborts"], stats["completed"]) == (1, 1, 0)


def test_each_chunk_is_a_write_of_its_own(mock: MockProvider) -> None:
    def reads() -> list[int]:
        """How many chunks each read had."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(60)
            link.connect(mock.socket)
            link.sendall(request("mock+chunks=8+chunk-delay=30ms", stream=True))
            parts = []
            while part := link.recv(1 << 20):
                parts.append(part)
        return [part.count(b'"delta":{"content":"') for part in parts]

    # Who comes late reads what two writes left: the best of some attempts tells how it was written.
    found = next((each for each in (reads() for _ in range(10)) if max(each) == 1), None)
    assert found is not None
    assert sum(found) == 8


class Link(asyncio.Transport):
    """Only whether the connection is closing."""

    closing = False

    def is_closing(self) -> bool:
        return self.closing


async def test_an_answer_whose_last_write_is_resumed_by_a_failure_is_not_completed() -> None:
    sent = []
    started = asyncio.Event()

    async def send(message: Any) -> None:
        sent.append(message["type"])
        started.set()

    transport = Link()
    flow = FlowControl(transport)
    stats = Stats()
    meter = stats.begin()
    meter.answering("m", 200, stream=False)
    delivery = Delivery(Controls(), b"mock", b"req", Wire(transport, flow, set()), send, meter)
    flow.pause_writing()
    task = asyncio.create_task(delivery.plain(Plain(b"x")))
    await started.wait()
    await asyncio.sleep(0)
    transport.closing = True
    flow.resume_writing()
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    meter.end()
    assert sent == ["http.response.start"]
    assert (stats.report()["aborts"], stats.report()["completed"]) == (1, 0)


async def test_chunks_without_a_delay_are_written_in_turns_of_their_own() -> None:
    """uvloop joins what is written in one turn of the loop into one system call."""
    loop = asyncio.get_running_loop()
    turn = 0
    sent_in: list[int] = []
    ticker: asyncio.Handle

    def count() -> None:
        nonlocal turn, ticker
        turn += 1
        ticker = loop.call_soon(count)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent_in.append(turn)

    ticker = loop.call_soon(count)
    try:
        transport = Link()
        wire = Wire(transport, FlowControl(transport), set())
        delivery = Delivery(Controls(), b"mock", b"req", wire, send, Stats().begin())
        await delivery.stream(Stream(b"open", [b"one", b"two", b"three"], 3, b"close", b"", Usage()), 200)
    finally:
        ticker.cancel()
    assert len(sent_in) == len(set(sent_in)) == 5


def test_requests_are_recorded_byte_for_byte(mock: MockProvider, http: httpx.Client) -> None:
    body = b'{"model":  "m", "x": 123456789012345678901234567890,\n "messages": [{"role":"user","content":"\\u00e9"}]}'
    head = b"POST /v1/chat/completions?a=%20b&c HTTP/1.1\r\nHoSt: m\r\nX-Twice: 1\r\nx-twice:2\r\n"
    head += b"Authorization: Bearer k\r\n"
    mock.forget()
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(60)
        link.connect(mock.socket)
        link.sendall(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        while link.recv(1 << 16):
            pass
    (seen,) = mock.requests()
    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/chat/completions?a=%20b&c", body)
    assert seen.headers[:4] == [("HoSt", "m"), ("X-Twice", "1"), ("x-twice", "2"), ("Authorization", "Bearer k")]
    assert seen.header("AUTHORIZATION") == "Bearer k"
    http.get("/health")
    http.get("/v1/models")
    assert [one.path for one in mock.requests()] == ["/v1/chat/completions?a=%20b&c", "/v1/models"]
    assert [one.path for one in mock.requests(last=1)] == ["/v1/models"]
    assert mock.requests(last=0) == []
    mock.forget()
    assert mock.requests() == []
    assert http.get("/mock/requests?last=x").status_code == 400


def test_the_record_is_a_ring() -> None:
    with MockProvider("--record", "3") as small, httpx.Client(base_url=small.base_url) as http:
        for number in range(5):
            http.post("/nowhere", content=str(number))
        assert [one.body for one in small.requests()] == [b"2", b"3", b"4"]


def test_large_uploads_arrive_whole(mock: MockProvider, http: httpx.Client) -> None:
    text = "x" * (8 << 20)
    began = time.perf_counter()
    answer = http.post("/v1/audio/transcriptions", data={"model": "m"}, files={"file": ("a.wav", text.encode())})
    assert answer.json()["text"] == f"Transcribe a.wav, {8 << 20} bytes."
    assert time.perf_counter() - began < 30
    assert len(mock.requests(last=1)[0].body) > 8 << 20
