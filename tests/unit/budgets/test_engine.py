"""The budget engine against a list of records and the simplest thing that could be right."""

import json
import timeit
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.usage.budgets import (
    Account,
    Budgets,
    Event,
    Lag,
    OwnerKind,
    Restored,
    Spent,
    Unit,
    Warned,
    explain_overshoot,
    worst_overshoot,
)
from extproc.usage.record import Tokens, UsageRecord
from extproc.usage.windows import SECOND, Window, microseconds

HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOON = microseconds(datetime(2026, 3, 10, 12, tzinfo=UTC))
MIDNIGHT = NOON + 12 * HOUR

WINDOWS = (
    Window.calendar("day"),
    Window.calendar("day", "Australia/Lord_Howe"),
    Window.calendar("week", "America/New_York"),
    Window.rolling(60),
    Window.rolling("day"),
)


def record(at_us: int, tokens: int = 1, cost: int | None = 0, key: str = "alice", team: str = "red") -> UsageRecord:
    return UsageRecord(
        id="r",
        at_us=at_us,
        key=key,
        team=team,
        organization="acme",
        model="m",
        provider="p",
        served_model="m",
        surface="chat/completions",
        attempts=1,
        status=200,
        tokens=Tokens(input=tokens),
        estimated=False,
        cost_pico=cost,
        first_byte_us=None,
        duration_us=1,
        bytes_in=1,
        bytes_out=1,
        streamed=False,
        complete=True,
        cache_hit=False,
    )


def account(window: Window = WINDOWS[0], amount: int = 100, budget: str = "b", **others: object) -> Account:
    plain = Account(budget, "key", "alice", "tokens", amount, window, (Decimal("0.5"), Fraction(4, 5)))
    return replace(plain, **others)  # type: ignore[arg-type]


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


owners: st.SearchStrategy[tuple[OwnerKind, str]] = st.sampled_from(
    [("key", "alice"), ("key", "bob"), ("team", "red"), ("team", "blue"), ("organization", "acme"), ("", "")]
)
accounts = st.lists(
    st.builds(
        lambda owner, unit, amount, window, warn: Account("b", owner[0], owner[1], unit, amount, window, tuple(warn)),
        owners,
        st.sampled_from(["pico", "tokens", "requests"]),
        st.integers(0, 60),
        st.sampled_from(WINDOWS),
        st.lists(st.sampled_from([Decimal("0.5"), Fraction(1, 3), Decimal("0.9"), Decimal(1)]), max_size=3),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda found: found.identity,
)
# How much later than the one before, how late it is told, and the record.
steps = st.lists(
    st.tuples(
        st.sampled_from([0, SECOND, 20 * SECOND, HOUR, 9 * HOUR, 30 * HOUR]),
        st.sampled_from([0, 0, SECOND, 2 * HOUR]),
        st.builds(
            record,
            st.just(0),
            st.integers(0, 30),
            st.none() | st.integers(0, 30),
            st.sampled_from(["alice", "bob", ""]),
            st.sampled_from(["red", "blue", ""]),
        ),
    ),
    max_size=40,
)


def history(moves: list[tuple[int, int, UsageRecord]]) -> list[tuple[int, UsageRecord]]:
    now, told = NOON, []
    for later, late, one in moves:
        now += later
        told.append((now, one._replace(at_us=now - late)))
    return told


def owned(found: Account, one: UsageRecord) -> bool:
    owner = {"key": one.key, "team": one.team, "organization": one.organization, "": ""}[found.owner_kind]
    return owner == found.owner


def value(unit: Unit, one: UsageRecord) -> int:
    return {"pico": one.cost_pico or 0, "tokens": one.tokens.total, "requests": 1}[unit]


def expected(found: Account, records: list[UsageRecord], now: int) -> int:
    window = found.window
    mine = [one for one in records if owned(found, one)]
    if window.period:
        mine = [one for one in mine if window.bounds(one.at_us) == window.bounds(now)]
    return sum(value(found.unit, one) for one in mine if one.at_us >= window.counted_from(now))


@given(accounts, steps)
def test_used_is_the_sum_of_the_records_and_spent_is_what_reached_its_amount(
    found: list[Account], moves: list[tuple[int, int, UsageRecord]]
) -> None:
    budgets, records, denied = Budgets(found), [], set()
    for now, one in history(moves):
        records.append(one)
        budgets.add(one)
        for event in budgets.settle(now):
            if isinstance(event, Spent):
                denied.add(event.account)
            elif isinstance(event, Restored):
                denied.remove(event.account)
        for standing in budgets.spent_now(now):
            used = expected(standing.account, records, now)
            assert standing.used == used == budgets.used(standing.account, now)
            assert standing.remaining == max(standing.amount - used, 0)
            assert standing.spent == (used >= standing.amount) == (standing.account in denied)


@given(accounts, steps)
def test_each_is_told_once_per_window_and_when_it_is_reached(
    found: list[Account], moves: list[tuple[int, int, UsageRecord]]
) -> None:
    budgets, told, records = Budgets(found), Counter[object](), []
    last: dict[tuple[Account, Fraction], int] = {}
    for now, one in history(moves):
        records.append(one)
        budgets.add(one)
        for event in budgets.settle(now):
            rolling = event.account.window.period is None
            if isinstance(event, Warned):
                assert event.spent >= event.threshold * event.account.amount
                mark = (event.account, event.threshold)
                if rolling and mark in last:
                    assert now - last[mark] >= event.account.window.length_us
                last[mark] = now
            if not rolling and not isinstance(event, Restored):
                told[(type(event), event.account, getattr(event, "threshold", None), event.window)] += 1
        for each in found:
            for part in {Fraction(part) for part in each.warn}:
                if each.window.period and expected(each, records, now) >= part * each.amount:
                    assert told[(Warned, each, part, each.window.bounds(now))] == 1
    assert set(told.values()) <= {1}


@given(accounts, steps, st.data())
def test_a_restart_changes_nothing(
    found: list[Account], moves: list[tuple[int, int, UsageRecord]], data: st.DataObject
) -> None:
    told = history(moves)
    stop = data.draw(st.integers(0, len(told)))
    whole, parts = Budgets(found), Budgets(found)
    records: list[UsageRecord] = []
    for number, (now, one) in enumerate(told):
        if number == stop:
            parts = restarted(parts, found, records, now)
        records.append(one)
        whole.add(one)
        parts.add(one)
        assert sorted(map(repr, whole.settle(now))) == sorted(map(repr, parts.settle(now)))
        assert whole.spent_now(now) == parts.spent_now(now)
        # A rolling amount of zero is never free: when to look at it again counts from the last look.
        if all(each.amount or each.window.period for each in found):
            assert whole.next_change(now) == parts.next_change(now)


def restarted(before: Budgets, found: list[Account], records: list[UsageRecord], now: int) -> Budgets:
    after = Budgets(found)
    after.load(json.loads(json.dumps(before.dump())))
    for each in found:
        sums = Counter[int]()
        for one in records:
            if owned(each, one) and one.at_us >= each.window.counted_from(now):
                step = 1 if each.window.period else each.window.step_us
                sums[one.at_us // step * step] += value(each.unit, one)
        for at, spent in sums.items():
            after.seed(each, spent, at)
    return after


@given(accounts, steps, st.lists(st.integers(-40 * DAY, 40 * DAY), min_size=1, max_size=40))
def test_clock_steps_never_free_a_spent_account_early(
    found: list[Account], moves: list[tuple[int, int, UsageRecord]], clock: list[int]
) -> None:
    budgets = Budgets(found)
    until: dict[Account, int] = {}
    highest = 0
    for number, (now, one) in enumerate(history(moves)):
        seen = now + clock[number % len(clock)]
        budgets.add(one._replace(at_us=seen))
        highest = max(highest, seen)
        for event in budgets.settle(seen):
            if isinstance(event, Spent):
                assert event.account not in until or event.window[0] >= until[event.account]
                until[event.account] = event.until_us
            elif isinstance(event, Restored):
                assert highest >= until.pop(event.account)


@settings(max_examples=50)
@given(st.permutations(range(12)))
def test_the_order_of_records_does_not_matter(order: list[int]) -> None:
    records = [record(NOON + number * 3 * HOUR, tokens=2**number) for number in range(12)]
    budgets = Budgets([account(amount=10**9)])
    for number in order:
        budgets.add(records[number])
    for one in records:
        assert budgets.used(account(), one.at_us) == expected(account(), records, one.at_us)


def test_warnings_come_in_order_then_spent_then_restored() -> None:
    budgets = Budgets([account()])
    assert budgets.settle(NOON) == []
    assert budgets.next_change(NOON) is None
    budgets.add(record(NOON, tokens=120))
    day = (MIDNIGHT - DAY, MIDNIGHT)
    assert budgets.next_change(NOON) == NOON
    assert budgets.settle(NOON) == [
        Warned(account(), Fraction(1, 2), 120, day, NOON),
        Warned(account(), Fraction(4, 5), 120, day, NOON),
        Spent(account(), 120, MIDNIGHT, day, NOON),
    ]
    assert budgets.settle(NOON + 1) == []
    assert budgets.next_change(NOON) == MIDNIGHT
    assert budgets.settle(MIDNIGHT - 1) == []
    assert budgets.settle(MIDNIGHT) == [Restored(account(), 0, (MIDNIGHT, MIDNIGHT + DAY), MIDNIGHT)]
    assert budgets.next_change(MIDNIGHT) is None


def test_a_late_record_counts_in_its_own_window_only() -> None:
    budgets = Budgets([account()])
    budgets.settle(MIDNIGHT + SECOND)
    budgets.add(record(MIDNIGHT - 1, tokens=100))
    assert budgets.settle(MIDNIGHT + SECOND) == []
    assert budgets.used(account(), MIDNIGHT - 1) == 100
    assert budgets.used(account(), MIDNIGHT) == 0


def test_a_rolling_account_is_free_when_enough_has_expired() -> None:
    minute = account(Window.rolling(60))
    budgets = Budgets([minute])
    for second in (0, 10, 20):
        budgets.add(record(NOON + second * SECOND, tokens=40))
    (spent,) = [event for event in budgets.settle(NOON + 20 * SECOND) if isinstance(event, Spent)]
    assert NOON + 60 * SECOND < spent.until_us <= NOON + 61 * SECOND
    budgets.add(record(NOON + 21 * SECOND, tokens=40))  # was in flight
    assert budgets.settle(NOON + 21 * SECOND) == []
    (standing,) = budgets.spent_now(NOON + 21 * SECOND)
    assert standing.until_us is not None
    assert NOON + 70 * SECOND < standing.until_us <= NOON + 71 * SECOND
    assert budgets.settle(standing.until_us - 1) == []
    assert kinds(budgets.settle(standing.until_us)) == ["Restored"]


def test_a_clock_a_little_back_is_waited_out() -> None:
    budgets = Budgets([account()])
    budgets.add(record(NOON, tokens=100))
    budgets.settle(NOON)
    assert kinds(budgets.settle(MIDNIGHT)) == ["Restored"]
    assert budgets.settle(MIDNIGHT - 2 * SECOND) == []
    assert budgets.spent_now(MIDNIGHT - 2 * SECOND)[0].used == 0
    assert budgets.settle(MIDNIGHT + SECOND) == []


def test_a_clock_far_back_is_believed_and_what_is_spent_stays_spent() -> None:
    budgets = Budgets([account(), account(owner="bob")])
    budgets.add(record(MIDNIGHT + HOUR, tokens=100))
    budgets.add(record(NOON, tokens=60, key="bob"))
    assert kinds(budgets.settle(MIDNIGHT + HOUR)) == ["Warned", "Warned", "Spent"]
    assert [(event.account.owner, type(event)) for event in budgets.settle(NOON)] == [("bob", Warned)]
    alice, bob = budgets.spent_now(NOON)
    assert (alice.spent, alice.used, bob.used) == (True, 100, 60)
    assert budgets.settle(MIDNIGHT + 2 * HOUR) == []
    assert kinds(budgets.settle(MIDNIGHT + DAY)) == ["Restored"]


def test_a_window_already_spent_when_it_is_looked_at_is_told_without_a_restored() -> None:
    budgets = Budgets([account()])
    budgets.add(record(NOON, tokens=100))
    budgets.settle(NOON)
    budgets.add(record(MIDNIGHT, tokens=100))
    assert kinds(budgets.settle(MIDNIGHT + SECOND)) == ["Warned", "Warned", "Spent"]


def test_an_amount_of_zero_is_spent_at_once() -> None:
    nothing = [account(amount=0, warn=()), account(Window.rolling(60), amount=0, warn=(), budget="r")]
    budgets = Budgets(nothing)
    assert kinds(budgets.settle(NOON)) == ["Spent", "Spent"]
    assert [standing.ratio for standing in budgets.spent_now(NOON)] == [1.0, 1.0]
    assert kinds(budgets.settle(MIDNIGHT)) == ["Spent"]


def test_replacing_accounts_keeps_the_count_of_the_same_one() -> None:
    budgets = Budgets([account()])
    budgets.add(record(NOON, tokens=100))
    budgets.settle(NOON)
    more, other = account(amount=150, on_spent="downgrade:small"), account(owner="bob")
    assert budgets.replace(iter([more, other])) == [other]
    assert budgets.settle(NOON) == [Restored(more, 100, (MIDNIGHT - DAY, MIDNIGHT), NOON)]
    budgets.add(record(NOON, tokens=20))
    # Half of the amount was told and stays reached; four fifths moved out of reach and is told again.
    assert [event.threshold for event in budgets.settle(NOON) if isinstance(event, Warned)] == [Fraction(4, 5)]
    assert budgets.replace([account(amount=120)]) == []
    assert kinds(budgets.settle(NOON)) == ["Spent"]
    assert budgets.replace([account(unit="requests"), account(Window.rolling("day"))]) == [
        account(unit="requests"),
        account(Window.rolling("day")),
    ]
    assert budgets.settle(NOON) == []
    assert [standing.used for standing in budgets.spent_now(NOON)] == [0, 0]


def test_unpriced_and_absurd_amounts_count_nothing() -> None:
    money, tokens = account(unit="pico"), account(budget="t")
    budgets = Budgets([money, tokens])
    budgets.add(record(NOON, tokens=-(10**30), cost=None))
    budgets.add(record(NOON, tokens=7, cost=-5))
    assert (budgets.used(money, NOON), budgets.used(tokens, NOON)) == (0, 7)


def test_what_was_told_outlives_a_restart_and_accounts_that_are_gone_are_left_out() -> None:
    before = Budgets([account(), account(owner="bob")])
    before.add(record(NOON, tokens=100))
    before.add(record(NOON, tokens=60, key="bob"))
    before.settle(NOON)
    after = Budgets([account()])
    after.load(json.loads(json.dumps(before.dump())))
    after.seed(account(), 100, NOON)
    assert after.settle(NOON) == []
    assert kinds(after.settle(MIDNIGHT)) == ["Restored"]
    after.settle(MIDNIGHT + DAY)
    assert after.dump() == {"version": 1, "accounts": []}


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="two accounts for key 'alice'"):
        Budgets([account(), account(amount=7)])
    with pytest.raises(ValueError, match="no account for key 'bob' to seed"):
        Budgets([account()]).seed(account(owner="bob"), 1, NOON)
    with pytest.raises(ValueError, match="expected version 1"):
        Budgets([]).load({"version": 2})
    for wrong in (
        {"amount": -1},
        {"owner": ""},
        {"owner_kind": ""},
        {"unit": "usd"},
        {"warn": (Decimal("NaN"),)},
        {"warn": (Decimal(0),)},
        {"on_spent": "downgrade:"},
        {"on_spent": "deny"},
    ):
        with pytest.raises(ValueError, match="budget 'b'"):
            account(**wrong)


def test_adding_costs_less_than_two_microseconds_per_account() -> None:
    budgets = Budgets(
        [
            account(Window.rolling(60)),
            account(Window.calendar("month", "Europe/Berlin"), owner_kind="team", owner="red", unit="pico"),
            account(Window.rolling("day"), owner_kind="organization", owner="acme"),
            account(owner_kind="", owner="", unit="requests"),
            *(account(owner=f"key{number}") for number in range(5000)),
        ]
    )
    one = record(NOON, cost=5)
    seconds = min(timeit.repeat(lambda: budgets.add(one), number=2000, repeat=10)) / 2000
    assert seconds / 4 < 2e-6


@pytest.mark.parametrize("duration_us", [0, 3 * SECOND])
def test_overshoot_stays_within_its_bound(duration_us: int) -> None:
    """Requests of 7 tokens, 50 a second; a flush every second, a batch every 200 ms, a push of 50 ms."""
    lag = Lag(SECOND, 200_000, 50_000)
    each, amount, gap = 7, 10_000, 20_000
    limit = account(Window.rolling("day"), amount)
    budgets = Budgets([limit])
    ends = [NOON + number * gap + duration_us for number in range(5000)]
    known = [-(-(end - NOON) // lag.flush_us) * lag.flush_us + NOON for end in ends]
    denied_at = None
    for before, batch in pairwise(range(NOON, NOON + 100 * SECOND, lag.batch_us)):
        for end, at in zip(ends, known, strict=True):
            if before < at <= batch:
                budgets.add(record(end, tokens=each))
        if any(isinstance(event, Spent) for event in budgets.settle(batch)):
            denied_at = batch + lag.push_us
            break
    assert denied_at is not None
    admitted = sum(1 for end in ends if end - duration_us < denied_at)
    in_flight = -(-duration_us // gap)
    assert 0 < admitted * each - amount <= worst_overshoot(50 * each, lag, in_flight, each)


def test_overshoot_in_words() -> None:
    assert worst_overshoot(3, Lag(SECOND, 0, 1)) == 4
    assert explain_overshoot(Lag(SECOND, 200_000, 50_000)) == (
        "at most what is spent in 1.25 s (flush 1 s + batch 0.2 s + push 0.05 s),"
        " and what requests then in flight still cost"
    )
