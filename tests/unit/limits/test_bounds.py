"""What `ctl explain` says of a limit of the service."""

from typing import Any

import pytest

from extproc.limits.bounds import bound, calls
from extproc.limits.settings import Kind, Rule, Unit


def rule(kind: Kind, amount: int = 600, **settings: Any) -> Rule:
    return Rule(kind, amount, **({"per_s": 60} | settings))


def test_plain_requests_are_exact_for_one_call() -> None:
    found = bound(rule(Kind.REQUESTS, scope="fleet", burst=50))
    assert found.price.startswith("one call before the request, with one round trip to Redis;")
    assert found.overshoot == "none: at most 50 requests in any 5s"
    assert found.refusal == "room comes back up to 78ms late"
    assert found.away == "without Redis, requests pass"


def test_strict_tokens_name_their_estimate() -> None:
    found = bound(rule(Kind.TOKENS, 200_000))
    assert "and one when it is done" in found.price
    assert found.overshoot.startswith(
        "none: at most 200000 tokens in any 1m, as long as no prompt has more tokens than"
    )
    assert "bytes / 3" in found.overshoot
    assert "4096 where the request states none" in found.overshoot
    assert found.refusal.endswith("until they are done; room comes back up to 938ms late")
    assert found.away.startswith("each node counts for itself")


def test_the_rest() -> None:
    assert bound(rule(Kind.TOKENS, enforce="eventual")).overshoot.startswith("what the requests in progress use")
    assert bound(Rule(Kind.CONCURRENT, 16)).refusal == "a request whose end is never told counts for 1h"
    money = Rule(Kind.BUDGET, 50_500_000_000_000, calendar="month", unit=Unit.PICODOLLARS, scope="fleet")
    assert "at most $50.5 in any month (UTC)" in bound(money).overshoot
    assert bound(money).refusal.endswith("at the dearest price of their model")
    assert bound(money).away.endswith("what they use is charged when it is back")


@pytest.mark.parametrize(
    ("what", "count"),
    [
        (rule(Kind.REQUESTS), 1),
        (rule(Kind.TOKENS), 2),
        (Rule(Kind.CONCURRENT, 1), 2),
        (rule(Kind.BUDGET, unit=Unit.REQUESTS), 1),
        (rule(Kind.BUDGET, unit=Unit.TOKENS), 2),
    ],
)
def test_calls(what: Rule, count: int) -> None:
    assert calls(what) == count
