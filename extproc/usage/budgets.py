"""Which accounts are spent: usage records in, events out. A pure engine: no I/O, the time is passed in.

The collector feeds every new record with `add()` and calls `settle()` after each batch and at `next_change()`. Events
become webhooks and a new snapshot. The ledger stays the truth of what was spent: after a start, `load()` brings back
what was already told, `seed()` what the ledger holds, and only then comes the first `settle()`.

Clocks. A step back of up to a minute is waited out. A longer one is believed, but an account stays spent until the end
of the window in which it was spent, and nothing is told twice for a window. Only an account that a wrong clock had
already restored can become spent again in the same window. Each record counts once, in the window of its own time.

Overshoot. Enforcement is eventual: see `worst_overshoot`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, Literal, get_args

from extproc.usage.record import UsageRecord
from extproc.usage.windows import SECOND, STEPS, Bounds, Window

OwnerKind = Literal["key", "team", "organization", ""]
Unit = Literal["pico", "tokens", "requests"]
Identity = tuple[str, str, str, str, str, str, int]

DOWNGRADE: Final = re.compile("downgrade:(.+)")
STEP_BACK_US: Final = 60 * SECOND  # a clock set back by up to this much is waited out


@dataclass(frozen=True, slots=True)
class Account:
    """One budget (or eventual token limit) of one owner. Owner kind "" is everyone together, with owner "".

    `amount` is in `unit`: picodollars, tokens (input and output) or requests. A record without a known price counts
    nothing in picodollars. `warn` are parts of the amount, such as Decimal("0.8").
    """

    budget: str
    owner_kind: OwnerKind
    owner: str
    unit: Unit
    amount: int
    window: Window
    warn: tuple[Fraction | Decimal, ...] = ()
    on_spent: str = "block"  # or "warn", or "downgrade:MODEL"
    webhooks: tuple[str, ...] = ()  # endpoints that hear of it

    def __post_init__(self) -> None:
        if self.owner_kind not in get_args(OwnerKind) or self.unit not in get_args(Unit):
            raise ValueError(f"budget {self.budget!r}: unknown owner kind {self.owner_kind!r} or unit {self.unit!r}")
        if bool(self.owner_kind) != bool(self.owner):
            raise ValueError(f"budget {self.budget!r}: an owner has a kind and a name, or neither (everyone)")
        if self.amount < 0:
            raise ValueError(f"budget {self.budget!r}: an amount is not negative, found {self.amount}")
        if any((isinstance(part, Decimal) and not part.is_finite()) or part <= 0 for part in self.warn):
            raise ValueError(f"budget {self.budget!r}: warn takes parts of the amount above zero, such as 0.8")
        if self.on_spent not in ("block", "warn") and not DOWNGRADE.fullmatch(self.on_spent):
            raise ValueError(f"budget {self.budget!r}: on_spent is block, warn or downgrade:MODEL")

    @property
    def identity(self) -> Identity:
        """What makes it the same account: its count goes on when amount, warnings or `on_spent` change."""
        window = self.window
        return self.budget, self.owner_kind, self.owner, self.unit, window.period or "", window.zone, window.seconds


@dataclass(frozen=True, slots=True)
class Warned:
    account: Account
    threshold: Fraction
    spent: int
    window: Bounds
    at_us: int


@dataclass(frozen=True, slots=True)
class Spent:
    """`until_us`: when the account is free again if nothing more is spent."""

    account: Account
    spent: int
    until_us: int
    window: Bounds
    at_us: int


@dataclass(frozen=True, slots=True)
class Restored:
    account: Account
    spent: int
    window: Bounds
    at_us: int


Event = Warned | Spent | Restored


@dataclass(frozen=True, slots=True)
class Standing:
    """How an account stands. `until_us`: when a spent one is free again if nothing more is spent; else None."""

    account: Account
    used: int
    amount: int
    remaining: int  # zero when overspent
    window: Bounds
    ratio: float  # for display
    until_us: int | None

    @property
    def spent(self) -> bool:
        return self.until_us is not None


@dataclass(frozen=True, slots=True)
class Lag:
    """How long after a request ended the edge knows what it cost, in microseconds, each at its worst."""

    flush_us: int  # Envoy buffers the access log
    batch_us: int  # the collector writes and settles a batch
    push_us: int  # a snapshot is built, pushed and acknowledged
    restart_us: int = 0  # until a collector that was killed counts again
    hung_us: int = 0  # until one that hangs does

    @property
    def total_us(self) -> int:
        return self.flush_us + self.batch_us + self.push_us

    def __str__(self) -> str:
        parts = (("flush", self.flush_us), ("batch", self.batch_us), ("push", self.push_us))
        return " + ".join(f"{name} {us / SECOND:g} s" for name, us in parts)


def worst_overshoot(rate: int, lag: Lag, in_flight: int = 0, largest: int = 0) -> int:
    """The most that is spent beyond an amount that is enforced eventually, in the unit of `rate`.

    Until the edge denies, requests end and are admitted at the rate of spending (units per second, at its peak): that
    is rate x lag. Those in flight when it begins to deny still run to their end: that is their number x the largest.
    """
    return -(-rate * lag.total_us // SECOND) + in_flight * largest


def explain_overshoot(lag: Lag) -> str:
    """The same in words, for `ctl explain`."""
    said = f"at most what is spent in {lag.total_us / SECOND:g} s ({lag}), and what requests then in flight still cost"
    if lag.restart_us or lag.hung_us:
        killed, hung = (f"{(lag.total_us + us) / SECOND:g} s" for us in (lag.restart_us, lag.hung_us))
        said += f"; in {killed} when the collector is killed, in {hung} when it hangs, longer while `ctl up` is down"
    return said


class _CalendarSums:
    """What was spent, by the start of the window it belongs to."""

    __slots__ = ("_end", "_start", "_sums", "_window")

    def __init__(self, window: Window) -> None:
        self._window = window
        self._start = self._end = 0  # the window asked for last: nearly always the one asked for next
        self._sums: dict[int, int] = {}

    def _start_of(self, at_us: int) -> int:
        if not self._start <= at_us < self._end:
            self._start, self._end = self._window.bounds(at_us)
        return self._start

    def add(self, at_us: int, spent: int) -> None:
        start = self._start_of(at_us)
        self._sums[start] = self._sums.get(start, 0) + spent

    def used(self, at_us: int) -> int:
        return self._sums.get(self._start_of(at_us), 0)

    def free_at(self, at_us: int, amount: int) -> int:
        return self._window.bounds(at_us)[1]

    def forget(self, at_us: int) -> None:
        """Keeps the window before, for a clock that is set back."""
        if len(self._sums) > 2:
            kept = self._window.bounds(self._start_of(at_us) - 1)[0]
            self._sums = {start: spent for start, spent in self._sums.items() if start >= kept}


class _RollingSums:
    """What was spent, by step. Steps ahead of the clock count too, so that a clock set back never frees anything."""

    __slots__ = ("_length", "_step", "_sums")

    def __init__(self, window: Window) -> None:
        self._step, self._length = window.step_us, window.length_us
        self._sums: dict[int, int] = {}

    def add(self, at_us: int, spent: int) -> None:
        step = at_us // self._step
        self._sums[step] = self._sums.get(step, 0) + spent

    def used(self, at_us: int) -> int:
        first = at_us // self._step - STEPS
        return sum([spent for step, spent in self._sums.items() if step >= first])

    def free_at(self, at_us: int, amount: int) -> int:
        left, first = self.used(at_us), at_us // self._step - STEPS
        for step in sorted(self._sums):
            left -= self._sums[step] if step >= first else 0
            if left < amount:
                return (step + STEPS + 1) * self._step
        return at_us + self._length  # an amount of zero

    def forget(self, at_us: int) -> None:
        """Keeps as much again as counts, for a clock that is set back."""
        if len(self._sums) > 2 * STEPS + 2:
            kept = at_us // self._step - 2 * STEPS
            self._sums = {step: spent for step, spent in self._sums.items() if step >= kept}


def _thresholds(account: Account) -> tuple[Fraction, ...]:
    return tuple(sorted({Fraction(part) for part in account.warn}))


class _State:
    """An account, its sums, and what was told about it."""

    __slots__ = ("account", "held_us", "spent", "sums", "thresholds", "told", "unit", "until_us")

    def __init__(self, account: Account) -> None:
        self.sums = _CalendarSums(account.window) if account.window.period else _RollingSums(account.window)
        self.told: dict[Fraction, int] = {}  # thresholds, and until when each is not told again
        self.spent = False
        self.held_us = 0  # when it became spent: it is never judged by an earlier time while it is
        self.until_us = 0
        self.unit = account.unit
        self.account = account
        self.thresholds = _thresholds(account)

    def describe(self, account: Account, now_us: int) -> None:
        """The same account with another amount, other warnings or another `on_spent`."""
        self.account = account
        self.thresholds = _thresholds(account)
        used = self.sums.used(max(now_us, self.held_us))
        self.told = {part: until for part, until in self.told.items() if self.reached(part, used)}

    def reached(self, threshold: Fraction, used: int) -> bool:
        return used * threshold.denominator >= threshold.numerator * self.account.amount

    def look(self, now_us: int) -> Iterator[Event]:
        account, at = self.account, max(now_us, self.held_us)
        self.sums.forget(at)
        used, window = self.sums.used(at), account.window.bounds(at)
        for threshold in self.thresholds:
            if self.reached(threshold, used) and at >= self.told.get(threshold, 0):
                self.told[threshold] = window[1] if account.window.period else at + account.window.length_us
                yield Warned(account, threshold, used, window, at)
        if used >= account.amount:
            # Still spent in the next calendar window is news; a rolling window that moved on is not.
            news = not self.spent or (account.window.period is not None and at >= self.until_us)
            self.spent, self.until_us = True, self.sums.free_at(at, account.amount)
            if news:
                self.held_us = at
                yield Spent(account, used, self.until_us, window, at)
        elif self.spent:
            self.spent, self.held_us = False, 0
            yield Restored(account, used, window, at)

    def dump(self, now_us: int) -> dict[str, Any]:
        told = {str(part): until for part, until in self.told.items() if until > now_us}
        spent = {"held_us": self.held_us, "until_us": self.until_us} if self.spent else None
        return {"account": list(self.account.identity), "told": told, "spent": spent}

    def load(self, entry: Mapping[str, Any]) -> None:
        self.told = {Fraction(part): until for part, until in entry["told"].items()}
        if entry["spent"] is not None:
            self.spent, self.held_us, self.until_us = True, entry["spent"]["held_us"], entry["spent"]["until_us"]

    def standing(self, now_us: int) -> Standing:
        account, at = self.account, max(now_us, self.held_us)
        used, amount = self.sums.used(at), account.amount
        until = self.sums.free_at(at, amount) if used >= amount else None
        ratio = used / amount if amount else 1.0
        return Standing(account, used, amount, max(amount - used, 0), account.window.bounds(at), ratio, until)


class Budgets:
    """Counts records per account. Raises ValueError for two accounts with the same identity."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._states: dict[Identity, _State] = {}
        self._owners: dict[OwnerKind, dict[str, list[_State]]] = {}
        self._touched: dict[_State, None] = {}  # dicts for sets: events come in a repeatable order
        self._spent: dict[_State, None] = {}
        self._clock = 0
        self.replace(accounts)

    def replace(self, accounts: Iterable[Account]) -> list[Account]:
        """Takes over what stays the same account; returns the others, which need a `seed`. Those gone raise no event.

        A threshold that a new amount moves out of reach is told again once it is reached.
        """
        states: dict[Identity, _State] = {}
        fresh: list[Account] = []
        owners: dict[OwnerKind, dict[str, list[_State]]] = {kind: {} for kind in get_args(OwnerKind)}
        for account in accounts:
            if account.identity in states:
                raise ValueError(f"budget {account.budget!r}: two accounts for {account.owner_kind} {account.owner!r}")
            state = self._states.get(account.identity)
            if state is None:
                state = _State(account)
                fresh.append(account)
            states[account.identity] = state
            owners[account.owner_kind].setdefault(account.owner, []).append(state)
            if state.account != account:
                state.describe(account, self._clock)
        self._states, self._owners = states, owners
        self._touched = dict.fromkeys(states.values())
        self._spent = {state: None for state in states.values() if state.spent}
        return fresh

    def admit(self, account: Account) -> None:
        """Takes one more account, which needs a `seed`. Raises ValueError when it is there already."""
        if account.identity in self._states:
            raise ValueError(f"budget {account.budget!r}: two accounts for {account.owner_kind} {account.owner!r}")
        state = self._states[account.identity] = _State(account)
        self._owners[account.owner_kind].setdefault(account.owner, []).append(state)

    def seed(self, account: Account, spent: int, at_us: int) -> None:
        """Adds what the ledger holds, in place of its records: once per account and stretch of time, `at_us` within it.

        The ledger is asked for what is no older than `window.counted_from(now)`, for a rolling window in stretches of
        `window.step_us` from a multiple of it. No record may be added between that query and the seed: it would count
        twice. Raises ValueError for an unknown account.
        """
        state = self._states.get(account.identity)
        if state is None:
            raise ValueError(
                f"budget {account.budget!r}: no account for {account.owner_kind} {account.owner!r} to seed"
            )
        state.sums.add(at_us, spent)
        self._touched[state] = None

    def add(self, record: UsageRecord) -> None:
        """Counts a new record. A negative amount, which no honest provider reports, counts as zero."""
        owners, at = self._owners, record.at_us
        for states in (
            owners["key"].get(record.key),
            owners["team"].get(record.team),
            owners["organization"].get(record.organization),
            owners[""].get(""),
        ):
            for state in states or ():
                unit = state.unit
                amount = record.cost_pico or 0 if unit == "pico" else record.tokens.total if unit == "tokens" else 1
                if amount > 0:
                    state.sums.add(at, amount)
                    self._touched[state] = None

    def settle(self, now_us: int) -> list[Event]:
        """What happened to accounts since the last time. Costs nothing for accounts without new records."""
        now = self._at(now_us)
        if now < self._clock:  # a clock set back is believed: what it says of every account
            self._touched = dict.fromkeys(self._states.values())
        self._clock = now
        looks, self._touched = self._touched, {}
        looks.update((state, None) for state in self._spent if state.until_us <= now)
        events = [event for state in looks for event in state.look(now)]
        for state in looks:
            if state.spent:
                self._spent[state] = None
            else:
                self._spent.pop(state, None)
        return events

    def next_change(self, now_us: int) -> int | None:
        """When to settle next although no record comes; None: when the next record comes."""
        if self._touched:
            return now_us
        return min((state.until_us for state in self._spent), default=None)

    def spent_now(self, now_us: int) -> list[Standing]:
        """How every account stands, in the order they were given. Changes nothing."""
        now = self._at(now_us)
        return [state.standing(now) for state in self._states.values()]

    def used(self, account: Account, at_us: int) -> int:
        """What is counted for the window at `at_us`. Raises KeyError for an unknown account."""
        return self._states[account.identity].sums.used(at_us)

    def dump(self) -> dict[str, Any]:
        """What was told, as a JSON document. To be stored after the events of `settle` are in safe hands."""
        entries = (state.dump(self._clock) for state in self._states.values())
        return {"version": 1, "accounts": [entry for entry in entries if entry["told"] or entry["spent"]]}

    def load(self, document: Mapping[str, Any]) -> None:
        """Takes what `dump` gave, before the first `settle`; accounts that are gone are left out.

        Raises ValueError for a document of another version.
        """
        if document.get("version") != 1:
            raise ValueError(f"budget state of version {document.get('version')!r}: expected version 1")
        for entry in document["accounts"]:
            state = self._states.get(tuple(entry["account"]))
            if state is not None:
                state.load(entry)
                if state.spent:
                    self._spent[state] = None

    def _at(self, now_us: int) -> int:
        return now_us if now_us < self._clock - STEP_BACK_US else max(now_us, self._clock)
