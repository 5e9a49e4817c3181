"""Counters in this process: for limits of one node, and as the plain description of what the Redis scripts do."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from extproc.limits.journal import Journal, State, Taken, long
from extproc.limits.stores import KEPT_US, SOON_US, Bucket, Charge, Form, Hold, Standing, Verdict
from extproc.usage.windows import STEPS

_SWEEP = 1024  # buckets that may be added between two looks at which of them are idle


def wall_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class MemoryStore:
    """What outlives the process is in the journal. `clock`: microseconds since the epoch."""

    def __init__(self, clock: Callable[[], int] = wall_us, journal: Journal | None = None) -> None:
        self._clock = clock
        self._journal = journal
        self._buckets: dict[str, _Counter] = {}
        self._sweep_at = _SWEEP
        if journal is not None:
            self._restore(journal)

    def __len__(self) -> int:
        return len(self._buckets)

    async def reserve(self, call: str, holds: Sequence[Hold]) -> Verdict:
        return self.reserve_now(call, holds)

    async def settle(self, call: str, charges: Sequence[Charge]) -> None:
        self.settle_now(call, charges)

    async def close(self) -> None:
        self._buckets.clear()
        if self._journal is not None:
            self._journal.close()

    def reserve_now(self, call: str, holds: Sequence[Hold]) -> Verdict:
        """`reserve` without waiting for anything."""
        now = self._clock()
        counters = [self._counter(hold.bucket, hold.lease_us, now) for hold in holds]
        ends = [counter.choose(hold.ends, now) for counter, hold in zip(counters, holds, strict=True)]
        over = [
            counter.used.get(end, 0) + hold.need - hold.amount
            for counter, hold, end in zip(counters, holds, ends, strict=True)
        ]
        taken = all(beyond <= 0 for beyond in over)
        standings = []
        for hold, counter, end, beyond in zip(holds, counters, ends, over, strict=True):
            if taken:
                counter.take(call, hold, end, now)
            standings.append(counter.standing(end, beyond, now))
            counter.keep(hold.lease_us, end, now)
        if taken and self._journal is not None:
            self._journal.taken(now, call, holds, ends)
        self._sweep(now)
        return Verdict(taken, tuple(standings))

    def settle_now(self, call: str, charges: Sequence[Charge]) -> None:
        """`settle` without waiting for anything."""
        now = self._clock()
        self._settle(call, charges, now)
        if self._journal is not None:
            self._journal.settled(now, call, charges)
        self._sweep(now)

    def states(self) -> Iterator[State]:
        """The counters that a restart must not forget."""
        for key, counter in self._buckets.items():
            if long(Bucket(key, counter.form, counter.step_us)):
                held = [[*call, *lease] for call, lease in counter.held.items()]
                used, steps = list(counter.used.items()), list(counter.steps.items())
                now = [counter.step, counter.last, counter.until]
                yield [key, counter.form, counter.step_us, used, steps, held, *now]

    def _settle(self, call: str, charges: Sequence[Charge], now: int) -> None:
        for charge in charges:
            counter = self._counter(charge.bucket, charge.lease_us, now)
            counter.settle(call, charge, now)
            counter.keep(charge.lease_us, charge.end, now)

    def _restore(self, journal: Journal) -> None:
        """Does again what the journal tells, at the times it tells."""
        for each in journal.read():
            if isinstance(each, list):
                key, form, step_us, used, steps, held, *now = each
                leases = {(call, end): (until, amount) for call, end, until, amount in held}
                self._buckets[key] = _Counter(Form(form), step_us, dict(used), dict(steps), leases, *now)
            elif isinstance(each, Taken):
                for hold, end in each.holds:
                    counter = self._counter(hold.bucket, hold.lease_us, each.now)
                    counter.choose((end,) if end else (), each.now)
                    counter.take(each.call, hold, end, each.now)
                    counter.keep(hold.lease_us, end, each.now)
            else:
                self._settle(each.call, each.charges, each.now)
        journal.replace(self.states())

    def _counter(self, bucket: Bucket, lease_us: int, now: int) -> "_Counter":
        counter = self._buckets.get(bucket.key)
        if counter is None or counter.until <= now:
            counter = self._buckets[bucket.key] = _Counter(bucket.form, bucket.step_us, until=now)
        counter.age(now, lease_us)
        return counter

    def _sweep(self, now: int) -> None:
        """Forgets idle buckets; seldom enough that its cost is spread over those that were added since."""
        if self._journal is not None:
            self._journal.tidy(self.states)
        if len(self._buckets) >= self._sweep_at:
            self._buckets = {key: counter for key, counter in self._buckets.items() if counter.until > now}
            self._sweep_at = 2 * len(self._buckets) + _SWEEP


@dataclass(slots=True)
class _Counter:
    """`used` by calendar window's end, 0 without windows. `held`: (call, window) -> (when that ends, how much)."""

    form: Form
    step_us: int
    used: dict[int, int] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    held: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    step: int | None = None
    last: int = 0
    until: int = 0

    def age(self, now: int, lease_us: int) -> None:
        """Brings it up to now."""
        step = now // self.step_us
        if self.step is not None and step < self.step:
            self._rebase(step, now + lease_us)
        if self.form is Form.ROLLING and self.step != step:
            for old in [old for old in self.steps if old < step - STEPS]:
                self._use(0, -self.steps.pop(old))
        self.step = step
        self._expire(now)

    def choose(self, ends: Sequence[int], now: int) -> int:
        """The end of the calendar window; counters of it and of the one before are kept."""
        if not ends:
            return 0
        chosen = next((end for end in ends if end > now), ends[-1])
        if chosen not in self.used:
            self.used = dict([*list(self.used.items())[-1:], (chosen, 0)])
        return chosen

    def take(self, call: str, hold: Hold, end: int, now: int) -> None:
        if not hold.ask:
            return
        self._use(end, hold.ask)
        if hold.lease_us:
            self.held[call, end] = (now + hold.lease_us, hold.ask)
        else:
            self._spend(now // self.step_us, hold.ask)

    def settle(self, call: str, charge: Charge, now: int) -> None:
        found = self.held.pop((call, charge.end), None)
        if found is None and not charge.anyway:
            return
        if self.form is not Form.CALENDAR or charge.end in self.used or charge.end > now:
            self._use(charge.end, charge.actual - (found[1] if found else 0))
        self._spend(self.step or 0, charge.actual)

    def standing(self, end: int, over: int, now: int) -> Standing:
        used, pending = self.used.get(end, 0), bool(self.held)
        wait, reset = 0, 0
        if self.form is Form.CALENDAR:
            wait, reset = (SOON_US if pending else end - now), end - now
        elif self.form is Form.ROLLING:
            wait = self._wait(over, now) if over > 0 else 0
            last = (self.step or 0) if pending else self.last
            reset = (last + STEPS + 1) * self.step_us - now if used else 0
        else:
            wait = SOON_US
        return Standing(used, wait if over > 0 else 0, max(reset, 0), end, pending)

    def keep(self, lease_us: int, end: int, now: int) -> None:
        """Until when anything in it may count; never sooner than before: what is held may have a longer lease."""
        until = now + lease_us + SOON_US
        if self.form is Form.ROLLING:
            until += self.step_us * (STEPS + 2)
        elif self.form is Form.CALENDAR:
            until += max(end - now, 0) + KEPT_US
        self.until = max(self.until, until)

    def _use(self, end: int, amount: int) -> None:
        self.used[end] = self.used.get(end, 0) + amount

    def _spend(self, step: int, amount: int) -> None:
        if amount and self.form is Form.ROLLING:
            self.steps[step] = self.steps.get(step, 0) + amount
            self.last = max(self.last, step)

    def _wait(self, over: int, now: int) -> int:
        """When enough will be forgotten, as far as it is not held."""
        for step in sorted(self.steps):
            over -= self.steps[step]
            if over <= 0:
                return (step + STEPS + 1) * self.step_us - now
        return SOON_US

    def _rebase(self, step: int, latest: int) -> None:
        """The clock went back: what lies in the future counts from now; nothing is held longer than a lease."""
        for future in [each for each in self.steps if each > step]:
            self.steps[step] = self.steps.get(step, 0) + self.steps.pop(future)
        self.last = step
        self.until = 0
        self.held = {call: (min(until, latest), held) for call, (until, held) in self.held.items()}

    def _expire(self, now: int) -> None:
        """What a lease that ran out held counts from the time it ran out. Leases end in the order they began."""
        while self.held:
            call, (until, held) = next(iter(self.held.items()))
            if until > now:
                return
            del self.held[call]
            step = until // self.step_us
            if self.form is Form.ROLLING and step >= (self.step or 0) - STEPS:
                self._spend(step, held)
            elif self.form is not Form.CALENDAR:
                self._use(0, -held)
