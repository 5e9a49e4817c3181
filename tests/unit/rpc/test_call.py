"""gRPC on one stream: messages, answers, statuses, deadlines, and who may send much."""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from extproc.rpc import frames
from extproc.rpc.call import MOST_MESSAGE, Answer, CallError, Method, Session, Status
from extproc.rpc.headers import block
from extproc.rpc.stream import STREAM_WINDOW
from tests.unit.rpc.peer import ECHO, HEADERS, Peer, framed


def _method(session: Session) -> dict[str, Method]:
    return {ECHO: lambda _: session}


async def _settled(peer: Peer, until: Callable[[], bool]) -> None:
    """Lets tasks run, and carries over what they write."""
    async with asyncio.timeout(30):
        while not until():
            await asyncio.sleep(0)
            peer.turn()


def test_each_message_gets_its_answer_and_the_end_a_status() -> None:
    peer = Peer(_method(lambda message: Answer(message + b"!")))
    number = peer.call(b"a", b"", b"c")
    told = peer.told[number]
    assert told.headers == {":status": "200", "content-type": "application/grpc"}
    assert told.messages == [b"a!", b"!", b"c!"]
    assert told.trailers == {"grpc-status": "0"}


def test_the_last_answer_ends_the_call() -> None:
    peer = Peer(_method(lambda message: Answer(message, last=True)))
    number = peer.call(b"a", ends=False)
    told = peer.told[number]
    assert (told.messages, told.status) == ([b"a"], 0)
    assert told.reset == frames.NO_ERROR  # nothing more is wanted
    assert peer.owner.calls == 0


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({":method": "GET"}, {":status": "405"}),
        ({"content-type": "text/plain"}, {":status": "415"}),
        ({":path": "/none"}, {":status": "200", "grpc-status": "12"}),
        ({"grpc-encoding": "gzip"}, {":status": "200", "grpc-status": "12"}),
    ],
)
def test_what_is_no_call_of_ours_is_told_so(headers: dict[str, str], told: dict[str, str]) -> None:
    peer = Peer(_method(Answer))
    number = peer.call(headers=(dict(HEADERS) | headers).items())
    assert told.items() <= peer.told[number].headers.items()
    assert peer.owner.calls == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x01\x00\x00\x00\x01x", Status.UNIMPLEMENTED),
        (b"\x00" + (MOST_MESSAGE + 1).to_bytes(4, "big"), Status.RESOURCE_EXHAUSTED),
        (framed(b"cut off")[:-1], Status.INTERNAL),
        (b"\x00\x00", Status.INTERNAL),
    ],
)
def test_what_is_no_message_ends_the_call(data: bytes, status: Status) -> None:
    peer = Peer(_method(Answer))
    number = peer.call(ends=False)
    peer.send(number, data)
    peer.turn()
    if number in peer.connection.streams:
        peer.end(number)
    assert peer.told[number].status == status


@given(st.text(max_size=100))
@settings(deadline=None)
def test_an_error_tells_its_text(text: str) -> None:
    def fails(_: bytes) -> Answer:
        raise CallError(Status.FAILED_PRECONDITION, text)

    peer = Peer(_method(fails))
    number = peer.call(b"x", b"not asked")
    told = peer.told[number]
    assert told.status == Status.FAILED_PRECONDITION
    assert unquote(told.headers.get("grpc-message", "")) == text


def test_an_error_after_an_answer_comes_behind_it() -> None:
    def second_fails(message: bytes) -> Answer:
        if message == b"bad":
            raise ValueError("a secret")
        return Answer(message)

    peer = Peer(_method(second_fails))
    number = peer.call(b"good", b"bad", b"good")
    assert (peer.told[number].messages, peer.told[number].status) == ([b"good"], Status.UNKNOWN)
    assert "secret" not in str(peer.told[number])


async def test_a_late_answer_holds_the_next_message() -> None:
    asked: list[bytes] = []
    ready: asyncio.Queue[bytes] = asyncio.Queue()

    def later(message: bytes) -> Awaitable[Answer]:
        async def answer() -> Answer:
            return Answer(message + await ready.get())

        asked.append(message)
        return answer()

    peer = Peer(_method(later))
    number = peer.call(b"a", b"b")
    assert asked == [b"a"]
    ready.put_nowait(b"1")
    await _settled(peer, lambda: asked == [b"a", b"b"])
    ready.put_nowait(b"2")
    await _settled(peer, lambda: peer.told[number].status is not None)
    assert (peer.told[number].messages, peer.told[number].status) == ([b"a1", b"b2"], 0)


async def test_a_late_failure_is_a_failure() -> None:
    async def fails(_: bytes) -> Answer:
        raise CallError(Status.FAILED_PRECONDITION, "no")

    peer = Peer(_method(fails))
    number = peer.call(b"a")
    await _settled(peer, lambda: peer.told[number].status == Status.FAILED_PRECONDITION)


async def test_work_that_gives_itself_up_ends_the_call() -> None:
    async def gives_up(_: bytes) -> Answer:
        raise asyncio.CancelledError

    peer = Peer(_method(gives_up))
    number = peer.call(b"a")
    await _settled(peer, lambda: peer.told[number].status == Status.CANCELLED)


async def test_an_answer_may_be_followed_by_another() -> None:
    gate = asyncio.Event()

    async def then() -> Answer:
        await gate.wait()
        return Answer(b"later", last=True)

    peer = Peer(_method(lambda _: Answer(b"now", then=then())))
    number = peer.call(b"")
    assert peer.told[number].messages == [b"now"]
    gate.set()
    await _settled(peer, lambda: peer.told[number].status == 0)
    assert peer.told[number].messages == [b"now", b"later"]


async def test_a_call_that_is_given_up_ends_what_it_does() -> None:
    ended = asyncio.Event()

    async def forever(_: bytes) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return Answer(b"")

    peer = Peer(_method(forever))
    number = peer.call(b"x")
    await asyncio.sleep(0)
    peer.client.reset_stream(number)
    peer.turn()
    await asyncio.wait_for(ended.wait(), 30)
    assert (peer.owner.calls, peer.told[number].status) == (0, None)


async def test_a_lost_connection_ends_its_calls() -> None:
    started = asyncio.Event()

    async def forever(_: bytes) -> Answer:
        started.set()
        await asyncio.Event().wait()
        return Answer(b"")

    peer = Peer(_method(forever))
    peer.call(b"x")
    await asyncio.wait_for(started.wait(), 30)
    peer.connection.lost()
    await asyncio.sleep(0)
    assert peer.owner.calls == 0


@pytest.mark.parametrize("told", ["1m", "1000u", "1n", "0S"])
async def test_a_deadline_ends_the_call(told: str) -> None:
    async def forever(_: bytes) -> Answer:
        await asyncio.Event().wait()
        return Answer(b"")

    peer = Peer(_method(forever))
    number = peer.call(b"x", headers=(*HEADERS, ("grpc-timeout", told)))
    await _settled(peer, lambda: peer.told[number].status == Status.DEADLINE_EXCEEDED)
    assert peer.owner.calls == 0


async def test_a_deadline_that_is_not_reached_does_nothing() -> None:
    peer = Peer(_method(Answer))
    number = peer.call(b"x", headers=(*HEADERS, ("grpc-timeout", "99999999H")))
    assert peer.told[number].status == 0


def test_the_next_message_waits_until_the_answer_is_taken() -> None:
    """Whoever does not read is not worked for."""
    asked: list[bytes] = []

    def session(message: bytes) -> Answer:
        asked.append(message)
        return Answer(bytes(1000))

    peer = Peer(_method(session), window=100)
    peer.reads = False
    number = peer.call(b"a", b"b", b"c")
    assert asked == [b"a"]
    peer.reads = True
    peer.read()
    assert asked == [b"a", b"b", b"c"]
    assert peer.told[number].status == 0


def test_what_is_not_looked_at_is_bounded() -> None:
    """Messages of a call whose answers nobody reads: no more than a window of them is let."""
    asked: list[bytes] = []

    def session(message: bytes) -> Answer:
        asked.append(message)
        return Answer(bytes(1000))

    peer = Peer(_method(session), window=100)
    peer.reads = False
    number = peer.call(ends=False)
    sent = 0
    while peer.client.local_flow_control_window(number) >= 505:
        peer.say(number, bytes(500))
        peer.turn()
        sent += 1
    assert len(asked) == 1
    assert STREAM_WINDOW - 505 < sent * 505 <= STREAM_WINDOW


def test_many_messages_keep_the_window_open() -> None:
    peer = Peer(_method(lambda message: Answer(message[:1])))
    number = peer.call(*[bytes(10_000)] * 50)
    assert (len(peer.told[number].messages), peer.told[number].status) == (50, 0)


def test_large_messages_take_turns() -> None:
    """Two at once here; the others may send no more than a window until a turn is free."""
    peer = Peer(_method(lambda message: Answer(message[-3:])))
    large = framed(bytes(300_000) + b"end")
    numbers = [peer.call(ends=False) for _ in range(4)]
    for number in numbers:
        peer.send(number, large[:STREAM_WINDOW])
    peer.turn()
    rooms = [peer.client.local_flow_control_window(number) for number in numbers]
    assert [bool(room) for room in rooms] == [True, True, False, False]
    assert rooms[0] == len(large) - STREAM_WINDOW  # and no more than that
    peer.client.reset_stream(numbers[2])  # one that waits gives up
    peer.send(numbers[0], large[STREAM_WINDOW:])
    peer.end(numbers[0])
    assert peer.told[numbers[0]].messages == [b"end"]
    for number in (numbers[3], numbers[1]):
        peer.send(number, large[STREAM_WINDOW:])
        peer.end(number)
        assert (peer.told[number].messages, peer.told[number].status) == ([b"end"], 0)
    again = peer.call(bytes(200_000), bytes(200_000))
    assert peer.told[again].status == 0


async def test_a_message_that_waits_for_its_turn_keeps_it_while_others_are_answered() -> None:
    ready = asyncio.Event()

    async def answer(message: bytes) -> Answer:
        await ready.wait()
        return Answer(b"%d" % len(message))

    peer = Peer(_method(answer))
    large = framed(bytes(300_000))
    having = [peer.call(ends=False) for _ in range(2)]
    for number in having:
        peer.send(number, large[:STREAM_WINDOW])
    late = peer.call(ends=False)
    small = framed(bytes(24_000))
    peer.send(late, small + large[: STREAM_WINDOW - len(small)])
    peer.turn()
    ready.set()
    await _settled(peer, lambda: peer.told[late].messages == [b"24000"])
    assert peer.client.local_flow_control_window(late) == 0
    peer.client.reset_stream(having[0])
    peer.turn()
    peer.send(late, large[STREAM_WINDOW - len(small) :])
    peer.end(late)
    await _settled(peer, lambda: peer.told[late].status == 0)
    assert peer.told[late].messages == [b"24000", b"300000"]


@given(st.lists(st.integers(0, 150_000), min_size=1, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
@settings(max_examples=40, deadline=None)
@example([0, 6731, 12431, 15130, 31220, 34387], [False, False, False, False, True, False])
def test_messages_of_any_size_come_through_one_behind_the_other(sizes: list[int], late: list[bool]) -> None:
    """Whether answers are there at once or later, and however much of the next message is there by then."""

    async def run() -> None:
        turn = iter(late)

        def session(message: bytes) -> Answer | Awaitable[Answer]:
            async def later() -> Answer:
                await asyncio.sleep(0)
                return Answer(b"%d" % len(message))

            return later() if next(turn) else Answer(b"%d" % len(message))

        peer = Peer(_method(session))
        number = peer.call(ends=False)
        left = b"".join(framed(bytes(size)) for size in sizes)
        async with asyncio.timeout(30):
            while left:
                room = min(peer.client.local_flow_control_window(number), peer.client.max_outbound_frame_size)
                if room:
                    peer.client.send_data(number, left[:room])
                    left = left[room:]
                else:
                    await asyncio.sleep(0)
                peer.turn()
        peer.end(number)
        await _settled(peer, lambda: peer.told[number].status == 0)
        assert peer.told[number].messages == [b"%d" % size for size in sizes]

    asyncio.run(run())


@pytest.mark.parametrize("value", ["", "v", "x" * 126, "x" * 127, "x" * 300, "x" * 20_000])
def test_blocks_are_read_by_others(value: str) -> None:
    peer = Peer({})
    assert list(peer.client.decoder.decode(block(("a-name", value), ("b", value)))) == [("a-name", value), ("b", value)]
