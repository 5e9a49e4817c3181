"""One gRPC call on a stream: messages in, an answer for each, a status at the end.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from enum import IntEnum
from typing import NamedTuple
from urllib.parse import quote

import structlog

from extproc.rpc.headers import Head, block
from extproc.rpc.stream import STREAM_WINDOW, Stream
from extproc.rpc.turns import Turns

MOST_MESSAGE = 1 << 30  # bytes
_PREFIX = struct.Struct(">BI")  # compressed or not, length
_HEAD = block((":status", "200"), ("content-type", "application/grpc"))
_log = structlog.get_logger(__name__)


class Status(IntEnum):
    """https://github.com/grpc/grpc/blob/master/doc/statuscodes.md"""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13


class CallError(Exception):
    """A call that ends with a status other than OK. The text goes to the client."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


class Answer(NamedTuple):
    """What a message is answered with. `last`: the call ends with it. `then`: another one follows by itself."""

    message: bytes
    last: bool = False
    then: "Awaitable[Answer] | None" = None


# What is done with each message of a call, in their order: the next one comes when the answer is gone.
Session = Callable[[bytes], Answer | Awaitable[Answer]]


class Served(NamedTuple):
    """A session that has something to do at the end of its call, however it ends."""

    session: Session
    over: Callable[[], None]


# Begins a call; what is wrong with it, its first message is told.
Method = Callable[[Head], Session | Served]


class Call:
    """`over`: called once at the end, however it ends."""

    __slots__ = (
        "_begun", "_held", "_inbox", "_over", "_partial", "_session", "_stream", "_task", "_timer", "_turned", "_turns",
        "_wanted",
    )  # fmt: skip

    def __init__(
        self, stream: Stream, session: Session, turns: Turns, over: Callable[[], None], timeout_s: float | None
    ) -> None:
        self._stream = stream
        self._session = session
        self._turns = turns
        self._over: Callable[[], None] | None = over
        self._partial = bytearray()
        self._inbox: deque[bytes] = deque()
        self._held = 0  # bytes in both
        self._wanted = 0  # size of a message that is larger than the stream's window, until it is answered
        self._turned = False  # it is being answered
        self._begun = False
        self._task: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if timeout_s is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout_s, self._late)

    def data(self, payload: bytes) -> None:
        if self._over is None:
            return  # it has ended; what is left of its answer is still on its way
        size = len(payload)
        self._held += size
        if size >= _PREFIX.size and not self._partial and _PREFIX.unpack_from(payload) == (0, size - _PREFIX.size):
            self._inbox.append(payload[_PREFIX.size :])
        elif size:
            self._partial += payload
            try:
                self._cut()
            except CallError as error:
                self._end(error.status, str(error))
                return
        self._go()

    def writable(self) -> None:
        self._go()

    def gone(self) -> None:
        self._close()

    def granted(self) -> None:
        """There is room for the message that is wanted."""
        more = self._wanted - len(self._partial) - self._stream.window_in
        if more > 0:
            self._stream.let(more)

    def _cut(self) -> None:
        """Takes whole messages out of what came. Raises CallError."""
        partial = self._partial
        while len(partial) >= _PREFIX.size:
            compressed, length = _PREFIX.unpack_from(partial)
            whole = length + _PREFIX.size
            if compressed:
                raise CallError(Status.UNIMPLEMENTED, "compressed messages are not taken")
            if length > MOST_MESSAGE:
                raise CallError(Status.RESOURCE_EXHAUSTED, f"a message of {length} bytes is too large")
            if len(partial) < whole:
                self._want()
                return
            with memoryview(partial) as view:
                self._inbox.append(bytes(view[_PREFIX.size : whole]))
            del partial[:whole]

    def _want(self) -> None:
        """Asks for room for the message that has begun to come, where the stream's window has none."""
        if self._wanted or len(self._partial) < _PREFIX.size:
            return
        whole = _PREFIX.unpack_from(self._partial)[1] + _PREFIX.size
        if whole - len(self._partial) > self._stream.window_in:
            self._wanted = whole
            self._turns.ask(self)

    def _go(self) -> None:
        """Has messages answered, as long as there are some and their answers are taken."""
        while self._over is not None and self._task is None and not self._stream.blocked:
            if not self._inbox:
                if self._stream.ended:
                    self._ended()
                return
            message = self._inbox.popleft()
            try:
                answer = self._session(message)
            except Exception as error:
                self._failed(error)
                return
            whole = len(message) + _PREFIX.size
            self._held -= whole
            self._turned = whole == self._wanted
            if isinstance(answer, Answer):
                self._answered(answer)
            else:
                self._wait(answer)

    def _wait(self, answer: Awaitable[Answer]) -> None:
        self._task = asyncio.ensure_future(answer)
        self._task.add_done_callback(self._waited)

    def _waited(self, task: asyncio.Future[Answer]) -> None:
        self._task = None
        if task.cancelled():
            self._end(Status.CANCELLED, "it was given up")
            return
        error = task.exception()
        if error is None:
            self._answered(task.result())
            self._go()
        elif isinstance(error, Exception):
            self._failed(error)

    def _answered(self, answer: Answer) -> None:
        if self._over is None:
            if isinstance(answer.then, Coroutine):
                answer.then.close()
            return
        if self._turned and answer.then is None:
            self._turned, self._wanted = False, 0
            self._turns.done(self)
        head = b"" if self._begun else _HEAD
        self._begun = True
        message = answer.message
        self._stream.send(_PREFIX.pack(0, len(message)) + message, head, _OK if answer.last else b"")
        if answer.last:
            self._close()
            return
        more = STREAM_WINDOW - self._held - self._stream.window_in
        if more >= STREAM_WINDOW // 2 and not self._stream.ended:
            self._stream.let(more)
        self._want()  # what began to come while another message had the turn
        if answer.then is not None:
            self._wait(answer.then)

    def _ended(self) -> None:
        """The client has nothing more to say."""
        if self._partial:
            self._end(Status.INTERNAL, "a message is cut off")
        else:
            self._end(Status.OK)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, CallError):
            self._end(error.status, str(error))
        elif self._over is not None:
            _log.error("a call failed", exc_info=error)
            self._end(Status.UNKNOWN, "see the log")

    def _late(self) -> None:
        self._end(Status.DEADLINE_EXCEEDED, "the call's time is over")

    def _end(self, status: Status, text: str = "") -> None:
        if self._over is None:
            return
        self._close()
        trailers = _trailers(status, text)
        if self._begun:
            self._stream.finish(trailers)
        else:
            self._stream.finish(_HEAD + trailers)

    def _close(self) -> None:
        over, self._over = self._over, None
        if over is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._turns.done(self)
        self._inbox.clear()
        self._partial.clear()
        over()


def begin(
    stream: Stream, head: Head, methods: Mapping[str, Method], turns: Turns, over: Callable[[], None]
) -> Call | None:
    """A call as its headers say. None: they are of none, and were answered."""
    if head.method != "POST":
        stream.finish(block((":status", "405")))
    elif not head.content_type.startswith("application/grpc"):
        stream.finish(block((":status", "415")))
    elif head.path not in methods:
        stream.finish(_HEAD + _trailers(Status.UNIMPLEMENTED, f"there is no method {head.path[:100]}"))
    elif head.encoding != "identity":
        stream.finish(_HEAD + _trailers(Status.UNIMPLEMENTED, "messages are taken uncompressed"))
    else:
        return _begun(stream, methods[head.path](head), turns, over, head.timeout_s)
    return None


def _begun(
    stream: Stream, made: Session | Served, turns: Turns, over: Callable[[], None], timeout_s: float | None
) -> Call:
    if not isinstance(made, Served):
        return Call(stream, made, turns, over, timeout_s)

    def both() -> None:
        try:
            made.over()
        finally:
            over()

    return Call(stream, made.session, turns, both, timeout_s)


def _trailers(status: Status, text: str = "") -> bytes:
    told = (("grpc-message", quote(text, safe="!#$&'()*+,/:;=?@[]")),) if text else ()
    return block(("grpc-status", str(int(status))), *told)


_OK = _trailers(Status.OK)
