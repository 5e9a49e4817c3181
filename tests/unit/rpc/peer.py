"""A client of its own make (h2) in front of a connection, without I/O; and one that sends what it likes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings

from extproc.rpc import frames
from extproc.rpc.call import Method, begin
from extproc.rpc.connection import Connection
from extproc.rpc.headers import Head, block
from extproc.rpc.stream import Receiver, Stream
from extproc.rpc.turns import Turns

ECHO = "/echo"
HEADERS = ((":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", ECHO), ("te", "trailers"),
           ("content-type", "application/grpc"))  # fmt: skip


@dataclass
class Owner:
    """What a connection writes, and the calls that it opens."""

    methods: Mapping[str, Method]
    most: int = 100
    turns: Turns = field(default_factory=lambda: Turns(2))
    written: bytearray = field(default_factory=bytearray)
    is_over: bool = False
    calls: int = 0

    def write(self, data: bytes) -> None:
        assert data
        assert not self.is_over
        self.written += data

    def opened(self, stream: Stream, head: Head) -> Receiver | None:
        if self.calls >= self.most:
            return None
        call = begin(stream, head, self.methods, self.turns, self._ended)
        if call is None:
            return stream.receiver
        self.calls += 1
        return call

    def over(self) -> None:
        self.is_over = True

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data

    def _ended(self) -> None:
        self.calls -= 1


@dataclass
class Told:
    """What a call was answered."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    trailers: dict[str, str] = field(default_factory=dict)
    reset: int | None = None

    @property
    def messages(self) -> list[bytes]:
        found, data = [], bytes(self.data)
        while data:
            size = int.from_bytes(data[1:5], "big")
            assert data[0] == 0
            assert len(data) >= size + 5
            found.append(data[5 : 5 + size])
            data = data[5 + size :]
        return found

    @property
    def status(self) -> int | None:
        told = self.trailers.get("grpc-status") or self.headers.get("grpc-status")
        return int(told) if told is not None else None


class Peer:
    """`reads`: data that comes is acknowledged at once, so that windows stay open."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        most: int = 100,
        window: int = 65_535,
        cut: Callable[[bytes], Iterable[bytes]] = lambda data: (data,),
    ) -> None:
        self.owner = Owner(methods, most)
        self.connection = Connection(self.owner, most)
        self.told: dict[int, Told] = {}
        self.reads = True
        self.unread: list[tuple[int, int]] = []
        self.goodbye: int | None = None
        self._cut = cut
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.initiate_connection()
        self.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.turn()

    def call(self, *messages: bytes, headers: Iterable[tuple[str, str]] = HEADERS, ends: bool = True) -> int:
        """Begins a call; its number."""
        number = self.client.get_next_available_stream_id()
        self.told[number] = Told()
        self.client.send_headers(number, list(headers))
        for message in messages:
            self.say(number, message)
        if ends:
            self.client.end_stream(number)
        self.turn()
        return number

    def say(self, number: int, message: bytes) -> None:
        self.send(number, framed(message))

    def send(self, number: int, data: bytes) -> None:
        """Bytes of a call, as far as windows let them, and the rest when they do."""
        while data:
            room = min(self.client.local_flow_control_window(number), self.client.max_outbound_frame_size)
            if not room:
                self.turn()
                assert self.client.local_flow_control_window(number), "the window does not open"
                continue
            self.client.send_data(number, data[:room])
            data = data[room:]

    def end(self, number: int) -> None:
        self.client.end_stream(number)
        self.turn()

    def turn(self) -> None:
        """Carries everything over in both directions, until nothing is left."""
        while True:
            out = self.client.data_to_send()
            for piece in self._cut(out) if out else ():
                self.connection.receive(piece)
            back = self.owner.take()
            if not out and not back:
                return
            for piece in self._cut(back) if back else ():
                for event in self.client.receive_data(piece):
                    self._event(event)

    def read(self) -> None:
        """Acknowledges what was left unread."""
        unread, self.unread = self.unread, []
        for number, size in unread:
            self.client.acknowledge_received_data(size, number)
        self.turn()

    def _event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.told[event.stream_id].headers = {str(name): str(value) for name, value in event.headers}
            case h2.events.TrailersReceived():
                self.told[event.stream_id].trailers = {str(name): str(value) for name, value in event.headers}
            case h2.events.DataReceived():
                self.told[event.stream_id].data += event.data
                self.unread.append((event.stream_id, event.flow_controlled_length))
                if self.reads:
                    for number, size in self.unread:
                        self.client.acknowledge_received_data(size, number)
                    self.unread.clear()
            case h2.events.StreamReset():
                self.told[event.stream_id].reset = int(event.error_code)
            case h2.events.ConnectionTerminated():
                self.goodbye = int(event.error_code or 0)


class Raw:
    """Sends frames as they are, valid or not."""

    def __init__(self, methods: Mapping[str, Method], *, most: int = 100) -> None:
        self.owner = Owner(methods, most)
        self.connection = Connection(self.owner, most)
        self.owner.take()

    def greet(self) -> "Raw":
        self.connection.receive(frames.PREFACE + frames.settings({}) + frames.SETTINGS_ACK)
        self.owner.take()
        return self

    def send(self, *sent: bytes) -> list[tuple[int, int, int, bytes]]:
        """The frames that come back: type, flags, stream, payload."""
        for each in sent:
            self.connection.receive(each)
        return parsed(self.owner.take())

    def begin(self, number: int = 1, flags: int = frames.END_HEADERS) -> bytes:
        # A client that has agreed to keep no table says so in its first block.
        return frames.frame(frames.HEADERS, flags, number, (b"\x20" if number == 1 else b"") + block(*HEADERS))


def framed(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4, "big") + message


def parsed(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        assert len(data) >= size + 9
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found
