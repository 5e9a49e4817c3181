"""The server on its socket, with gRPC's own client."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from extproc.rpc import frames
from extproc.rpc.call import Answer, CallError, Method, Session, Status
from extproc.rpc.headers import Head
from extproc.rpc.server import Server

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@asynccontextmanager
async def _serving(folder: Path, methods: Mapping[str, Method], most: int = 1000) -> AsyncIterator[tuple[Server, Any]]:
    server = Server(methods, most)
    await server.start(str(folder / "rpc.sock"))
    try:
        async with grpc.aio.insecure_channel(f"unix:{folder}/rpc.sock", options=_UNLIMITED) as channel:
            yield server, channel
    finally:
        await server.stop(0)


def _echo(_: Head) -> Session:
    return Answer


async def test_a_stream_of_messages(tmp_path: Path) -> None:
    async with _serving(tmp_path, {"/a/Echo": _echo}) as (_, channel):
        call = channel.stream_stream("/a/Echo")(timeout=60)
        for number in range(500):
            message = b"%d" % number * 50
            await call.write(message)
            assert await call.read() == message
        await call.done_writing()
        assert await call.read() is _EOF
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("size", [0, 1, 65_531, 65_532, 200_000, 40 << 20])
async def test_messages_of_every_size(tmp_path: Path, size: int) -> None:
    message = os.urandom(1024) * (size // 1024) + bytes(size % 1024)
    async with _serving(tmp_path, {"/a/Echo": _echo}) as (_, channel):
        call = channel.stream_stream("/a/Echo")(timeout=60)
        await call.write(message)
        assert await call.read() == message
        call.cancel()


async def test_many_calls_at_once(tmp_path: Path) -> None:
    async def slow(message: bytes) -> Answer:
        await asyncio.sleep(0)
        return Answer(message, last=True)

    async with _serving(tmp_path, {"/a/Slow": lambda _: slow}) as (_, channel):
        method = channel.unary_unary("/a/Slow")
        texts = [b"%d" % number * (1 + number * 97 % 3000) for number in range(600)]
        assert await asyncio.gather(*(method(text, timeout=60) for text in texts)) == texts


async def test_large_messages_at_once(tmp_path: Path) -> None:
    """More than may be read at once; each comes whole in the end."""
    async with _serving(tmp_path, {"/a/Size": lambda _: lambda message: Answer(b"%d" % len(message), last=True)}) as (
        _,
        channel,
    ):
        method = channel.unary_unary("/a/Size")
        sizes = [100_000 + 1000 * number for number in range(100)]
        answers = await asyncio.gather(*(method(bytes(size), timeout=60) for size in sizes))
        assert answers == [b"%d" % size for size in sizes]


async def test_metadata_is_told_to_the_method(tmp_path: Path) -> None:
    def told(head: Head) -> Session:
        return lambda _: Answer(head.metadata["x-told"].encode(), last=True)

    async with _serving(tmp_path, {"/a/Told": told}) as (_, channel):
        for value in ("short", "long " * 1000 + "!"):
            assert await channel.unary_unary("/a/Told")(b"", metadata=[("x-told", value)], timeout=60) == value.encode()


async def test_statuses(tmp_path: Path) -> None:
    def fails(_: bytes) -> Answer:
        raise CallError(Status.FAILED_PRECONDITION, "50% of ünknown\nreasons")

    async def forever(_: bytes) -> Answer:
        await asyncio.Event().wait()
        return Answer(b"")

    async with _serving(tmp_path, {"/a/Fails": lambda _: fails, "/a/Forever": lambda _: forever}) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/a/Fails")(b"", timeout=60)
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.FAILED_PRECONDITION, "50% of ünknown\nreasons",
        )  # fmt: skip
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/a/None")(b"", timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/a/Forever")(b"", timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_calls_beyond_the_most_are_refused(tmp_path: Path) -> None:
    async with _serving(tmp_path, {"/a/Echo": _echo}, most=3) as (_, channel):
        calls = [channel.stream_stream("/a/Echo")(timeout=60) for _ in range(3)]
        for call in calls:
            await call.write(b"x")
            assert await call.read() == b"x"
        # On another connection, since the client of one knows the limit and waits.
        async with grpc.aio.insecure_channel(
            f"unix:{tmp_path}/rpc.sock", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as other:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await other.unary_unary("/a/Echo")(b"", timeout=60)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            await calls[0].done_writing()
            assert await calls[0].read() is _EOF
            call = other.stream_stream("/a/Echo")(timeout=60)
            await call.write(b"y")
            assert await call.read() == b"y"


async def test_it_stops_in_good_order(tmp_path: Path) -> None:
    async with _serving(tmp_path, {"/a/Echo": _echo}) as (server, channel):
        call = channel.stream_stream("/a/Echo")(timeout=60)
        await call.write(b"before")
        assert await call.read() == b"before"
        stopping = asyncio.create_task(server.stop(60))
        await asyncio.sleep(0)
        await call.write(b"after")
        assert await call.read() == b"after"
        assert not stopping.done()
        await call.done_writing()
        assert await call.read() is _EOF
        await asyncio.wait_for(stopping, 60)


async def test_it_stops_when_the_grace_is_over(tmp_path: Path) -> None:
    async with _serving(tmp_path, {"/a/Echo": _echo}) as (server, channel):
        call = channel.stream_stream("/a/Echo")(timeout=60)
        await call.write(b"x")
        await call.read()
        await asyncio.wait_for(server.stop(0.05), 30)
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()


async def test_only_this_user_may_connect_and_a_left_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "rpc.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with _serving(tmp_path, {"/a/Echo": _echo}) as (_, channel):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        call = channel.stream_stream("/a/Echo")(timeout=60)
        await call.write(b"x")
        assert await call.read() == b"x"


async def test_another_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "rpc.sock"
    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        await Server({}, 1).start(str(path))
    assert path.read_text() == "mine"


async def test_a_client_that_does_not_read_fills_no_memory(tmp_path: Path) -> None:
    """Its pings are answered until the kernel takes no more; then nothing is read from it either."""
    async with _serving(tmp_path, {"/a/Echo": _echo}) as (_, channel):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "rpc.sock"))
        writer.write(frames.PREFACE + frames.settings({}))
        ping = frames.frame(frames.PING, 0, 0, bytes(8)) * 4096
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                for _ in range(1000):  # 70 MB
                    writer.write(ping)
                    await asyncio.wait_for(writer.drain(), 0.5)
        call = channel.stream_stream("/a/Echo")(timeout=60)
        await call.write(b"others go on")
        assert await call.read() == b"others go on"
        writer.transport.abort()
        assert reader is not None
