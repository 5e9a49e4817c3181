"""What a batch of records adds to the rollups."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from extproc.usage.ledger.histogram import BOUNDS, FIRST_BYTE, add
from extproc.usage.ledger.spans import MINUTE
from extproc.usage.record import UsageRecord

# What a rollup counts, in the order of `Cell.counts`. `output_us` is how long the requests with output took.
COUNTERS = (
    "requests",
    "errors",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_pico",
    "unpriced",
    "unpriced_input",
    "unpriced_output",
    "estimated",
    "abandoned",
    "output_us",
)

# Start of the bucket, in microseconds, and number of the series.
Place = tuple[int, int]


@dataclass(slots=True)
class Cell:
    """The sums of one place: numbers in the order of COUNTERS, and the histogram of latencies."""

    counts: list[int]
    histogram: dict[int, int]


def by_minute(records: Iterable[UsageRecord], series: Iterable[int]) -> dict[Place, Cell]:
    """Sums up records, given with the number of the series of each."""
    cells: dict[Place, Cell] = {}
    # Runs for every request: a record is taken apart once, one counter after the other, nothing is built or called.
    for record, number in zip(records, series, strict=True):
        _, at, _, _, _, _, _, _, _, _, status, tokens, estimated, cost, first_byte, duration, _, _, _, whole, _ = record
        place = (at - at % MINUTE, number)
        cell = cells.get(place)
        if cell is None:
            cell = cells[place] = Cell([0] * len(COUNTERS), {})
        counts, histogram = cell.counts, cell.histogram
        put_in, put_out, cached, cache_write, reasoning = tokens
        counts[0] += 1
        if status >= 400 or status == 0:
            counts[1] += 1
        counts[2] += put_in
        counts[3] += put_out
        if cached:
            counts[4] += cached
        if cache_write:
            counts[5] += cache_write
        if reasoning:
            counts[6] += reasoning
        if cost is None:
            counts[8] += 1
            counts[9] += put_in
            counts[10] += put_out
        else:
            counts[7] += cost
        if estimated:
            counts[11] += 1
        if not whole:
            counts[12] += 1
        if put_out:
            counts[13] += duration
        at_slot = bisect_right(BOUNDS, duration)
        histogram[at_slot] = histogram.get(at_slot, 0) + 1
        if first_byte is not None:
            at_slot = FIRST_BYTE + bisect_right(BOUNDS, first_byte)
            histogram[at_slot] = histogram.get(at_slot, 0) + 1
    return cells


def coarser(cells: Mapping[Place, Cell], width_us: int) -> dict[Place, Cell]:
    """The same sums in wider buckets. Cells that have their bucket to themselves are shared, not copied."""
    wide: dict[Place, Cell] = {}
    for (at, series), cell in cells.items():
        place = (at - at % width_us, series)
        other = wide.get(place)
        wide[place] = cell if other is None else _joined(other, cell)
    return wide


def _joined(one: Cell, other: Cell) -> Cell:
    histogram = dict(one.histogram)
    add(histogram, other.histogram)
    return Cell([a + b for a, b in zip(one.counts, other.counts, strict=True)], histogram)
