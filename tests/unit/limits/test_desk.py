"""Requests with several limits, on this node and in the fleet; a Redis that goes away and comes back."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from extproc.limits.answers import answer
from extproc.limits.calls import Asked, Done
from extproc.limits.counters import Counters
from extproc.limits.desk import Desk, Outcome, Reason
from extproc.limits.guard import Guard
from extproc.limits.memory import MemoryStore
from extproc.limits.redis_store import RedisStore
from extproc.limits.settings import Kind, Redis, Rule, Settings, Unit
from tests.support.redis import RedisServer, redis_server

PATIENT_S = 30.0
prefixes = itertools.count()


@pytest.fixture
def mortal_redis() -> Iterator[RedisServer]:
    """One that the test may kill."""
    with redis_server() as server:
        yield server


class Counting:
    """A desk with what is behind it."""

    def __init__(self, redis: RedisServer | None, timeout_s: float, prefix: str, **rules: Rule) -> None:
        self.counters = Counters()
        self.settings = Settings(rules, {"gpt": {"input": "1", "output": "2"}}, Redis("R"))
        self.guard = None
        if redis is not None:
            store = RedisStore(redis.url, prefix=prefix or f"desk{next(prefixes)}", timeout_s=timeout_s)
            self.guard = Guard(store, self.counters)
        self.desk = Desk(self.settings, MemoryStore(), self.guard, self.counters)

    async def ask(self, *limits: str, body_bytes: int = 300, cap: int | None = 0, model: str = "gpt") -> Outcome:
        return await self.desk.reserve([Asked(limit, "alice", model, body_bytes, cap) for limit in limits])

    async def done(self, outcome: Outcome, total: int = 0, status: int = 200) -> None:
        await self.desk.settle(Done(outcome.ticket, status, {"total_tokens": total} if total else {}))


@asynccontextmanager
async def desk(
    redis: RedisServer | None, timeout_s: float = PATIENT_S, prefix: str = "", **rules: Rule
) -> AsyncIterator[Counting]:
    counting = Counting(redis, timeout_s, prefix, **rules)
    try:
        yield counting
    finally:
        if counting.guard is not None:
            await counting.guard.close()


def tokens(amount: int, scope: Any = "fleet", **more: Any) -> Rule:
    return Rule(Kind.TOKENS, amount, 60, scope=scope, **more)


def requests(amount: int, scope: Any = "fleet", **more: Any) -> Rule:
    return Rule(Kind.REQUESTS, amount, 60, scope=scope, **more)


def concurrent(amount: int, scope: Any = "fleet", **more: Any) -> Rule:
    return Rule(Kind.CONCURRENT, amount, scope=scope, **more)


def used(outcome: Outcome) -> dict[str, int]:
    return {row.lane.name: row.standing.used for row in outcome.rows if row.standing}


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENT_S):
        while not what():  # noqa: ASYNC110 - the state has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("scope", ["node", "fleet"])
async def test_a_strict_limit_reserves_and_settles(shared_redis: RedisServer, scope: str) -> None:
    async with desk(shared_redis, t=tokens(250, scope)) as counting:
        first = await counting.ask("t")
        second = await counting.ask("t")
        assert used(second) == {"t": 200}
        refused = await counting.ask("t")
        assert refused.refused is not None
        assert not refused.ticket
        await counting.done(first, 20)
        third = await counting.ask("t")
        assert (third.refused, used(third)) == (None, {"t": 220})
        await counting.done(first, 20)
        await counting.done(second, 10)
        await counting.done(third, status=502)
        assert used(await counting.ask("t", body_bytes=0)) == {"t": 30}
        assert (counting.counters.passed, counting.counters.refused, counting.counters.settled) == (4, 1, 4)


@pytest.mark.parametrize("scopes", [*itertools.product(["node", "fleet"], repeat=2)], ids="-".join)
async def test_several_limits_are_all_or_none(shared_redis: RedisServer, scopes: tuple[str, str]) -> None:
    one, other = scopes
    async with desk(shared_redis, r=requests(9, one), t=tokens(900, one), c=concurrent(1, other)) as counting:
        first = await counting.ask("r", "t", "c")
        assert used(first) == {"r": 1, "t": 100, "c": 1}
        refused = await counting.ask("r", "t", "c")
        assert refused.refused is not None
        assert refused.refused.lane.name == "c"
        await counting.done(first, 40)
        assert used(await counting.ask("r", "t", "c")) == {"r": 2, "t": 140, "c": 1}


async def test_two_nodes_share_what_the_fleet_may(shared_redis: RedisServer) -> None:
    nodes = [desk(shared_redis, prefix="shared", r=requests(100)) for _ in range(2)]
    async with nodes[0] as here, nodes[1] as there:
        outcomes = await asyncio.gather(*(node.ask("r") for node in (here, there) for _ in range(64)))
        assert sum(outcome.refused is None for outcome in outcomes) == 100


async def test_eventual_limits_charge_afterwards() -> None:
    async with desk(None, t=tokens(100, "node", enforce="eventual")) as counting:
        first = await counting.ask("t")
        assert used(first) == {"t": 0}
        await counting.done(first, 150)
        refused = await counting.ask("t")
        assert (refused.refused is not None, used(refused)) == (True, {"t": 150})


async def test_a_request_without_a_known_price_is_decided_by_on_error() -> None:
    def money(on_error: Any) -> Rule:
        return Rule(Kind.BUDGET, 10**12, calendar="day", unit=Unit.PICODOLLARS, on_error=on_error)

    async with desk(None, hard=money("deny"), soft=money("allow"), r=requests(5, "node")) as counting:
        assert used(await counting.ask("hard", "soft", "r")) == {"hard": 10**8, "soft": 10**8, "r": 1}
        refused = await counting.ask("r", "hard", model="unheard-of")
        assert refused.reason is Reason.UNPRICED
        assert answer(refused).dynamic_metadata["code"] == "insufficient_quota"
        assert used(await counting.ask("r", "soft", model="unheard-of")) == {"r": 2}
        assert counting.counters.unpriced == 2


async def test_new_settings_keep_what_is_counted() -> None:
    async with desk(None, r=requests(1, "node"), t=tokens(500, "node")) as counting:
        ticket = await counting.ask("r", "t")
        assert (await counting.ask("r")).refused is not None
        counting.desk.update(Settings({"r": requests(3, "node"), "t": tokens(100, "node")}))
        assert used(await counting.ask("r")) == {"r": 2}
        assert (await counting.ask("t")).refused is not None
        await counting.done(ticket, 30)
        assert used(await counting.ask("t", body_bytes=60)) == {"t": 50}
        counting.desk.update(Settings({}))
        with capture_logs() as logs:
            assert await counting.ask("r") == await counting.ask("r") == Outcome(())
        assert [log["limit"] for log in logs] == ["r"]


@pytest.mark.parametrize("on_error", ["allow", "deny"])
async def test_redis_goes_away_and_comes_back(mortal_redis: RedisServer, on_error: Any) -> None:
    far, near = tokens(1000, on_error=on_error), tokens(1000, "node")
    async with desk(mortal_redis, t=far, near=near) as counting:
        assert counting.guard is not None
        before = await counting.ask("t", "near")
        assert used(before) == {"near": 100, "t": 100}
        with capture_logs() as logs:
            mortal_redis.stop()
            outcomes = await asyncio.gather(*(counting.ask("t", "near") for _ in range(5)))
            assert counting.guard.away
            assert all((outcome.refused is None) == (on_error == "allow") for outcome in outcomes)
            for outcome in outcomes:
                if outcome.ticket:
                    await counting.done(outcome, 10)
                else:
                    assert outcome.reason is Reason.UNAVAILABLE
                    assert answer(outcome).dynamic_metadata["code"] == "limits_unavailable"
            await counting.done(before, 30)
            mortal_redis.start()
            await until(lambda: not counting.guard.away)  # type: ignore[union-attr]
        assert [log["log_level"] for log in logs] == ["error", "warning"]
        passed = 5 if on_error == "allow" else 0
        assert counting.counters.outages == 1
        assert counting.counters.away_passed + counting.counters.away_refused == 5
        # This Redis forgot everything; what passed meanwhile is charged now that it ended.
        assert used(await counting.ask("t", "near", body_bytes=0)) == {"t": 10 * passed, "near": 30 + 10 * passed}


async def test_a_redis_that_hangs_is_away_and_what_it_took_is_given_back(mortal_redis: RedisServer) -> None:
    async with desk(mortal_redis, 1.5, c=concurrent(8, on_error="deny")) as counting:
        assert counting.guard is not None
        kept = await counting.ask("c")
        mortal_redis.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(20):  # one after the other would take 96 s
                outcomes = await asyncio.gather(*(counting.ask("c") for _ in range(64)))
            assert {outcome.reason for outcome in outcomes} == {Reason.UNAVAILABLE}
        finally:
            mortal_redis.signal(signal.SIGCONT)
        await until(lambda: not counting.guard.away)  # type: ignore[union-attr]
        assert used(await counting.ask("c")) == {"c": 2}
        await counting.done(kept)
        assert used(await counting.ask("c")) == {"c": 2}


async def test_a_request_that_is_given_up_holds_nothing(shared_redis: RedisServer) -> None:
    async with desk(shared_redis, c=concurrent(4), near=concurrent(4, "node")) as counting:
        for _ in range(5):
            given_up = asyncio.create_task(counting.ask("near", "c"))
            await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
        await until(lambda: counting.counters.late == 5)
        assert used(await counting.ask("near", "c")) == {"near": 1, "c": 1}


async def test_redis_that_forgot_the_scripts_is_told_again(shared_redis: RedisServer) -> None:
    async with desk(shared_redis, r=requests(5)) as counting:
        assert used(await counting.ask("r")) == {"r": 1}
        with shared_redis.client() as client:
            client.script_flush()
        assert used(await counting.ask("r")) == {"r": 2}
        assert counting.counters.outages == 0


async def test_no_more_waits_for_redis_than_fits(mortal_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.limits.guard._WAITING", 3)
    async with desk(mortal_redis, c=concurrent(100)) as counting:
        assert counting.guard is not None
        held = [await counting.ask("c") for _ in range(5)]
        mortal_redis.stop()
        for outcome in held:
            await counting.done(outcome)
        assert counting.counters.lost == 2


def headers(outcome: Outcome) -> dict[str, str]:
    return {header.key: header.value for header in answer(outcome).response_headers_to_add}


async def test_clients_are_told_about_the_tightest_limit() -> None:
    wide, narrow = requests(1000, "node"), requests(3, "node")
    async with desk(None, wide=wide, narrow=narrow, t=tokens(350, "node")) as counting:
        told = headers(await counting.ask("wide", "narrow", "t"))
        assert told == {
            "x-ratelimit-limit-requests": "3",
            "x-ratelimit-remaining-requests": "2",
            "x-ratelimit-reset-requests": told["x-ratelimit-reset-requests"],
            "x-ratelimit-limit-tokens": "350",
            "x-ratelimit-remaining-tokens": "250",
            "x-ratelimit-reset-tokens": told["x-ratelimit-reset-tokens"],
        }
        assert 50 <= int(told["x-ratelimit-reset-requests"]) <= 61
        await counting.ask("wide", "narrow", "t")
        await counting.ask("wide", "narrow", "t")
        refused = await counting.ask("wide", "narrow", "t")
        told = headers(refused)
        assert (told["x-ratelimit-remaining-requests"], told["x-ratelimit-remaining-tokens"]) == ("0", "50")
        assert 50 <= int(told["retry-after"]) <= 61
        assert dict(answer(refused).dynamic_metadata) == {
            "refused": "narrow",
            "kind": "requests",
            "reason": "spent",
            "code": "rate_limit_exceeded",
        }


async def test_a_spent_budget_is_not_worth_trying_again() -> None:
    async with desk(None, b=Rule(Kind.BUDGET, 150, calendar="day", unit=Unit.TOKENS)) as counting:
        first = await counting.ask("b")
        pending = headers(await counting.ask("b"))
        assert (pending["retry-after"], "x-should-retry" in pending) == ("1", False)
        await counting.done(first, 100)
        refused = await counting.ask("b")
        assert headers(refused)["x-should-retry"] == "false"
        assert 1 <= int(headers(refused)["retry-after"]) <= 86_400
        assert answer(refused).dynamic_metadata["code"] == "insufficient_quota"
