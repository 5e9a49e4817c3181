"""The pure parts: histograms, and how a range is cut."""

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.usage.ledger.histogram import (
    BOUNDS,
    FIRST_BYTE,
    RELATIVE_ERROR,
    add,
    decode,
    encode,
    percentiles,
    slot,
)
from extproc.usage.ledger.rows import dollars
from extproc.usage.ledger.spans import DAY, HOUR, MINUTE, WIDTHS, Grain, spans

times = st.integers(BOUNDS[0], BOUNDS[-1] - 1)


def histogram(us: list[int], first: int = 0) -> dict[int, int]:
    counted: dict[int, int] = {}
    for one in us:
        add(counted, {first + slot(one): 1})
    return counted


def test_bounds_are_fixed() -> None:
    assert (len(BOUNDS), BOUNDS[0], BOUNDS[-1]) == (121, 1000, 10**9)
    assert sorted(set(BOUNDS)) == list(BOUNDS)
    assert pytest.approx(0.0593, abs=1e-4) == RELATIVE_ERROR


@given(st.lists(times, min_size=1, max_size=200), st.lists(times, max_size=20), st.sampled_from([0.5, 0.95, 0.99, 1]))
def test_a_percentile_is_as_near_as_stated(durations: list[int], first_bytes: list[int], rank: float) -> None:
    counted = histogram(durations)
    add(counted, histogram(first_bytes, FIRST_BYTE))
    for us, first in ((durations, 0), (first_bytes, FIRST_BYTE)):
        (answer,) = percentiles(decode(encode(counted)), first, [rank])
        if not us:
            assert answer is None
            continue
        exact = sorted(us)[ceil(rank * len(us)) - 1] / 1000
        assert answer == pytest.approx(exact, rel=RELATIVE_ERROR + 0.001)  # bounds are whole microseconds


def test_times_beyond_the_bounds_are_answered_with_the_bound() -> None:
    assert percentiles(histogram([0, 999]), 0, [0.5]) == (1.0,)
    assert percentiles(histogram([10**9, 10**12]), 0, [0.99]) == (1_000_000.0,)
    assert percentiles({}, 0, [0.5, 0.9]) == (None, None)


@given(
    st.integers(0, 40 * DAY),
    st.integers(0, 10 * DAY),
    st.sampled_from(["minute", "hour", "day"]),
    st.lists(st.integers(0, 50), min_size=3, max_size=3),
)
def test_spans_cover_a_range_once(since: int, length: int, coarsest: Grain, kept_from: list[int]) -> None:
    until = since + length
    record, minute, hour = sorted((day * DAY for day in kept_from), reverse=True)
    horizons: dict[Grain, int] = {"record": record, "minute": minute, "hour": hour}
    found = sorted(spans(since, until, coarsest, horizons), key=lambda span: span.since_us)
    for span in found:
        width = WIDTHS[span.grain]
        assert span.since_us % width == span.until_us % width == 0
        assert span.since_us < span.until_us
        assert span.since_us >= horizons.get(span.grain, 0)
    assert all(one.until_us == other.since_us for one, other in pairwise(found))
    assert bool(found) == (length > 0)
    if found:
        assert found[0].since_us <= since
        assert found[-1].until_us >= until
        if since >= record:
            assert (found[0].since_us, found[-1].until_us) == (since, until)
            assert {span.grain for span in found} <= set(list(WIDTHS)[: list(WIDTHS).index(coarsest) + 1])


def test_a_range_is_read_as_coarse_as_it_can_be() -> None:
    found = spans(DAY - HOUR - MINUTE - 1, 3 * DAY + 2 * HOUR, "day", {})
    assert {(span.grain, span.since_us, span.until_us) for span in found} == {
        ("record", DAY - HOUR - MINUTE - 1, DAY - HOUR - MINUTE),
        ("minute", DAY - HOUR - MINUTE, DAY - HOUR),
        ("hour", DAY - HOUR, DAY),
        ("day", DAY, 3 * DAY),
        ("hour", 3 * DAY, 3 * DAY + 2 * HOUR),
    }


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (0, "0"),
        (1, "0.000000000001"),
        (1_500_000_000_000, "1.5"),
        (10**14, "100"),
        (10**33 + 1, "1" + "0" * 21 + ".000000000001"),
    ],
)
def test_money_is_written_in_full(pico: int, text: str) -> None:
    assert format(dollars(pico), "f") == text
