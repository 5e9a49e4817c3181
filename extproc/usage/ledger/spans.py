"""Which table answers for which part of a time range.

Rollups by minute, hour and day (UTC) are complete; retention removes the fine ones first. A range is cut into the
coarsest whole buckets inside it, with finer ones at its edges and single records at the very ends.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Grain = Literal["record", "minute", "hour", "day"]

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

# From fine to coarse, with their width in microseconds.
WIDTHS: Mapping[Grain, int] = {"record": 1, "minute": MINUTE, "hour": HOUR, "day": DAY}
_GRAINS = tuple(WIDTHS)


@dataclass(frozen=True, slots=True)
class Span:
    """Read `grain` where since_us <= at_us < until_us."""

    grain: Grain
    since_us: int
    until_us: int


def spans(since_us: int, until_us: int, coarsest: Grain, horizons: Mapping[Grain, int]) -> list[Span]:
    """Cuts a range into spans that cover it exactly, none coarser than `coarsest` where a finer one is still kept.

    `horizons` says for a grain before which instant (a UTC midnight) retention has removed it. There the range is
    widened to whole buckets of the finest grain left, and read at that grain when `coarsest` is gone.
    """
    found: list[Span] = []
    region_end = until_us
    for grain in _GRAINS:  # the newest part of the range has all grains, the oldest only days
        region_start = max(since_us, horizons.get(grain, 0) if grain != "day" else since_us)
        if region_start < region_end:
            width = WIDTHS[grain]
            kept = _GRAINS[_GRAINS.index(grain) : max(_GRAINS.index(grain), _GRAINS.index(coarsest)) + 1]
            found.extend(_cut(region_start // width * width, -(-region_end // width) * width, kept))
            region_end = region_start
    return found


def _cut(since_us: int, until_us: int, kept: tuple[Grain, ...]) -> Iterator[Span]:
    """Whole buckets of the coarsest grain of `kept`, and the two edges with the others."""
    if since_us >= until_us:
        return
    *finer, grain = kept
    width = WIDTHS[grain]
    start, end = -(-since_us // width) * width, until_us // width * width
    if start >= end:
        yield from _cut(since_us, until_us, tuple(finer))
        return
    yield Span(grain, start, end)
    yield from _cut(since_us, start, tuple(finer))
    yield from _cut(end, until_us, tuple(finer))
