"""Latencies as counts in fixed, log-spaced slots: they add up, and percentiles come out with a known error.

A histogram is a dict from slot to count. Slots of durations come first, those of first bytes after them, so that one
dict holds both. It is kept as a flat JSON list of slot, count, slot, count: a row of a rollup meets few slots.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import chain
from math import ceil, sqrt

import orjson

# Twenty slots for each factor of ten, from 1 ms to 1,000 s, in microseconds. Changing them needs a migration.
BOUNDS = tuple(round(1000 * 10 ** (step / 20)) for step in range(121))

# A percentile is answered with the geometric middle of its slot: at most this far off, within the bounds. Below the
# first and above the last bound the bound itself is answered.
RELATIVE_ERROR = 10 ** (1 / 40) - 1

FIRST_BYTE = len(BOUNDS) + 1  # where the slots of first bytes begin


def slot(us: int) -> int:
    """The slot of a time in microseconds; for a first byte, add `FIRST_BYTE`."""
    return bisect_right(BOUNDS, us)


def percentiles(histogram: Mapping[int, int], first: int, ranks: Iterable[float]) -> tuple[float | None, ...]:
    """The times, in milliseconds, at `ranks` (0 to 1, nearest rank), of the slots from `first` on.

    `first` is 0 for durations and `FIRST_BYTE` for first bytes. None where nothing was counted.
    """
    counts = sorted((at - first, count) for at, count in histogram.items() if first <= at < first + FIRST_BYTE)
    total = sum(count for _, count in counts)
    if not total:
        return tuple(None for _ in ranks)
    return tuple(_at(counts, max(1, ceil(rank * total))) for rank in ranks)


def encode(histogram: Mapping[int, int]) -> str:
    return orjson.dumps(list(chain.from_iterable(histogram.items()))).decode()


def decode(encoded: str) -> dict[int, int]:
    flat = iter(orjson.loads(encoded))
    return dict(zip(flat, flat, strict=True))


def add(into: dict[int, int], histogram: Mapping[int, int]) -> None:
    """Adds a histogram to one that is being summed up."""
    for at, count in histogram.items():
        into[at] = into.get(at, 0) + count


def _at(counts: list[tuple[int, int]], rank: int) -> float:
    below = 0
    for at, count in counts:  # noqa: B007 - where it stops is what is asked for
        below += count
        if below >= rank:
            break
    lower = BOUNDS[max(at - 1, 0)]
    upper = BOUNDS[min(at, len(BOUNDS) - 1)]
    return sqrt(lower * upper) / 1000
