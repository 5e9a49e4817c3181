"""Windows of time over which a budget or a limit counts.

Times are whole microseconds since the epoch, UTC. A window is either

- *calendar*: a day, a week (from Monday) or a month in an IANA time zone. They follow one another without a gap or an
  overlap, also where a clock change skips midnight, shows it twice, or skips a whole date; or
- *rolling*: the last so many seconds. It moves in steps of 1/64 of its length: what was spent at `t` is counted for at
  least the length and for at most 1/64 (1.6 %) longer, never shorter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

Period = Literal["day", "week", "month"]
Bounds = tuple[int, int]  # from (inclusive) and to (exclusive)

SECOND: Final = 1_000_000
STEPS: Final = 64  # of a rolling window: a power of two, so that whole seconds always divide into whole microseconds
ROLLING: Final[Mapping[str, int]] = {"day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Window:
    """Calendar when `period` is set (in `zone`), else rolling over `seconds`: see `calendar()` and `rolling()`."""

    period: Period | None
    zone: str
    seconds: int

    def __post_init__(self) -> None:
        if self.period is None:
            if self.seconds < 1:
                raise ValueError(f"a rolling window lasts at least one second, not {self.seconds}")
        elif self.period not in ROLLING:
            raise ValueError(f"a calendar window is a day, a week or a month, not {self.period!r}")
        else:
            _zone(self.zone)

    @classmethod
    def calendar(cls, period: Period, zone: str = "UTC") -> Self:
        """Raises ValueError when `zone` is no known IANA time zone."""
        return cls(period, zone, 0)

    @classmethod
    def rolling(cls, length: Period | int) -> Self:
        """The last 24 hours (day), 7 days (week), 30 days (month), or that many seconds."""
        return cls(None, "", length if isinstance(length, int) else ROLLING[length])

    @property
    def length_us(self) -> int:
        """Of a rolling window."""
        return self.seconds * SECOND

    @property
    def step_us(self) -> int:
        """Of a rolling window: how finely it is counted."""
        return self.length_us // STEPS

    def bounds(self, at_us: int) -> Bounds:
        """The calendar window that `at_us` is in; for a rolling one, the length that ends at `at_us`."""
        if self.period is None:
            return at_us - self.length_us, at_us
        return _calendar_bounds(self.period, _zone(self.zone), at_us)

    def counted_from(self, at_us: int) -> int:
        """The earliest time whose spending counts at `at_us`: from there a ledger is asked for what was spent."""
        if self.period is None:
            return (at_us // self.step_us - STEPS) * self.step_us
        return self.bounds(at_us)[0]

    def next_change(self, at_us: int) -> int:
        """When spending that counts at `at_us` may first stop counting."""
        if self.period is None:
            return (at_us // self.step_us + 1) * self.step_us
        return self.bounds(at_us)[1]


def utc(at_us: int) -> datetime:
    return _EPOCH + at_us * _MICROSECOND


def microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


@cache
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name!r}: expected an IANA name such as Europe/Berlin or UTC") from None


def _calendar_bounds(period: Period, zone: ZoneInfo, at_us: int) -> Bounds:
    first = _first_date(period, utc(at_us).astimezone(zone).date())
    start, after = _begin(first, zone), _following(period, first)
    end = _begin(after, zone)
    # Clocks set back across midnight (St. John's, at 00:01) show the old date again: its window is over nevertheless.
    while end <= at_us:
        start, after = end, _following(period, after)
        end = _begin(after, zone)
    return start, end


def _first_date(period: Period, day: date) -> date:
    if period == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period == "month" else day


def _following(period: Period, first: date) -> date:
    if period == "month":
        return first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first + timedelta(days=7 if period == "week" else 1)


def _begin(day: date, zone: ZoneInfo) -> int:
    """The first microsecond at which the zone's clocks show `day` or later."""
    earlier, later = (microseconds(datetime(day.year, day.month, day.day, tzinfo=zone, fold=fold)) for fold in (0, 1))
    if earlier <= later:  # midnight comes once, or twice and the first counts
        return earlier
    # Midnight is skipped (PEP 495: fold then picks the offset before and after): the clock change lies between the two.
    before, reached = later - 1, earlier
    while reached - before > 1:
        middle = (before + reached) // 2
        if utc(middle).astimezone(zone).date() >= day:
            reached = middle
        else:
            before = middle
    return reached
