"""What is left of totals when records and fine rollups go."""

import pytest

from extproc.usage.ledger import Ledger, UsageRow
from extproc.usage.ledger.spans import DAY, HOUR, MINUTE
from tests.unit.ledger.usage_records import MAY_1, record

NOW = MAY_1 + 100 * DAY
EVER = 2**52


def prune(ledger: Ledger, rows: int = 5000) -> int:
    calls = 1
    while ledger.prune(NOW, 10, 20, 30, rows=rows):
        calls += 1
    return calls


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    """Two requests a day, at 05:07:01 and 23:59:59, for 100 days, of two keys."""
    late = DAY - 1_000_000
    batch = [
        record(2 * day + n, MAY_1 + day * DAY + (late, 5 * HOUR + 7 * MINUTE + 1_000_000)[n], key="ab"[n])
        for day in range(100)
        for n in range(2)
    ]
    ledger.write(batch, "log", 1)
    return ledger


def test_totals_outlive_what_they_were_summed_from(filled: Ledger) -> None:
    asked = [
        ([], 0, EVER),
        (["key"], 0, EVER),
        (["day"], 0, EVER),
        (["model", "day"], MAY_1 + 3 * DAY, MAY_1 + 50 * DAY),
    ]
    before = [filled.usage(*question) for question in asked]
    prune(filled)
    assert [filled.usage(*question) for question in asked] == before
    assert filled.spent("key", "a", 0, EVER).requests == 100
    assert len(filled.records(limit=1000)) == 20
    assert filled.records(limit=1000)[-1].at_us >= NOW - 10 * DAY


def test_it_goes_in_small_steps(filled: Ledger) -> None:
    assert prune(filled, rows=50) == 4
    assert prune(filled, rows=50) == 1
    assert filled.spent("", "", 0, EVER).requests == 200


def test_answers_are_right_before_all_is_removed(filled: Ledger) -> None:
    whole = filled.usage(["day"], 0, EVER)
    filled.prune(NOW, 10, 20, 30, rows=7)
    assert filled.usage(["day"], 0, EVER) == whole
    assert sum(row.requests for row in filled.usage(["hour"], 0, EVER)) == 200


def test_where_fine_buckets_are_gone_a_range_is_widened(filled: Ledger) -> None:
    prune(filled)
    half = 12 * HOUR
    days_only, hours_left, minutes_left, records_left = (MAY_1 + day * DAY for day in (5, 75, 85, 95))
    assert filled.spent("", "", days_only, days_only + half).requests == 2
    assert filled.spent("", "", hours_left, hours_left + half).requests == 1
    assert filled.spent("", "", hours_left + 5 * HOUR + 8 * MINUTE, hours_left + half).requests == 1
    assert filled.spent("", "", minutes_left + 5 * HOUR + 8 * MINUTE, minutes_left + half).requests == 0
    second = 1_000_000
    in_minute = minutes_left + 5 * HOUR + 7 * MINUTE + 30 * second
    assert filled.spent("", "", in_minute, in_minute + second).requests == 1
    in_minute = records_left + 5 * HOUR + 7 * MINUTE + 30 * second
    assert filled.spent("", "", in_minute, in_minute + second).requests == 0
    assert [names(row) for row in filled.usage(["minute"], days_only, days_only + DAY)] == [("2026-05-06T00:00Z", 2)]


def names(row: UsageRow) -> tuple[str, int]:
    return row.group["minute"], row.requests


def test_a_record_that_comes_late_is_counted(filled: Ledger) -> None:
    prune(filled)
    filled.write([record(999, MAY_1 + HOUR)], "log", 2)
    assert filled.spent("", "", 0, EVER).requests == 201
    prune(filled)
    (first, *_) = filled.usage(["day"], 0, EVER)
    assert (first.group["day"], first.requests) == ("2026-05-01", 3)


def test_a_clock_that_was_set_back_brings_nothing_back(filled: Ledger) -> None:
    prune(filled)
    whole = filled.usage(["day"], 0, EVER)
    filled.prune(MAY_1, 1, 1, 1)
    assert filled.usage(["day"], 0, EVER) == whole


@pytest.mark.parametrize("days", [(0, 1, 1), (2, 1, 3), (1, 3, 2)])
def test_finer_is_never_kept_longer(ledger: Ledger, days: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 <= records <= minutes <= hours"):
        ledger.prune(NOW, *days)
