"""HTTP/2 as a server speaks it on one connection: frames in, frames out, windows in both directions. No I/O.

What comes is given to `receive`, cut anywhere; what is to be sent is written, all of it at once for all that came.
Each stream has a receiver. A peer that breaks the protocol ends its stream or its connection, and nothing else.
https://www.rfc-editor.org/rfc/rfc9113
"""

from collections.abc import Callable
from typing import Protocol

from extproc.rpc import frames
from extproc.rpc.frames import PeerError, StreamError
from extproc.rpc.headers import Decoder, Head
from extproc.rpc.stream import STREAM_WINDOW, Receiver, Stream

CONNECTION_WINDOW = 16 << 20  # bytes that may be on their way; what streams keep is bounded by their own windows
_MOST_BLOCK, _MOST_PARTS = 64 << 10, 64  # bytes and frames of one header block
_RANGES = {frames.ENABLE_PUSH: range(2), frames.MAX_FRAME_SIZE: range(frames.FRAME_SIZE, 1 << 24)}
_DRAIN_PING = b"headgate"


class Owner(Protocol):
    """Who has the connection."""

    def write(self, data: bytes) -> None:
        """Sends it, at some time."""

    def opened(self, stream: Stream, head: Head) -> Receiver | None:
        """A call begins. None: there is no room for it, and nothing was done."""

    def over(self) -> None:
        """There is nothing left to do on the connection: what was written is all."""


class Connection:
    """One client. `streams`: those that are open, by number."""

    def __init__(self, owner: Owner, most_streams: int) -> None:
        self._owner = owner
        self.streams: dict[int, Stream] = {}
        self.window_out = frames.WINDOW
        self.held = False  # the peer does not read: no DATA until it does
        self._stream_window_out = frames.WINDOW
        self._window_in = CONNECTION_WINDOW
        self._headers = Decoder()
        self._rest = bytearray()
        self._need = len(frames.PREFACE)
        self._greeted = self._settled = self._receiving = False
        # No stream is taken anymore; none is left once those that are open end; nothing is sent or heard anymore.
        self._refusing = self._closing = self._closed = False
        self._last = 0  # the highest stream that the client has opened
        # A header block that is not whole: stream, flags, parts.
        self._block: tuple[int, int, list[bytes]] | None = None
        self._blocked: dict[int, Stream] = {}
        self._handlers: tuple[Callable[[int, int, bytes], None], ...] = (
            self._data, self._head, self._priority, self._reset, self._settings,
            self._push, self._ping, self._goaway, self._window_update, self._continuation,
        )  # fmt: skip
        self._out = [
            frames.settings(
                {
                    frames.HEADER_TABLE_SIZE: 0,
                    frames.MAX_CONCURRENT_STREAMS: most_streams,
                    frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                    frames.MAX_HEADER_LIST_SIZE: _MOST_BLOCK,
                }
            ),
            frames.window_update(0, CONNECTION_WINDOW - frames.WINDOW),
        ]
        self._flush()

    # What the owner says.

    def receive(self, data: bytes) -> None:
        """Bytes from the peer, in the order in which they came."""
        if self._closed:
            return
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return
            data = bytes(self._rest)
        self._receiving = True
        try:
            self._rest = bytearray(data[self._frames(data) :])
        except PeerError as error:
            self._out.append(frames.goaway(self._last, error.code, str(error)))
            self.lost()
            self._finish()
        finally:
            self._receiving = False
            self._flush()

    def lost(self) -> None:
        """The peer is gone."""
        self._closed = True
        gone = list(self.streams.values())
        self.streams.clear()
        self._blocked.clear()
        for stream in gone:
            stream.receiver.gone()

    def hold(self) -> None:
        """The peer does not read."""
        self.held = True

    def release(self) -> None:
        """It reads again."""
        self.held = False
        self._pump()

    def drain(self) -> None:
        """Takes no more streams once the peer knows, lets those in progress end, and is over then."""
        # https://www.rfc-editor.org/rfc/rfc9113#section-6.8: the ping's answer tells what was on its way before.
        self.put(frames.goaway(frames.MOST_STREAM, frames.NO_ERROR))
        self.put(frames.frame(frames.PING, 0, 0, _DRAIN_PING))

    # What streams say.

    def put(self, frame: bytes) -> None:
        """A frame to send, with what else there is to send."""
        self._out.append(frame)
        if not self._receiving:
            self._flush()

    def blocked(self, stream: Stream) -> None:
        """It has something to send and may not yet."""
        self._blocked[stream.number] = stream

    def ended(self, stream: Stream) -> None:
        """All of it was sent."""
        if not stream.ended:
            # Nothing that may still come of it is wanted.
            self.put(frames.reset(stream.number, frames.NO_ERROR))
        self._forget(stream)

    def _flush(self) -> None:
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._owner.write(data)

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.number, None)
        self._blocked.pop(stream.number, None)
        if self._closing:
            self._leave()

    def _pump(self) -> None:
        """Sends what may be sent now; a stream that may send more is behind the others then."""
        for stream in list(self._blocked.values()):
            if self.held or self.window_out <= 0:
                return
            del self._blocked[stream.number]
            stream.pump()

    # What the peer says.

    def _frames(self, data: bytes) -> int:
        """Takes whole frames; where the next one begins."""
        at = 0
        if not self._greeted:
            self._need = len(frames.PREFACE)
            if not data.startswith(frames.PREFACE[: len(data)]):
                raise PeerError(frames.PROTOCOL_ERROR, "this is not HTTP/2")
            if len(data) < self._need:
                return 0
            self._greeted, at = True, self._need
        end = len(data)
        self._need = frames.HEAD_SIZE
        while end - at >= frames.HEAD_SIZE:
            high, low, kind, flags, number = frames.HEAD.unpack_from(data, at)
            size = high << 8 | low
            if size > frames.FRAME_SIZE:
                raise PeerError(frames.FRAME_SIZE_ERROR, "a frame is too large")
            stop = at + frames.HEAD_SIZE + size
            if stop > end:
                self._need = stop - at
                break
            self._frame(kind, flags, number & frames.MOST_STREAM, data[at + frames.HEAD_SIZE : stop])
            if self._closed:
                return end
            at = stop
        return at

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise PeerError(frames.PROTOCOL_ERROR, "a header block is interrupted")
        if not self._settled and kind != frames.SETTINGS:
            raise PeerError(frames.PROTOCOL_ERROR, "settings come first")
        if kind >= len(self._handlers):
            return  # of an extension
        try:
            self._handlers[kind](flags, number, payload)
        except StreamError as error:
            self.put(frames.reset(number, error.code))
            stream = self.streams.get(number)
            if stream is not None:
                self._forget(stream)
                stream.receiver.gone()

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._window_in -= size
        if self._window_in < CONNECTION_WINDOW // 2:
            if self._window_in < 0:
                raise PeerError(frames.FLOW_CONTROL_ERROR, "more than the connection's window")
            self.put(frames.window_update(0, CONNECTION_WINDOW - self._window_in))
            self._window_in = CONNECTION_WINDOW
        stream = self.streams.get(number)
        if stream is None:
            self._known(number)  # it is over: what was on its way
            return
        if stream.ended:
            raise StreamError(frames.STREAM_CLOSED, "data after the end")
        stream.window_in -= size
        if stream.window_in < 0:
            raise StreamError(frames.FLOW_CONTROL_ERROR, "more than the stream's window")
        if flags & frames.PADDED:
            payload = frames.unpadded(flags, payload)
        if flags & frames.END_STREAM:
            stream.ended = True
        stream.receiver.data(payload)

    def _head(self, flags: int, number: int, payload: bytes) -> None:
        if not number % 2:
            raise PeerError(frames.PROTOCOL_ERROR, "a client's streams are odd")
        if flags & (frames.PADDED | frames.HAS_PRIORITY):
            payload = frames.unpadded(flags, payload)
            if flags & frames.HAS_PRIORITY:
                if len(payload) < 5:
                    raise PeerError(frames.FRAME_SIZE_ERROR, "a priority is cut off")
                payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._headed(number, flags, payload)
        else:
            self._block = (number, flags, [payload])

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise PeerError(frames.PROTOCOL_ERROR, "headers continue that did not begin")
        parts = self._block[2]
        parts.append(payload)
        if len(parts) > _MOST_PARTS or sum(map(len, parts)) > _MOST_BLOCK:
            raise PeerError(frames.ENHANCE_YOUR_CALM, "too many headers")
        if flags & frames.END_HEADERS:
            begun, self._block = self._block, None
            self._headed(number, begun[1], b"".join(parts))

    def _headed(self, number: int, flags: int, block: bytes) -> None:
        head = self._headers.head(block)
        if number <= self._last:
            stream = self.streams.get(number)
            if stream is not None:
                self._trailed(stream, flags)
            return
        self._last = number
        if self._refusing:
            return  # the peer knows
        if not head.path:
            raise StreamError(frames.PROTOCOL_ERROR, "headers of no request")
        stream = self.streams[number] = Stream(self, number, self._stream_window_out)
        stream.ended = bool(flags & frames.END_STREAM)
        receiver = self._owner.opened(stream, head)
        if receiver is None:
            raise StreamError(frames.REFUSED_STREAM, "there is no room")
        stream.receiver = receiver
        if stream.ended and number in self.streams:
            receiver.data(b"")

    def _trailed(self, stream: Stream, flags: int) -> None:
        if stream.ended:
            raise StreamError(frames.STREAM_CLOSED, "headers after the end")
        if not flags & frames.END_STREAM:
            raise StreamError(frames.PROTOCOL_ERROR, "trailers that end nothing")
        stream.ended = True
        stream.receiver.data(b"")

    def _priority(self, _: int, number: int, payload: bytes) -> None:
        if not number:
            raise PeerError(frames.PROTOCOL_ERROR, "a priority of no stream")
        if len(payload) != 5:
            raise PeerError(frames.FRAME_SIZE_ERROR, "a priority of a wrong size")

    def _reset(self, _: int, number: int, payload: bytes) -> None:
        frames.number(payload)
        stream = self.streams.get(number)
        if stream is None:
            self._known(number)
            return
        self._forget(stream)
        stream.receiver.gone()

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise PeerError(frames.PROTOCOL_ERROR, "settings of a stream")
        if flags & frames.ACK:
            if payload:
                raise PeerError(frames.FRAME_SIZE_ERROR, "an acknowledgement says something")
            if not self._settled:
                raise PeerError(frames.PROTOCOL_ERROR, "settings come first")
            self._headers.forget()
            return
        self._settled = True
        for name, value in frames.settings_of(payload):
            self._set(name, value)
        self.put(frames.SETTINGS_ACK)
        self._pump()

    def _set(self, name: int, value: int) -> None:
        if name == frames.INITIAL_WINDOW_SIZE:
            if value > frames.MOST_WINDOW:
                raise PeerError(frames.FLOW_CONTROL_ERROR, "a window is too large")
            more, self._stream_window_out = value - self._stream_window_out, value
            for stream in self.streams.values():
                stream.window_out += more
                if stream.window_out > frames.MOST_WINDOW:
                    raise PeerError(frames.FLOW_CONTROL_ERROR, "a window is too large")
        elif name in _RANGES and value not in _RANGES[name]:
            raise PeerError(frames.PROTOCOL_ERROR, "a setting is out of range")

    def _push(self, _: int, __: int, ___: bytes) -> None:
        raise PeerError(frames.PROTOCOL_ERROR, "clients push nothing")

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise PeerError(frames.PROTOCOL_ERROR, "a ping of a stream")
        if len(payload) != 8:
            raise PeerError(frames.FRAME_SIZE_ERROR, "a ping of a wrong size")
        if not flags & frames.ACK:
            self.put(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _DRAIN_PING and not self._refusing:
            self._refusing = self._closing = True
            self.put(frames.goaway(self._last, frames.NO_ERROR))
            self._leave()

    def _goaway(self, _: int, number: int, payload: bytes) -> None:
        if number:
            raise PeerError(frames.PROTOCOL_ERROR, "a stream says good-bye")
        if len(payload) < 8:
            raise PeerError(frames.FRAME_SIZE_ERROR, "a good-bye of a wrong size")
        self._closing = True
        self._leave()

    def _leave(self) -> None:
        if not self.streams and not self._closed:
            self._finish()

    def _finish(self) -> None:
        self._closed = True
        self._flush()
        self._owner.over()

    def _window_update(self, _: int, number: int, payload: bytes) -> None:
        more = frames.number(payload) & frames.MOST_WINDOW
        if number:
            stream = self.streams.get(number)
            if stream is None:
                self._known(number)
                return
            if not more:
                raise StreamError(frames.PROTOCOL_ERROR, "a window grows by nothing")
            stream.window_out += more
            if stream.window_out > frames.MOST_WINDOW:
                raise StreamError(frames.FLOW_CONTROL_ERROR, "a window is too large")
            if number in self._blocked and not self.held and self.window_out > 0:
                del self._blocked[number]
                stream.pump()
            return
        if not more:
            raise PeerError(frames.PROTOCOL_ERROR, "a window grows by nothing")
        self.window_out += more
        if self.window_out > frames.MOST_WINDOW:
            raise PeerError(frames.FLOW_CONTROL_ERROR, "a window is too large")
        self._pump()

    def _known(self, number: int) -> None:
        """A frame of a stream that is over is let pass. Raises PeerError for one that never was."""
        if not number % 2 or number > self._last:
            raise PeerError(frames.PROTOCOL_ERROR, "a frame of no stream")
