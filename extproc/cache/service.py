"""The store on a unix socket: what workers and the control plane send, and what they are told.

A call has a number of its connection: `find`, `keep` and `leave` of one request have the same. Of a connection that
ends, all calls are left.
"""

import asyncio
import os
from collections.abc import Coroutine, Hashable
from typing import Any, cast

import structlog

from extproc.cache.desk import Desk, Find, Near, Said
from extproc.cache.embeddings import Wanted
from extproc.cache.frames import Frame, FrameError, Link
from extproc.cache.memory import Place

_log = structlog.get_logger(__name__)


class Connection(Link):
    """One worker, or the control plane."""

    def __init__(self, service: "Service") -> None:
        super().__init__()
        self._service = service
        self.calls: set[int] = set()  # that may have to be left

    def taken(self, frame: Frame) -> None:
        self._service.take(self, frame)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._service.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except (FrameError, KeyError, TypeError, ValueError) as error:
            _log.error("a connection is ended", reason=f"{type(error).__name__}: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._service.connections.discard(self)
        for call in tuple(self.calls):
            self._service.desk.leave((self, call))
        self.calls.clear()


class Service:
    """Set `desk` before it is started."""

    desk: Desk

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises OSError when the socket cannot be had. Only this user may connect."""
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(lambda: Connection(self), self.socket)
        finally:
            os.umask(mask)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def tell(self, who: Hashable, said: Said) -> None:
        """What came of a call that waits."""
        connection, call = cast(tuple[Connection, int], who)
        self._say(connection, call, said)

    def take(self, connection: Connection, frame: Frame) -> None:
        """Raises KeyError, TypeError and ValueError for what is no call."""
        head = frame.head
        match head["op"]:
            case "find":
                self._find(connection, head)
            case "keep":
                place = Place(head["rule"], bytes.fromhex(head["key"]))
                who, ttl_s = (connection, head["call"]), head["ttl_s"]
                connection.calls.discard(head["call"])
                if head["shared"]:
                    self._begin(self.desk.keep_shared(who, place, frame.body, ttl_s))
                else:
                    self.desk.keep(who, place, frame.body, ttl_s)
            case "leave":
                connection.calls.discard(head["call"])
                self.desk.leave((connection, head["call"]))
            case "show" | "status" | "clear":
                self._begin(self._about(connection, head))
            case unknown:
                raise ValueError(f"there is no call {unknown!r}")

    def _find(self, connection: Connection, head: dict[str, Any]) -> None:
        find, call = _find(head), head["call"]
        connection.calls.add(call)
        said = self.desk.find_at_once((connection, call), find)
        if said is not None:
            self._say(connection, call, said)
        else:
            self._begin(self._found(connection, call, find))

    async def _found(self, connection: Connection, call: int, find: Find) -> None:
        said = await self.desk.find((connection, call), find)
        if call in connection.calls:
            self._say(connection, call, said)
        else:  # it was left meanwhile, before it led
            self.desk.leave((connection, call))

    async def _about(self, connection: Connection, head: dict[str, Any]) -> None:
        answers = {"show": self.desk.show, "status": self.desk.status}
        op = head["op"]
        found = await (self.desk.clear(head.get("rule")) if op == "clear" else answers[op]())
        connection.send({"call": head["call"], "how": "told", **found})

    def _say(self, connection: Connection, call: int, said: Said) -> None:
        head: dict[str, Any] = {"call": call, "how": said.how}
        if said.similarity is not None:
            head["similarity"] = said.similarity
        if said.how == "hit":
            connection.calls.discard(call)
        connection.send(head, said.stored)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _find(head: dict[str, Any]) -> Find:
    place = Place(head["rule"], bytes.fromhex(head["key"]))
    near = None
    if (told := head.get("near")) is not None:
        wanted = Wanted(told["text"], told["model"], told["address"], told["client"])
        near = Near(bytes.fromhex(told["group"]), wanted, told["threshold"])
    return Find(place, head["shared"], head["lead"], near)
