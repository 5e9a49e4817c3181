"""What a batch of records adds to the rollups."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from extproc.usage.ledger.histogram import FIRST_BYTE, add, slot
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


def by_minute(records: Iterable[tuple[UsageRecord, int]]) -> dict[Place, Cell]:
    """Sums up records, each given with the number of its series."""
    cells: dict[Place, Cell] = {}
    for record, series in records:
        at = record.at_us
        place = (at - at % MINUTE, series)
        cell = cells.get(place)
        if cell is None:
            cell = cells[place] = Cell([0] * len(COUNTERS), {})
        _count(cell.counts, record)
        histogram = cell.histogram
        duration = slot(record.duration_us)
        histogram[duration] = histogram.get(duration, 0) + 1
        if record.first_byte_us is not None:
            first_byte = FIRST_BYTE + slot(record.first_byte_us)
            histogram[first_byte] = histogram.get(first_byte, 0) + 1
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


def _count(counts: list[int], record: UsageRecord) -> None:
    # Runs for every request: one slot after the other, nothing built.
    tokens, status = record.tokens, record.status
    counts[0] += 1
    counts[1] += status >= 400 or status == 0
    counts[2] += tokens.input
    counts[3] += tokens.output
    counts[4] += tokens.cached
    counts[5] += tokens.cache_write
    counts[6] += tokens.reasoning
    if record.cost_pico is None:
        counts[8] += 1
        counts[9] += tokens.input
        counts[10] += tokens.output
    else:
        counts[7] += record.cost_pico
    counts[11] += record.estimated
    counts[12] += not record.complete
    if tokens.output:
        counts[13] += record.duration_us
