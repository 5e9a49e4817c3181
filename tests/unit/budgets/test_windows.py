"""Windows against a scan of what clocks on the wall show."""

from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.usage.windows import SECOND, Period, Window, microseconds, utc

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour of summer time
    "America/St_Johns",  # clocks changed at 00:01: midnight twice, with an hour of the old date between
    "America/Sao_Paulo",  # midnight skipped
    "America/Havana",  # midnight twice
    "Africa/Cairo",
    "Asia/Kathmandu",  # 45 minutes off
    "Pacific/Apia",  # has no 2011-12-30
    "Pacific/Kiritimati",
)
PERIODS: tuple[Period, ...] = ("day", "week", "month")
MINUTE = 60 * SECOND

moments = st.integers(microseconds(datetime(1990, 1, 1, tzinfo=UTC)), microseconds(datetime(2037, 1, 1, tzinfo=UTC)))
lengths = st.integers(1, 90 * 86_400)


def at(text: str) -> int:
    return microseconds(datetime.fromisoformat(text))


def label(period: Period, day: date) -> tuple[int, ...]:
    if period == "day":
        return day.year, day.month, day.day
    return tuple(day.isocalendar()[:2]) if period == "week" else (day.year, day.month)


@cache
def shown(zone: str, minute: int) -> date:
    return utc(minute * MINUTE).astimezone(ZoneInfo(zone)).date()


def scanned(zone: str, at_us: int) -> date:
    """The latest date that clocks have shown up to `at_us`: a date once begun is not undone by clocks set back."""
    minute = at_us // MINUTE
    return max(shown(zone, minute - back) for back in range(0, 26 * 60, 15))


@given(st.sampled_from(ZONES), st.sampled_from(PERIODS), moments)
@example("America/St_Johns", "day", at("2005-10-30T03:10:30+00:00"))
@example("America/St_Johns", "day", at("2005-10-30T02:30:30+00:00"))
@example("Pacific/Apia", "day", at("2011-12-30T09:59:59+00:00"))
@example("Pacific/Apia", "day", at("2011-12-30T10:00:00+00:00"))
@example("America/Sao_Paulo", "day", at("2018-11-04T03:00:00+00:00"))
@example("America/Havana", "month", at("2020-11-01T04:30:00+00:00"))
@example("Australia/Lord_Howe", "week", at("2024-04-06T15:10:00+00:00"))
def test_a_calendar_window_is_what_the_clocks_on_the_wall_say(zone: str, period: Period, moment: int) -> None:
    moment -= moment % (
        15 * MINUTE
    )  # every change in these zones since 1990 is on a quarter, or a minute after midnight
    start, end = Window.calendar(period, zone).bounds(moment)
    assert start <= moment < end
    here = label(period, scanned(zone, moment))
    assert label(period, scanned(zone, start)) == here
    assert label(period, scanned(zone, end - 1)) == here
    assert label(period, scanned(zone, start - 1)) < here < label(period, scanned(zone, end))


@given(st.sampled_from(ZONES), st.sampled_from(PERIODS), moments)
def test_calendar_windows_follow_without_gap_or_overlap(zone: str, period: Period, moment: int) -> None:
    window = Window.calendar(period, zone)
    start, end = window.bounds(moment)
    assert start <= moment < end
    for inside in (start, end - 1):
        assert window.bounds(inside) == (start, end)
    assert window.bounds(end)[0] == end
    assert window.bounds(start - 1)[1] == start
    assert (window.counted_from(moment), window.next_change(moment)) == (start, end)


@pytest.mark.parametrize("zone", ZONES)
def test_twenty_years_of_days_minute_by_minute_around_every_clock_change(zone: str) -> None:
    window, info = Window.calendar("day", zone), ZoneInfo(zone)
    first, last = at("2001-01-01T00:00:00+00:00"), at("2021-01-01T00:00:00+00:00")
    for hour in range(first, last, 6 * 60 * MINUTE):
        until = hour + 6 * 60 * MINUTE
        if utc(hour).astimezone(info).utcoffset() == utc(until).astimezone(info).utcoffset():
            continue
        latest = scanned(zone, hour)
        for moment in range(hour, until, MINUTE):
            now = utc(moment).astimezone(info).date()
            if now > latest:
                latest = now
                assert window.bounds(moment)[0] == moment
                assert window.bounds(moment - 1)[1] == moment
            assert window.bounds(moment)[0] <= moment < window.bounds(moment)[1]


@pytest.mark.parametrize(
    ("window", "moment", "start", "end"),
    [
        (Window.calendar("day"), "2024-02-29T23:59:59+00:00", "2024-02-29T00:00:00+00:00", "2024-03-01T00:00:00+00:00"),
        (
            Window.calendar("month"),
            "2024-02-10T00:00:00+00:00",
            "2024-02-01T00:00:00+00:00",
            "2024-03-01T00:00:00+00:00",
        ),
        (
            Window.calendar("month"),
            "2023-12-31T23:00:00+00:00",
            "2023-12-01T00:00:00+00:00",
            "2024-01-01T00:00:00+00:00",
        ),
        (
            Window.calendar("week"),
            "2025-01-01T00:00:00+00:00",
            "2024-12-30T00:00:00+00:00",
            "2025-01-06T00:00:00+00:00",
        ),
        (
            Window.calendar("day", "Europe/Berlin"),  # 23 hours
            "2024-03-31T12:00:00+02:00",
            "2024-03-31T00:00:00+01:00",
            "2024-04-01T00:00:00+02:00",
        ),
        (
            Window.calendar("day", "Australia/Lord_Howe"),  # 24 and a half
            "2024-04-07T12:00:00+10:30",
            "2024-04-07T00:00:00+11:00",
            "2024-04-08T00:00:00+10:30",
        ),
        (Window.rolling("day"), "2024-03-01T12:00:00+00:00", "2024-02-29T12:00:00+00:00", "2024-03-01T12:00:00+00:00"),
        (
            Window.rolling("month"),
            "2024-03-31T00:00:00+00:00",
            "2024-03-01T00:00:00+00:00",
            "2024-03-31T00:00:00+00:00",
        ),
        (Window.rolling(90), "2024-03-31T00:00:00+00:00", "2024-03-30T23:58:30+00:00", "2024-03-31T00:00:00+00:00"),
    ],
)
def test_windows_one_by_one(window: Window, moment: str, start: str, end: str) -> None:
    assert window.bounds(at(moment)) == (at(start), at(end))


@given(lengths, moments, st.integers(0, 10**14))
def test_a_rolling_window_counts_for_its_length_and_at_most_two_percent_longer(
    length: int, spent: int, age: int
) -> None:
    window = Window.rolling(length)
    counted = window.counted_from(spent + age) <= spent
    if age <= window.length_us:
        assert counted
    if age > window.length_us * 102 // 100:
        assert not counted


@given(lengths, moments)
def test_what_a_rolling_window_counts_stays_the_same_until_its_next_change(length: int, moment: int) -> None:
    window = Window.rolling(length)
    change = window.next_change(moment)
    assert moment < change <= moment + window.step_us
    assert (
        window.counted_from(change - 1) == window.counted_from(moment) == window.counted_from(change) - window.step_us
    )


@given(st.datetimes(datetime(1971, 1, 1), datetime(9998, 1, 1)))
def test_times_come_back_to_the_microsecond(moment: datetime) -> None:
    assert utc(microseconds(moment.replace(tzinfo=UTC))) == moment.replace(tzinfo=UTC)
    assert (
        microseconds(moment.replace(tzinfo=UTC) + timedelta(microseconds=1)) % SECOND
        == (moment.microsecond + 1) % SECOND
    )


@pytest.mark.parametrize("zone", ["Europe/Berlni", "", "../../etc/passwd", "/etc/localtime", "Europe"])
def test_an_unknown_zone_is_named(zone: str) -> None:
    with pytest.raises(ValueError, match="IANA"):
        Window.calendar("day", zone)


def test_a_window_is_of_some_length() -> None:
    with pytest.raises(ValueError, match="at least one second"):
        Window.rolling(0)
    with pytest.raises(ValueError, match="a day, a week or a month"):
        Window("year", "UTC", 0)  # type: ignore[arg-type]
