"""A worker's way to the store: one connection, many calls at once, none of which waits for a store that is away."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple

from extproc.cache.frames import Frame, FrameError, Link
from extproc.stages.cache import WAIT_S, Find, Found, Ticket

# A worker that hears nothing for so long goes on without the cache. An embedding takes longer.
_ASK_S, _EMBED_S = 1.0, 3.0
_PAUSE_S, _HUNG_S = 0.2, 1.0  # after a failure to connect, or a call without an answer, in which nobody tries again
_SLACK_S = 1.0  # before Envoy loses its patience


class _Answer(NamedTuple):
    """`later`: where what follows will be, for a call that is to wait."""

    frame: Frame
    later: "asyncio.Future[_Answer | None] | None"


class _Link(Link):
    """One connection. `lost` is called when it has ended."""

    def __init__(self, lost: Callable[["_Link"], None]) -> None:
        super().__init__()
        self._lost = lost
        self.pending: dict[int, asyncio.Future[_Answer | None]] = {}

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except (FrameError, KeyError):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for future in self.pending.values():
            if not future.done():
                future.set_result(None)
        self.pending.clear()
        self._lost(self)

    def expect(self, call: int) -> "asyncio.Future[_Answer | None]":
        future: asyncio.Future[_Answer | None] = asyncio.get_running_loop().create_future()
        self.pending[call] = future
        return future

    def taken(self, frame: Frame) -> None:
        call = frame.head["call"]
        future = self.pending.pop(call, None)
        if future is None or future.done():
            return
        # What follows may be in the very same chunk.
        later = self.expect(call) if frame.head["how"] == "wait" else None
        future.set_result(_Answer(frame, later))


class Seat(Ticket):
    """A call that may store an answer. Safe to use from threads."""

    def __init__(self, client: "Client", link: _Link | None, call: int, rule: str, find: Find) -> None:
        self._client, self._link, self._call = client, link, call
        self._rule, self._find = rule, find
        self._open = True
        self.later: asyncio.Future[_Answer | None] | None = None

    def keep(self, stored: bytes, ttl_s: int) -> None:
        if self._open and self._link is not None:
            self._open = False
            head = {
                "op": "keep", "call": self._call, "rule": self._rule, "key": self._find.key.hex(),
                "shared": self._find.store == "redis", "ttl_s": ttl_s,
            }  # fmt: skip
            self._client.send(self._link, head, stored)

    def leave(self) -> None:
        """There is no answer to store, or none any more. Called again, or after `keep`, it does nothing."""
        if self._open and self._link is not None:
            self._open = False
            self._client.send(self._link, {"op": "leave", "call": self._call})


class Client:
    """Connects with the first call, and again with the first after the connection ended. Belongs to one event loop."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._retry_at = 0.0
        self._calls = count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    async def find(self, rule: str, find: Find) -> Found | None:
        """None: the store does not answer."""
        link = self._link or await self._connected()
        if link is None:
            return None
        seat = Seat(self, link, next(self._calls), rule, find)
        if not find.read:
            return Found(ticket=seat)
        head = {
            "op": "find", "call": seat._call, "rule": rule, "key": find.key.hex(),
            "shared": find.store == "redis", "lead": find.lead,
        }  # fmt: skip
        if find.near is not None:
            near = find.near
            head["near"] = {
                "group": near.compared.group.hex(), "text": near.compared.text, "client": near.client,
                "model": near.how.model, "address": near.how.address, "threshold": near.how.threshold,
            }  # fmt: skip
        future = link.expect(seat._call)
        link.send(head)
        found = await self._answered(link, seat, future, _EMBED_S if find.near else _ASK_S)
        if found is None and self._link is link:  # it hangs: others need not find out, too
            self._link, self._retry_at = None, time.monotonic() + _HUNG_S
            link.close()
        return found

    async def landed(self, seat: Seat) -> Found | None:
        """What came of the request that this one waits for. None: it took too long."""
        if seat._link is None or seat.later is None:
            return None
        return await self._answered(seat._link, seat, seat.later, WAIT_S - _SLACK_S)

    async def told(self, head: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
        """The answer to another call, such as {"op": "show"}; None where there is none."""
        link = self._link or await self._connected()
        if link is None:
            return None
        call = next(self._calls)
        future = link.expect(call)
        link.send({**head, "call": call})
        try:
            async with asyncio.timeout(timeout_s):
                answer = await future
        except TimeoutError:
            return None
        finally:
            link.pending.pop(call, None)
        return None if answer is None else answer.frame.head

    def send(self, link: _Link, head: dict[str, Any], body: bytes = b"") -> None:
        """From any thread."""
        if threading.get_ident() == self._thread:
            link.send(head, body)
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(link.send, head, body)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    async def _answered(
        self, link: _Link, seat: Seat, future: "asyncio.Future[_Answer | None]", wait_s: float
    ) -> Found | None:
        answer = None
        try:
            async with asyncio.timeout(wait_s):
                answer = await future
        except TimeoutError:
            pass
        finally:
            if answer is None:  # also when the client has left
                link.pending.pop(seat._call, None)
                seat.leave()
        return None if answer is None else _found(answer, seat)

    async def _connected(self) -> _Link | None:
        async with self._connecting:
            if self._link is not None or time.monotonic() < self._retry_at:
                return self._link
            loop = self._loop = asyncio.get_running_loop()
            self._thread = threading.get_ident()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_ASK_S):
                    _, self._link = await loop.create_unix_connection(lambda: _Link(self._lost), self._socket)
                return self._link
            self._retry_at = time.monotonic() + _PAUSE_S
            return None

    def _lost(self, link: _Link) -> None:
        if self._link is link:
            self._link = None


def _found(answer: _Answer, seat: Seat) -> Found:
    head, stored = answer.frame
    if head["how"] == "hit":
        return Found(stored, similarity=head.get("similarity"))
    seat.later = answer.later
    return Found(ticket=seat, waits=head["how"] == "wait")
