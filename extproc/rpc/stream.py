"""One stream of a connection: what may be sent on it, and what may come."""

from typing import TYPE_CHECKING, Protocol

from extproc.rpc import frames

if TYPE_CHECKING:
    from extproc.rpc.connection import Connection

STREAM_WINDOW = 64 << 10  # bytes that a stream may send before somebody has looked at them


class Receiver(Protocol):
    """Who has the stream."""

    def data(self, payload: bytes) -> None:
        """More came, in order; the stream is `ended` with the last of it, which may be empty."""

    def writable(self) -> None:
        """All that was to be sent is gone."""

    def gone(self) -> None:
        """The stream is over before its time; nothing can be sent on it."""


class _Nobody:
    """A stream's receiver until it has one."""

    def data(self, _: bytes) -> None: ...
    def writable(self) -> None: ...
    def gone(self) -> None: ...


_NOBODY = _Nobody()


class Stream:
    """`ended`: the peer sends no more. `window_out`: bytes that the peer takes, `window_in`: those that it may send."""

    __slots__ = ("_connection", "_tail", "_unsent", "ended", "number", "receiver", "window_in", "window_out")

    def __init__(self, connection: "Connection", number: int, window_out: int) -> None:
        self._connection = connection
        self.number = number
        self.receiver: Receiver = _NOBODY
        self.ended = False
        self.window_in = STREAM_WINDOW
        self.window_out = window_out
        self._unsent = b""
        self._tail = b""

    @property
    def blocked(self) -> bool:
        """Whether something waits until the peer takes it."""
        return bool(self._unsent)

    def send(self, payload: bytes, head: bytes = b"", tail: bytes = b"") -> None:
        """Data, after `head`, and before `tail` that ends the stream: blocks of headers. All of it after what waits."""
        if head:
            self._connection.put(frames.frame(frames.HEADERS, frames.END_HEADERS, self.number, head))
        self._unsent, self._tail = self._unsent + payload, tail
        self._push()

    def finish(self, tail: bytes) -> None:
        """Ends it, after what waits."""
        self._tail = tail
        if not self._unsent:
            self._push()

    def pump(self) -> None:
        """Sends more of what waits: windows have grown."""
        self._push()
        if not self._unsent and not self._tail:
            self.receiver.writable()

    def _push(self) -> None:
        """Sends what the windows let pass."""
        connection, unsent, at = self._connection, self._unsent, 0
        while at < len(unsent) and not connection.held:
            size = min(len(unsent) - at, frames.FRAME_SIZE, self.window_out, connection.window_out)
            if size <= 0:
                break
            self.window_out -= size
            connection.window_out -= size
            connection.put(frames.frame(frames.DATA, 0, self.number, unsent[at : at + size]))
            at += size
        self._unsent = unsent[at:]
        if self._unsent:
            connection.blocked(self)
        elif self._tail:
            flags = frames.END_HEADERS | frames.END_STREAM
            connection.put(frames.frame(frames.HEADERS, flags, self.number, self._tail))
            connection.ended(self)

    def let(self, more: int) -> None:
        """The peer may send so many bytes more."""
        self.window_in += more
        self._connection.put(frames.window_update(self.number, more))
