"""Frames, entries in memory and nearest texts: what holds for any order of things."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.frames import MOST_BODY, Frame, FrameError, Frames, packed
from extproc.cache.memory import MemoryStore, Place, Vectored
from extproc.cache.nearest import Group, Nearest, unit


@given(
    st.lists(st.tuples(st.dictionaries(st.text(max_size=4), st.integers(-9, 9), max_size=3), st.binary(max_size=50))),
    st.lists(st.integers(0, 400)),
)
def test_any_chunking_gives_the_same_frames(sent: list[tuple[dict[str, int], bytes]], cuts: list[int]) -> None:
    data = b"".join(packed(head, body) for head, body in sent)
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    frames, found = Frames(), []
    for begin, end in zip([0, *places], [*places, len(data)], strict=True):
        found += frames.feed(data[begin:end])
    assert found == [Frame(head, body) for head, body in sent]


@pytest.mark.parametrize(
    "data", [b"\0\0\0\1\0\0\0\0[", b"\0\0\0\2\0\0\0\0[]", b"\xff" * 8, b"\0\0\0\2" + (MOST_BODY + 1).to_bytes(4)]
)
def test_what_is_no_frame_is_an_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        Frames().feed(data)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _place(number: int, rule: str = "r") -> Place:
    return Place(rule, number.to_bytes(32))


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "get", "wait", "clear"]), st.integers(0, 6), st.integers(1, 900)), max_size=60
    )
)
def test_memory_is_bounded_and_never_tells_what_it_should_not(steps: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    store = MemoryStore(4000, clock)
    known: dict[int, tuple[bytes, float]] = {}
    for what, number, amount in steps:
        rule = f"r{number % 2}"
        if what == "put":
            known[number] = bytes([number]) * amount, clock.now + amount
            store.put(_place(number, rule), known[number][0], amount)
        elif what == "get":
            found = store.get(_place(number, rule))
            assert found is None or (found == known[number][0] and clock.now < known[number][1])
        elif what == "wait":
            clock.now += amount
        else:
            store.clear(rule)
            known = {at: kept for at, kept in known.items() if f"r{at % 2}" != rule}
        assert store.bytes <= 4000
        assert sum(store.entries().values()) <= len(known)
    store.clear(None)
    assert (store.bytes, store.entries()) == (0, {})


def test_what_was_not_wanted_for_longest_goes_first() -> None:
    store = MemoryStore(2 * 1400, Clock())
    for number in (1, 2):
        store.put(_place(number), b"x" * 1000, 60)
    store.get(_place(1))
    store.put(_place(3), b"x" * 1000, 60)
    assert [store.get(_place(number)) is not None for number in (1, 2, 3)] == [True, False, True]
    assert store.evicted == 1
    store.put(_place(4), b"x" * 5000, 60)
    assert store.get(_place(4)) is None and store.get(_place(1))


_VECTORS = st.lists(
    st.tuples(st.integers(0, 8), st.lists(st.integers(-3, 3), min_size=3, max_size=3).filter(any), st.booleans()),
    max_size=40,
)


@given(_VECTORS, st.lists(st.integers(-3, 3), min_size=3, max_size=3).filter(any))
def test_the_nearest_is_that_of_a_comparison_one_by_one(steps: list[tuple[int, Any, bool]], asked: Any) -> None:
    group, known = Group(3), {}
    for number, numbers, removes in steps:
        key = bytes([number])
        if removes:
            group.remove(key)
            known.pop(key, None)
        else:
            known[key] = unit(numbers)
            group.put(key, known[key])
    assert len(group) == len(known)
    if known:
        key, cosine = group.nearest(unit(asked))
        best = max(float(vector @ unit(asked)) for vector in known.values())
        assert cosine == pytest.approx(best, abs=1e-6)
        assert float(known[key] @ unit(asked)) == pytest.approx(best, abs=1e-6)


def test_groups_are_apart_and_go_with_their_entries() -> None:
    clock = Clock()
    store = MemoryStore(1 << 20, clock)
    vector = unit([1.0, 0.0])
    store.put(_place(1), b"one", 10, Vectored(b"g", vector))
    assert store.alike("r", Vectored(b"g", unit([0.9, 0.1])), 0.9) == (b"one", pytest.approx(0.9939, abs=1e-3))
    assert store.alike("r", Vectored(b"g", unit([0.1, 0.9])), 0.9) is None
    assert store.alike("r", Vectored(b"h", vector), 0.9) is None
    assert store.alike("s", Vectored(b"g", vector), 0.9) is None
    assert store.alike("r", Vectored(b"g", unit([1.0, 0.0, 0.0])), 0.9) is None  # another model's
    store.put(_place(1), b"new", 10)
    assert store.alike("r", Vectored(b"g", vector), 0.9) == (b"new", pytest.approx(1))
    clock.now = 11
    assert store.alike("r", Vectored(b"g", vector), 0.9) is None
    assert store.bytes == 0


def test_a_group_of_another_model_begins_anew() -> None:
    nearest = Nearest()
    nearest.put(b"g", b"a", unit([1.0, 0.0]))
    nearest.put(b"g", b"b", unit([1.0, 0.0, 0.0]))
    assert len(nearest) == 1
    assert nearest.find(b"g", unit([1.0, 0.0, 0.0]), 0.5) == (b"b", pytest.approx(1))


@pytest.mark.parametrize("numbers", [[], [0.0], [float("nan")], [float("inf")], [[1.0]]])
def test_what_has_no_direction_is_no_vector(numbers: Any) -> None:
    with pytest.raises(ValueError, match="embedding"):
        unit(numbers)


def test_vectors_are_of_length_one() -> None:
    assert float(np.linalg.norm(unit(json.loads("[3, 4]")))) == pytest.approx(1)
