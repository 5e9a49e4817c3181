"""Takes connections on a unix socket, and ends them in good order."""

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from extproc.rpc.call import Method, begin
from extproc.rpc.connection import Connection
from extproc.rpc.headers import Head
from extproc.rpc.stream import Receiver, Stream
from extproc.rpc.turns import Turns

_BACKLOG = 1024
_BUFFER = 1 << 20  # bytes that wait in the process for the kernel; nothing is read from a client beyond them
_LARGE_AT_ONCE = 32  # messages beyond a stream's window


class Server:
    """Serves methods by their paths. `most_calls`: those beyond are refused at once, and can be tried elsewhere."""

    def __init__(self, methods: Mapping[str, Method], most_calls: int) -> None:
        self._methods = dict(methods)
        self._most = most_calls
        self._turns = Turns(_LARGE_AT_ONCE)
        self._calls = 0
        self._clients: set[_Client] = set()
        self._gone = asyncio.Event()
        self._listening: asyncio.Server | None = None

    async def start(self, path: str) -> None:
        """Raises OSError. Only this user may connect. A socket that somebody has left there is replaced."""
        listening = _bound(Path(path))
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_unix_server(lambda: _Client(self), sock=listening, backlog=_BACKLOG)

    async def stop(self, grace_s: float) -> None:
        """Takes nothing new, lets calls in progress end, and cuts off those that take longer."""
        if self._listening is not None:
            self._listening.close()
        for client in list(self._clients):
            client.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._clients:
                    self._gone.clear()
                    await self._gone.wait()
        for client in list(self._clients):
            client.abort()

    def opened(self, stream: Stream, head: Head) -> Receiver | None:
        """A call begins on a stream of any client."""
        if self._calls >= self._most:
            return None
        call = begin(stream, head, self._methods, self._turns, self._ended)
        if call is None:
            return stream.receiver
        self._calls += 1
        return call

    def came(self, client: "_Client") -> None:
        self._clients.add(client)

    def went(self, client: "_Client") -> None:
        self._clients.discard(client)
        self._gone.set()

    @property
    def most_calls(self) -> int:
        return self._most

    def _ended(self) -> None:
        self._calls -= 1


def _bound(path: Path) -> socket.socket:
    if path.is_socket():
        path.unlink()
    made = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        made.bind(str(path))
    except OSError:
        made.close()
        raise
    finally:
        os.umask(mask)
    return made


class _Client(asyncio.Protocol):
    """One connection."""

    _transport: asyncio.Transport
    _connection: Connection

    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's have their own class
        self._transport.set_write_buffer_limits(_BUFFER)
        self._connection = Connection(self, self._server.most_calls)
        self._server.came(self)

    def data_received(self, data: bytes) -> None:
        self._connection.receive(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._connection.lost()
        self._server.went(self)

    def pause_writing(self) -> None:
        self._connection.hold()
        # Whoever does not read what we say need not be heard: even what is said of itself must end somewhere.
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._connection.release()

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def opened(self, stream: Stream, head: Head) -> Receiver | None:
        return self._server.opened(stream, head)

    def over(self) -> None:
        self._transport.close()

    def drain(self) -> None:
        self._connection.drain()

    def abort(self) -> None:
        self._transport.abort()
