"""Both stores against a plain model: never over, never refused with room, all or none, and always of one opinion."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from extproc.limits.memory import MemoryStore
from extproc.limits.redis_store import RedisStore
from extproc.limits.stores import Bucket, Charge, Form, Hold, Verdict
from extproc.usage.windows import STEPS
from tests.support.redis import RedisServer

START = 1_700_000_000_000_000
STEP = 1_000_000
LEASE = 20_000_000
DAY = 50_000_000  # of the calendar used here
PATIENT_S = 30.0
names = itertools.count()


@dataclass
class Spent:
    at: int
    amount: int


@dataclass
class Modelled:
    """One bucket as a list of what happened: nothing is ever summed up or forgotten."""

    bucket: Bucket
    amount: int
    spent: list[Spent] = field(default_factory=list)
    held: dict[str, tuple[int, int]] = field(default_factory=dict)  # call -> (from, amount)

    def counts(self, now: int, at: int, late: int) -> bool:
        """Whether what was spent at a time counts now, if it is forgotten `late`."""
        if self.bucket.form is Form.CALENDAR:
            return at // DAY == now // DAY
        return at > now - STEPS * STEP - late

    def used(self, now: int, late: int = 0) -> int:
        past = sum(each.amount for each in self.spent if self.counts(now, each.at, late))
        if self.bucket.form is Form.CALENDAR:
            return past + sum(amount for since, amount in self.held.values() if self.counts(now, since, late))
        return past + sum(amount for _, amount in self.held.values())

    def expire(self, now: int) -> None:
        for call, (since, amount) in list(self.held.items()):
            if since + LEASE <= now:
                del self.held[call]
                if self.bucket.form is not Form.LEASES:
                    at = since if self.bucket.form is Form.CALENDAR else since + LEASE
                    self.spent.append(Spent(at, amount))

    def settle(self, call: str, actual: int, now: int) -> None:
        if call in self.held:
            since, _ = self.held.pop(call)
            if self.bucket.form is not Form.LEASES:
                self.spent.append(Spent(since if self.bucket.form is Form.CALENDAR else now, actual))


@dataclass
class Taken:
    call: str
    holds: dict[int, Hold]
    ends: dict[int, int]


def windows(now: int) -> tuple[int, ...]:
    day = now // DAY * DAY
    return (day + DAY, day + 2 * DAY)


class Counting(RuleBasedStateMachine):
    """Three buckets of the three forms; amounts beyond 2^53 show where a number would lose its last digits."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.stepped_back = False
        self.runner = asyncio.Runner()
        run = next(names)
        self.stores = (
            MemoryStore(lambda: self.now),
            RedisStore(self.url, prefix=f"machine{run}", timeout_s=PATIENT_S, clock=lambda: self.now),
        )
        self.buckets: list[Modelled] = []
        self.taken: list[Taken] = []
        self.calls = itertools.count()

    @initialize(scale=st.sampled_from([1, 2**50 + 1]))
    def begin(self, scale: int) -> None:
        self.scale = scale
        forms = ((Form.ROLLING, 100 * scale), (Form.CALENDAR, 100 * scale), (Form.LEASES, 3))
        self.buckets = [Modelled(Bucket(f"b{form}", form, STEP), amount) for form, amount in forms]

    @rule(
        which=st.sets(st.integers(0, 2), min_size=1),
        asks=st.tuples(st.integers(0, 110), st.integers(0, 110)),
        odd=st.integers(0, 1),
        at_once=st.booleans(),
    )
    def reserve(self, which: set[int], asks: tuple[int, int], odd: int, at_once: bool) -> None:
        call = f"call{next(self.calls)}"
        holds = {}
        for i in sorted(which):
            model = self.buckets[i]
            ask = asks[i] * self.scale + odd * (self.scale > 1) if i < 2 else 1
            ends = windows(self.now) if model.bucket.form is Form.CALENDAR else ()
            lease = 0 if at_once and i < 2 else LEASE
            holds[i] = Hold(model.bucket, model.amount, ask, max(ask, 1), lease, ends)
        verdict = self.agreed(lambda store: store.reserve(call, list(holds.values())))
        for model in self.buckets:
            model.expire(self.now)
        if not self.stepped_back:
            self.check_verdict(verdict, holds)
        if verdict.taken:
            self.remember(call, holds, verdict)

    def check_verdict(self, verdict: Verdict, holds: dict[int, Hold]) -> None:
        if verdict.taken:
            for i, hold in holds.items():
                assert self.buckets[i].used(self.now) + hold.ask <= hold.amount
        else:
            assert any(self.buckets[i].used(self.now, STEP) + hold.need > hold.amount for i, hold in holds.items())
            assert any(standing.wait_us > 0 for standing in verdict.standings)

    def remember(self, call: str, holds: dict[int, Hold], verdict: Verdict) -> None:
        ends = {i: standing.end for i, standing in zip(holds, verdict.standings, strict=True)}
        for i, hold in holds.items():
            if hold.lease_us and hold.ask:
                self.buckets[i].held[call] = (self.now, hold.ask)
            else:
                self.buckets[i].spent.append(Spent(self.now, hold.ask))
        self.taken.append(Taken(call, {i: hold for i, hold in holds.items() if hold.lease_us}, ends))

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), part=st.integers(0, 100), twice=st.booleans())
    def settle(self, data: st.DataObject, part: int, twice: bool) -> None:
        taken = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        actual = {i: 0 if i == 2 else hold.ask * part // 100 for i, hold in taken.holds.items()}
        charges = [Charge(hold.bucket, hold.ask, actual[i], LEASE, taken.ends[i]) for i, hold in taken.holds.items()]
        for _ in range(1 + twice):
            self.agreed(lambda store: store.settle(taken.call, charges))
        for i, model in enumerate(self.buckets):
            model.expire(self.now)
            if i in taken.holds:
                model.settle(taken.call, actual[i], self.now)

    @rule(us=st.one_of(st.integers(0, 3 * STEP), st.integers(0, 200 * STEP), st.sampled_from([STEP, LEASE, DAY])))
    def wait(self, us: int) -> None:
        self.now += us

    @precondition(lambda self: len(self.taken) > 2)
    @rule(us=st.integers(1, 500 * STEP))
    def clock_steps_back(self, us: int) -> None:
        self.now -= us
        self.stepped_back = True

    @invariant()
    def never_over(self) -> None:
        if not self.stepped_back:
            assert all(model.used(self.now) <= model.amount for model in self.buckets)

    def agreed(self, ask: Callable[[MemoryStore | RedisStore], object]) -> Verdict:
        answers = [self.runner.run(_awaited(ask(store))) for store in self.stores]
        assert self.comparable(answers[0]) == self.comparable(answers[1])
        return answers[0]

    def comparable(self, answer: Verdict | None) -> Verdict | None:
        """When to come back is worked out in Lua's numbers, which cannot tell the last digits of such amounts."""
        if answer is None or self.scale == 1:
            return answer
        standings = (replace(standing, wait_us=standing.wait_us > 0) for standing in answer.standings)
        return Verdict(answer.taken, tuple(standings))

    def teardown(self) -> None:
        for store in self.stores:
            self.runner.run(store.close())
        self.runner.close()


async def _awaited(what: object) -> Verdict:
    return await what  # type: ignore[misc,no-any-return]


def test_the_stores_keep_what_the_model_says(shared_redis: RedisServer) -> None:
    Counting.url = shared_redis.url
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Counting, settings=settings(max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=slow)
    )


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, shared_redis: RedisServer) -> Iterator[MemoryStore | RedisStore]:
    if request.param == "memory":
        yield MemoryStore()
    else:
        yield RedisStore(shared_redis.url, prefix=f"test{next(names)}", timeout_s=PATIENT_S)


async def test_64_at_once_are_never_over_and_never_refused_with_room(store: MemoryStore | RedisStore) -> None:
    amount, ask = 10_000, 100
    bucket = Bucket("b", Form.ROLLING, 60_000_000)
    counted = 0  # what must count by now: what is used where a settling is under way, else what is held
    refused_with = []

    async def client(number: int) -> None:
        nonlocal counted
        for turn in range(10):
            call = f"{number}.{turn}"
            verdict = await store.reserve(call, [Hold(bucket, amount, ask, ask, 60_000_000)])
            if not verdict.taken:
                refused_with.append(verdict.standings[0].used)
                continue
            counted += ask
            assert counted <= amount
            await asyncio.sleep(0)
            actual = (number * 7 + turn * 13) % (ask + 1)
            counted -= ask - actual
            await store.settle(call, [Charge(bucket, ask, actual, 60_000_000)])

    await asyncio.gather(*(client(number) for number in range(64)))
    while (last := await store.reserve(f"last{counted}", [Hold(bucket, amount, ask, ask)])).taken:
        counted += ask
    await store.close()
    assert refused_with
    assert all(used + ask > amount for used in refused_with)
    assert last.standings[0].used == counted
    assert amount - ask < counted <= amount


async def test_requests_take_all_their_limits_or_none(store: MemoryStore | RedisStore) -> None:
    wide, narrow = Bucket("wide", Form.ROLLING, STEP * 60), Bucket("narrow", Form.LEASES, STEP)
    both = [Hold(wide, 10, 1, 1), Hold(narrow, 1, 1, 1, LEASE)]
    assert (await store.reserve("a", both)).taken
    refused = await store.reserve("b", both)
    assert not refused.taken
    assert [standing.used for standing in refused.standings] == [1, 1]
    assert [standing.wait_us > 0 for standing in refused.standings] == [False, True]
    await store.settle("a", [Charge(narrow, 1, 0, LEASE)])
    assert (await store.reserve("c", both)).standings[0].used == 2
    await store.close()


async def test_what_was_never_asked_for_can_be_charged_anyway(store: MemoryStore | RedisStore) -> None:
    rolling, calendar = Bucket("r", Form.ROLLING, STEP * 60), Bucket("c", Form.CALENDAR, STEP)
    end = 4_000_000_000_000_000
    charges = [Charge(rolling, 0, 7, LEASE, anyway=True), Charge(calendar, 0, 7, LEASE, end, anyway=True)]
    await store.settle("x", charges)
    verdict = await store.reserve("y", [Hold(rolling, 10, 1, 1), Hold(calendar, 10, 1, 1, 0, (end,))])
    assert [standing.used for standing in verdict.standings] == [8, 8]
    await store.close()


async def test_redis_forgets_idle_buckets(shared_redis: RedisServer) -> None:
    store = RedisStore(shared_redis.url, prefix="idle", timeout_s=PATIENT_S)
    minute = -(-60_000_000 // STEPS)
    await store.reserve("x", [Hold(Bucket("b", Form.ROLLING, minute), 10, 1, 1, LEASE)])
    await store.close()
    with shared_redis.client() as client:
        lives = {key: client.pttl(key) for key in client.scan_iter("{idle}:*")}
    assert set(lives) == {"{idle}:b", "{idle}:b:held"}
    assert all(60_000 <= life <= 60_000 + LEASE // 1000 + 5_000 for life in lives.values())


async def test_memory_forgets_idle_buckets() -> None:
    now = START
    store = MemoryStore(lambda: now)
    for client in range(5000):
        now += STEP
        await store.reserve("x", [Hold(Bucket(str(client), Form.ROLLING, STEP), 10, 1, 1)])
    assert len(store) < 2000
