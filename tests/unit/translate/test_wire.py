"""Frames on the wire: the same however bytes are cut, and bounded."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.translate.failures import AnswerError
from extproc.translate.wire.eventstream import EventStream
from extproc.translate.wire.frames import Frame, Framer
from extproc.translate.wire.lines import JSONLines
from extproc.translate.wire.sse import Events
from tests.unit.translate.frames import frame, raw_frame

LIMIT = 1000
CUTS = st.lists(st.integers(1, 7), max_size=40)


def fed(framer: Framer, data: bytes, sizes: list[int]) -> list[Frame]:
    frames, at = [], 0
    for size in sizes:
        frames += framer.feed(data[at : at + size])
        at += size
    return [*frames, *framer.feed(data[at:]), *framer.end()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: a\n\n", [Frame("", b"a")]),
        ("data:a\r\n\r\ndata:  b\r\r", [Frame("", b"a"), Frame("", b" b")]),
        ("\ufeffevent: x\ndata: a\ndata\ndata: b\n\n", [Frame("x", b"a\n\nb")]),
        (": comment\nid: 1\nretry: 5\nnonsense\ndata: a\n\n\n\n", [Frame("", b"a")]),
        ("event: x\n\ndata: a\n\n", [Frame("", b"a")]),
        ("data: a", [Frame("", b"a")]),
        ("data: a\n", [Frame("", b"a")]),
        ("event: x", []),
        ("", []),
    ],
)
@given(sizes=CUTS)
def test_events_are_read_as_the_standard_says(text: str, expected: list[Frame], sizes: list[int]) -> None:
    assert fed(Events(LIMIT), text.encode(), sizes) == expected


@given(lines=st.lists(st.binary(max_size=20).filter(lambda line: not set(line) & set(b"\r\n"))), sizes=CUTS)
def test_lines_of_json_are_lines(lines: list[bytes], sizes: list[int]) -> None:
    expected = [Frame("", line) for line in lines if line.strip()]
    assert fed(JSONLines(LIMIT), b"\r\n".join(lines), sizes) == expected


@given(payloads=st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=30), st.booleans())), sizes=CUTS)
def test_frames_come_back_however_they_are_cut(payloads: list[tuple[str, bytes, bool]], sizes: list[int]) -> None:
    names = [(f"n{i}", payload, error) for i, (_, payload, error) in enumerate(payloads)]
    data = b"".join(frame(name, payload, error=error) for name, payload, error in names)
    assert fed(EventStream(LIMIT), data, sizes) == [Frame(*one) for one in names]


def test_headers_of_all_types_are_stepped_over() -> None:
    kinds = {0: b"", 1: b"", 2: b"x", 3: b"xx", 4: b"xxxx", 5: b"x" * 8, 6: b"\0\2xx", 8: b"x" * 8, 9: b"x" * 16}
    headers = b"".join(b"\x01h" + bytes([kind]) + value for kind, value in kinds.items())
    name = b"\x0b:event-type\x07\x00\x01n"
    assert [*EventStream(LIMIT).feed(raw_frame(headers + name + headers, b"p"))] == [Frame("n", b"p")]


@pytest.mark.parametrize("framer", [Events, JSONLines, EventStream])
@given(data=st.binary(max_size=300), sizes=CUTS)
def test_any_bytes_are_frames_or_one_kind_of_error(framer: type[Framer], data: bytes, sizes: list[int]) -> None:
    def outcome(cuts: list[int]) -> list[Frame | str]:
        """The frames, and then the error."""
        found: list[Frame | str] = []
        reader, edges = framer(LIMIT), itertools.accumulate(cuts, initial=0)  # type: ignore[call-arg]
        try:
            for start, end in itertools.pairwise([*edges, len(data)]):
                found.extend(reader.feed(data[start:end]))
            found.extend(reader.end())
        except AnswerError as error:
            found.append(str(error))
        return found

    assert outcome(sizes) == outcome([])


@pytest.mark.parametrize("data", [b"x" * 1001, b"data: " + b"x" * 990 + b"\ndata: " + b"x" * 20, b"data:\n" * 200])
def test_nothing_grows_without_bound(data: bytes) -> None:
    events = Events(LIMIT)
    with pytest.raises(AnswerError, match="longer than 1000 bytes"):
        for at in range(len(data)):
            list(events.feed(data[at : at + 1]))
        list(events.end())


def test_a_frame_that_claims_to_be_huge_is_an_error_at_once() -> None:
    whole = frame("n", b"x" * 2000)
    with pytest.raises(AnswerError, match="length that cannot be"):
        list(EventStream(LIMIT).feed(whole[:12]))


def test_a_line_of_ten_megabytes_in_small_pieces_takes_linear_time() -> None:
    piece = b"x" * 1000
    events = Events(20_000_000)
    assert not list(events.feed(b"data: "))
    for _ in range(10_000):
        assert not list(events.feed(piece))
    [found] = events.feed(b"\n\n")
    assert len(found.data) == 10_000_000
