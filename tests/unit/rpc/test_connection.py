"""HTTP/2 by itself: a client of another make understands it, and no bytes break it."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.rpc import frames
from extproc.rpc.call import Answer, Session
from extproc.rpc.connection import CONNECTION_WINDOW, Connection
from extproc.rpc.headers import Head, block
from extproc.rpc.stream import STREAM_WINDOW
from tests.unit.rpc.peer import ECHO, HEADERS, Owner, Peer, Raw, framed, parsed

_D, _H, _S, _P, _R, _W = (
    frames.DATA, frames.HEADERS, frames.SETTINGS, frames.PING, frames.RST_STREAM, frames.WINDOW_UPDATE,
)  # fmt: skip
_END, _ALL = frames.END_STREAM, frames.END_HEADERS


def _echo(_: Head) -> Session:
    return lambda message: Answer(message.upper())


_METHODS = {ECHO: _echo}
_frame = frames.frame


@st.composite
def _cuts(draw: st.DrawFn) -> list[int]:
    return draw(st.lists(st.integers(1, 40), min_size=1, max_size=30))


def _cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at, turn = 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        yield data[at : at + size]
        at, turn = at + size, turn + 1


@given(_cuts(), st.lists(st.lists(st.binary(max_size=3000), max_size=4), min_size=1, max_size=6))
@settings(deadline=None)
def test_bytes_may_be_cut_anywhere(sizes: list[int], calls: list[list[bytes]]) -> None:
    peer = Peer(_METHODS, cut=lambda data: _cut(data, sizes))
    numbers = [peer.call(*messages) for messages in calls]
    for number, messages in zip(numbers, calls, strict=True):
        told = peer.told[number]
        assert (told.messages, told.status) == ([message.upper() for message in messages], 0)
    assert not peer.connection.streams


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_calls_may_interleave(data: st.DataObject) -> None:
    """Any frames of several calls in any order that keeps each call's own."""
    texts = data.draw(st.lists(st.binary(min_size=1, max_size=400), min_size=2, max_size=5))
    peer = Peer(_METHODS)
    left: dict[int, bytes] = {}
    for text in texts:
        left[peer.call(ends=False)] = framed(text)
    sent = dict(zip(left, texts, strict=True))
    while left:
        number = data.draw(st.sampled_from(sorted(left)))
        size = data.draw(st.integers(1, len(left[number])))
        peer.send(number, left[number][:size])
        left[number] = left[number][size:]
        if not left[number]:
            del left[number]
            peer.end(number)
    for number, text in sent.items():
        assert (peer.told[number].messages, peer.told[number].status) == ([text.upper()], 0)


@given(st.lists(st.binary(max_size=60_000), min_size=1, max_size=3), st.integers(1, 5000))
@settings(max_examples=25, deadline=None)
def test_a_client_with_a_small_window_gets_everything(texts: list[bytes], window: int) -> None:
    peer = Peer(_METHODS, window=window)
    number = peer.call(*texts)
    assert (peer.told[number].messages, peer.told[number].status) == ([text.upper() for text in texts], 0)


def test_nothing_is_sent_beyond_a_window_and_other_calls_go_on() -> None:
    peer = Peer(_METHODS, window=10_000)
    peer.reads = False
    number = peer.call(b"x" * 30_000)
    assert len(peer.told[number].data) == 10_000
    other = peer.call(b"y" * 5000)
    assert peer.told[other].messages == [b"Y" * 5000]
    peer.reads = True
    peer.read()
    assert peer.told[number].messages == [b"X" * 30_000]
    assert peer.told[number].status == 0


def test_nothing_is_sent_beyond_the_connections_window() -> None:
    peer = Peer(_METHODS, window=1 << 20)
    peer.reads = False
    numbers = [peer.call(b"x" * 40_000) for _ in range(3)]
    assert sum(len(peer.told[number].data) for number in numbers) == frames.WINDOW
    peer.reads = True
    peer.read()
    assert all(peer.told[number].messages == [b"X" * 40_000] for number in numbers)


def test_no_data_for_a_peer_that_does_not_read() -> None:
    peer = Peer(_METHODS)
    peer.connection.hold()
    number = peer.call(b"hello")
    assert peer.told[number].headers[":status"] == "200"
    assert not peer.told[number].data
    peer.connection.release()
    peer.turn()
    assert (peer.told[number].messages, peer.told[number].status) == ([b"HELLO"], 0)


def test_headers_may_come_in_parts() -> None:
    raw = Raw(_METHODS).greet()
    whole = b"\x20" + block(*HEADERS, ("x-long", "y" * 20_000))
    sent = [_frame(_H, _END, 1, whole[:10]), _frame(frames.CONTINUATION, 0, 1, whole[10:15_000])]
    back = raw.send(*sent, _frame(frames.CONTINUATION, _ALL, 1, whole[15_000:]))
    assert [(kind, number) for kind, _, number, _ in back] == [(_H, 1)]


def test_padding_and_priority_are_no_content() -> None:
    raw = Raw(_METHODS).greet()
    head = b"\x03" + bytes(5) + b"\x20" + block(*HEADERS) + bytes(3)
    flags = _ALL | frames.PADDED | frames.HAS_PRIORITY
    back = raw.send(_frame(_H, flags, 1, head), _frame(_D, frames.PADDED, 1, b"\x04" + framed(b"a") + bytes(4)))
    assert [payload for kind, _, _, payload in back if kind == _D] == [framed(b"A")]


def test_a_ping_is_answered_and_extensions_are_let_pass() -> None:
    raw = Raw(_METHODS).greet()
    assert raw.send(_frame(0xFA, 7, 9, b"what"), _frame(_P, 0, 0, b"12345678")) == [(_P, frames.ACK, 0, b"12345678")]


def test_frames_of_a_call_that_is_over_are_let_pass() -> None:
    raw = Raw(_METHODS).greet()
    raw.send(raw.begin(), frames.reset(1, frames.CANCEL))
    late = [_frame(_D, 0, 1, b"late"), frames.window_update(1, 5), frames.reset(1, 8), _frame(_H, _ALL | _END, 1, b"")]
    assert raw.send(*late) == []
    assert not raw.owner.is_over


def test_the_connections_window_is_kept_open() -> None:
    raw = Raw(_METHODS).greet()
    raw.send(raw.begin(), frames.reset(1, frames.CANCEL))
    for _ in range(3 * CONNECTION_WINDOW // frames.FRAME_SIZE):
        raw.send(_frame(_D, 0, 1, bytes(frames.FRAME_SIZE)))
    assert not raw.owner.is_over


def test_windows_follow_the_settings() -> None:
    raw = Raw(_METHODS).greet()
    raw.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 4}))
    back = raw.send(raw.begin(), _frame(_D, 0, 1, framed(b"abc")))
    assert back[-1] == (_D, 0, 1, framed(b"ABC")[:4])
    back = raw.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 6}))
    assert back[-1] == (_D, 0, 1, framed(b"ABC")[4:6])
    # Less than was sent already: nothing, until that much more is let.
    assert raw.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0})) == [(_S, frames.ACK, 0, b"")]
    assert raw.send(frames.window_update(1, 6)) == []
    assert raw.send(frames.window_update(1, 1)) == [(_D, 0, 1, b"B")]


_SETTINGS = frames.settings({})
_LARGE_WINDOW = frames.window_update(0, frames.MOST_WINDOW)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\n", frames.PROTOCOL_ERROR),
        (frames.PREFACE + _frame(_P, 0, 0, bytes(8)), frames.PROTOCOL_ERROR),
        (frames.PREFACE + frames.SETTINGS_ACK, frames.PROTOCOL_ERROR),
    ],
)
def test_what_does_not_begin_as_http2_is_told_so(sent: bytes, code: int) -> None:
    raw = Raw(_METHODS)
    _is_goodbye(raw, raw.send(sent), code)


_LONG = [_frame(frames.CONTINUATION, 0, 1, bytes(frames.FRAME_SIZE))] * 5
_OPEN = Raw(_METHODS).begin()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([b"\x00\x40\x01" + bytes(6)], frames.FRAME_SIZE_ERROR),
        ([_frame(_S, 0, 1)], frames.PROTOCOL_ERROR),
        ([_frame(_S, 0, 0, bytes(5))], frames.FRAME_SIZE_ERROR),
        ([_frame(_S, frames.ACK, 0, bytes(6))], frames.FRAME_SIZE_ERROR),
        ([frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 31})], frames.FLOW_CONTROL_ERROR),
        ([frames.settings({frames.MAX_FRAME_SIZE: 100})], frames.PROTOCOL_ERROR),
        ([frames.settings({frames.ENABLE_PUSH: 2})], frames.PROTOCOL_ERROR),
        ([_frame(_D, 0, 0, b"x")], frames.PROTOCOL_ERROR),
        ([_frame(_D, 0, 1, b"x")], frames.PROTOCOL_ERROR),
        ([_OPEN, _frame(_D, frames.PADDED, 1, b"\x05x")], frames.PROTOCOL_ERROR),
        ([_frame(_H, _ALL, 0, b"")], frames.PROTOCOL_ERROR),
        ([_frame(_H, _ALL, 2, b"")], frames.PROTOCOL_ERROR),
        ([_frame(_H, _ALL, 1, b"\xff\xff\xff")], frames.COMPRESSION_ERROR),
        ([_frame(_H, _ALL, 1, b"\x20\x00\x05ab")], frames.COMPRESSION_ERROR),
        ([_frame(_H, _ALL, 1, b"\x20" + block(("x", "y" * 40_000))[:16_000])], frames.COMPRESSION_ERROR),
        ([_frame(_H, _ALL | frames.HAS_PRIORITY, 1, b"abc")], frames.FRAME_SIZE_ERROR),
        ([_frame(_H, 0, 1, b""), _frame(_P, 0, 0, bytes(8))], frames.PROTOCOL_ERROR),
        ([_frame(_H, 0, 1, b""), _frame(frames.CONTINUATION, _ALL, 3, b"")], frames.PROTOCOL_ERROR),
        ([_frame(frames.CONTINUATION, _ALL, 1, b"")], frames.PROTOCOL_ERROR),
        ([_frame(_H, 0, 1, b""), *_LONG], frames.ENHANCE_YOUR_CALM),
        ([_frame(_H, 0, 1, b""), *[_frame(frames.CONTINUATION, 0, 1)] * 100], frames.ENHANCE_YOUR_CALM),
        ([_frame(frames.PRIORITY, 0, 0, bytes(5))], frames.PROTOCOL_ERROR),
        ([_OPEN, _frame(frames.PRIORITY, 0, 1, bytes(4))], frames.FRAME_SIZE_ERROR),
        ([frames.reset(1, 8)], frames.PROTOCOL_ERROR),
        ([_OPEN, _frame(_R, 0, 1, b"abc")], frames.FRAME_SIZE_ERROR),
        ([_frame(frames.PUSH_PROMISE, _ALL, 1, bytes(4))], frames.PROTOCOL_ERROR),
        ([_frame(_P, 0, 1, bytes(8))], frames.PROTOCOL_ERROR),
        ([_frame(_P, 0, 0, bytes(7))], frames.FRAME_SIZE_ERROR),
        ([_frame(frames.GOAWAY, 0, 1, bytes(8))], frames.PROTOCOL_ERROR),
        ([_frame(frames.GOAWAY, 0, 0, bytes(4))], frames.FRAME_SIZE_ERROR),
        ([frames.window_update(0, 0)], frames.PROTOCOL_ERROR),
        ([_LARGE_WINDOW], frames.FLOW_CONTROL_ERROR),
        ([frames.window_update(1, 1)], frames.PROTOCOL_ERROR),
        ([_frame(_W, 0, 0, b"abc")], frames.FRAME_SIZE_ERROR),
        ([_OPEN, frames.settings({frames.INITIAL_WINDOW_SIZE: 0}), frames.window_update(1, frames.MOST_WINDOW),
          frames.settings({frames.INITIAL_WINDOW_SIZE: 1})], frames.FLOW_CONTROL_ERROR),
    ],
)  # fmt: skip
def test_a_peer_that_breaks_the_protocol_loses_its_connection(sent: list[bytes], code: int) -> None:
    raw = Raw(_METHODS).greet()
    _is_goodbye(raw, raw.send(*sent), code)
    assert raw.owner.calls == 0
    assert raw.send(_OPEN) == []


def _is_goodbye(raw: Raw, back: list[tuple[int, int, int, bytes]], code: int) -> None:
    kind, _, number, payload = back[-1]
    assert (kind, number, int.from_bytes(payload[4:8], "big")) == (frames.GOAWAY, 0, code)
    assert raw.owner.is_over
    assert not raw.connection.streams


_TOO_MUCH = [_frame(_D, 0, 1, b"\x00\x7f" + bytes(frames.FRAME_SIZE - 2))] * (STREAM_WINDOW // frames.FRAME_SIZE)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([_OPEN, frames.window_update(1, 0)], frames.PROTOCOL_ERROR),
        ([_OPEN, frames.window_update(1, frames.MOST_WINDOW)], frames.FLOW_CONTROL_ERROR),
        ([_OPEN, _frame(_H, _ALL, 1, b"")], frames.PROTOCOL_ERROR),
        ([_frame(_H, _ALL, 1, b"\x20" + block((":method", "POST")))], frames.PROTOCOL_ERROR),
        ([_frame(_H, _ALL, 1, b"\x20" + block(*HEADERS, ("Upper", "x")))], frames.PROTOCOL_ERROR),
        ([_frame(_H, _ALL, 1, b"\x20" + block(*HEADERS, ("connection", "x")))], frames.PROTOCOL_ERROR),
        ([_frame(_H, _ALL, 1, b"\x20" + block(*HEADERS, (":path", "/x")))], frames.PROTOCOL_ERROR),
    ],
)
def test_a_call_that_breaks_the_protocol_is_reset_alone(sent: list[bytes], code: int) -> None:
    raw = Raw(_METHODS).greet()
    back = raw.send(*sent)
    assert back[-1] == (_R, 0, 1, code.to_bytes(4, "big"))
    assert raw.owner.calls == 0
    answer = raw.send(raw.begin(3), _frame(_D, 0, 3, framed(b"ok")))
    assert answer[-1] == (_D, 0, 3, framed(b"OK"))


def test_more_than_the_streams_window_is_refused() -> None:
    """The message is large and nobody has let it: two others have their turns."""
    raw = Raw(_METHODS).greet()
    large = b"\x00" + (1 << 20).to_bytes(4, "big")
    for number in (1, 3):
        assert raw.send(raw.begin(number), _frame(_D, 0, number, large))[-1][0] == _W
    parts = [_frame(_D, 0, 5, large + bytes(frames.FRAME_SIZE - 5)), *[_frame(_D, 0, 5, bytes(frames.FRAME_SIZE))] * 3]
    assert raw.send(raw.begin(5), *parts) == []
    assert raw.send(_frame(_D, 0, 5, b"x")) == [(_R, 0, 5, frames.FLOW_CONTROL_ERROR.to_bytes(4, "big"))]


def test_data_after_the_end_is_refused() -> None:
    peer = Peer({ECHO: lambda _: Answer}, window=1)
    peer.reads = False
    number = peer.call(b"answered in part, so that the call is not over")
    peer.connection.receive(_frame(_D, 0, number, b"more"))
    peer.turn()
    assert peer.told[number].reset == frames.STREAM_CLOSED


def test_calls_beyond_the_most_are_refused_and_others_go_on() -> None:
    raw = Raw(_METHODS, most=2).greet()
    raw.send(raw.begin(1), raw.begin(3))
    assert raw.send(raw.begin(5)) == [(_R, 0, 5, frames.REFUSED_STREAM.to_bytes(4, "big"))]
    raw.send(frames.reset(1, frames.CANCEL))
    assert raw.send(raw.begin(7), _frame(_D, 0, 7, framed(b"x")))[-1] == (_D, 0, 7, framed(b"X"))


def test_draining_lets_calls_end_and_takes_those_on_their_way() -> None:
    raw = Raw(_METHODS).greet()
    raw.send(raw.begin(1))
    raw.connection.drain()
    told = parsed(raw.owner.take())
    assert [kind for kind, *_ in told] == [frames.GOAWAY, _P]
    assert int.from_bytes(told[0][3][:4], "big") == frames.MOST_STREAM
    raw.send(raw.begin(3))  # sent before it knew
    final = raw.send(_frame(_P, frames.ACK, 0, told[1][3]))
    assert [(kind, int.from_bytes(payload[:4], "big")) for kind, _, _, payload in final] == [(frames.GOAWAY, 3)]
    assert raw.send(raw.begin(5)) == []
    for number in (1, 3):
        assert not raw.owner.is_over
        raw.send(_frame(_D, _END, number, framed(b"x")))
    assert raw.owner.is_over


def test_a_client_that_leaves_is_let_go_when_its_calls_are_over() -> None:
    raw = Raw(_METHODS).greet()
    raw.send(raw.begin(1), frames.goaway(0, frames.NO_ERROR))
    raw.send(raw.begin(3))  # it may still call
    for number in (1, 3):
        assert not raw.owner.is_over
        assert raw.send(_frame(_D, _END, number, framed(b"x")))
    assert raw.owner.is_over


def test_a_table_that_was_given_up_is_not_taken_back() -> None:
    raw = Raw(_METHODS).greet()
    grown = b"\x3f\xe1\x1f" + block(*HEADERS)  # a table of 4096 bytes
    _is_goodbye(raw, raw.send(_frame(_H, _ALL, 1, grown)), frames.COMPRESSION_ERROR)


def test_a_table_is_used_until_it_is_given_up() -> None:
    """The first calls of a client may come before it has read our settings."""
    raw = Raw(_METHODS)
    indexed = block(*HEADERS) + b"\x40" + block(("x-a", "b"))[1:]
    raw.send(frames.PREFACE, frames.settings({}), _frame(_H, _ALL, 1, indexed))
    assert raw.send(_frame(_H, _ALL, 3, block(*HEADERS) + b"\xbe")) == []
    assert sorted(raw.connection.streams) == [1, 3]


@given(st.binary(max_size=400), _cuts())
@settings(deadline=None)
def test_no_bytes_break_it(junk: bytes, sizes: list[int]) -> None:
    raw = Raw(_METHODS).greet()
    for piece in _cut(_OPEN + junk, sizes):
        raw.connection.receive(piece)
    parsed(raw.owner.take())


_KINDS = st.integers(0, 10)
_PAYLOADS = st.one_of(
    st.binary(max_size=20), st.just(b"\x20" + block(*HEADERS)), st.binary(max_size=50).map(framed), st.just(bytes(8))
)
_FRAMES = st.builds(_frame, _KINDS, st.integers(0, 255), st.integers(0, 5), _PAYLOADS)


@given(st.lists(_FRAMES, max_size=30))
@settings(max_examples=300, deadline=None)
def test_no_frames_break_it(sent: list[bytes]) -> None:
    """Whatever they are, it answers in frames, keeps no more than its windows, and knows when it is over."""
    raw = Raw(_METHODS).greet()
    back = []
    for each in sent:
        back += raw.send(each)
    assert all(number % 2 or not number for _, _, number, _ in back)
    assert not (raw.owner.is_over and raw.connection.streams)
    # As much comes back as went in, at most, and what a call's beginning and end say.
    assert sum(len(payload) for *_, payload in back) <= 100 * len(sent) + sum(map(len, sent))


def test_a_connection_begins_with_what_it_takes() -> None:
    owner = Owner(_METHODS)
    Connection(owner, 7)
    first, second = parsed(owner.take())
    told = dict(frames.settings_of(first[3]))
    assert told[frames.HEADER_TABLE_SIZE] == 0
    assert told[frames.MAX_CONCURRENT_STREAMS] == 7
    assert told[frames.INITIAL_WINDOW_SIZE] == STREAM_WINDOW
    assert (second[0], int.from_bytes(second[3], "big")) == (_W, CONNECTION_WINDOW - frames.WINDOW)
