"""`ctl explain`: every rule has a tier, and a request gets what the edge would give it."""

import pytest

from controlplane.plan import explain, request_explained
from controlplane.plan.ir import Tier
from tests.unit.plan.compiled import compiled

TEXT = """\
version: 1
gateway: {cors: {origins: ["*"]}}
providers:
  one: {kind: openai, base_url: "http://10.0.0.1:8000/v1", api_key: {env: A}}
  two: {kind: openai, base_url: "http://10.0.0.2:8000/v1", health: {path: /health}}
models:
  smart: {try: [{provider: one, model: big}, [{provider: two, model: small, weight: 3}, two]]}
  "gpt-*": one
  "gpt-4*": {provider: two, model: four}
keys:
  alice: {secret: {env: ALICE}, models: [smart, "gpt-4*"], limits: [standard]}
  root: {secret: {env: ROOT}}
  gone: {secret: {env: GONE}, expires: 2020-01-01}
limits:
  standard: {requests: 600/m}
"""
MADE = compiled(TEXT)


@pytest.mark.parametrize(
    ("model", "key", "status", "code", "route"),
    [
        ("smart", "root", 200, None, "smart"),
        ("smart", "alice", 200, None, "smart"),
        ("gpt-4o", "alice", 200, None, "gpt-4*"),
        ("gpt-3", "root", 200, None, "gpt-*"),
        ("gpt-3", "alice", 403, "model_not_allowed", "gpt-*"),
        ("unknown", "alice", 403, "model_not_allowed", None),
        ("unknown", "root", 404, "model_not_found", None),
        (None, "root", 400, "model_required", None),
        ("smart", None, 401, "invalid_api_key", "smart"),
    ],
)
def test_a_request_gets(model: str | None, key: str | None, status: int, code: str | None, route: str | None) -> None:
    found = request_explained.request(MADE.plan, model, key)
    assert (found.status, found.code, found.route) == (status, code, route)
    assert bool(found.groups) is (status == 200)


def test_the_way_of_a_request() -> None:
    found = request_explained.request(MADE.plan, "smart", "alice")
    assert found.groups == ((("one", "big", 1),), (("two", "small", 3), ("two", "smart", 1)))
    assert (found.attempts, found.limits) == (2, ("standard",))
    assert request_explained.request(MADE.plan, "gpt-4o", "alice").groups == ((("two", "four", 1),),)


@pytest.mark.parametrize("key", ["nobody", "gone"])
def test_a_key_that_is_not_there_is_an_error(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        request_explained.request(MADE.plan, "smart", key)


def test_without_keys_everyone_may_use_every_model() -> None:
    opened = compiled(TEXT[: TEXT.index("keys:")])
    assert request_explained.request(opened.plan, "gpt-3", None).status == 200


def test_every_rule_of_the_policy_has_a_tier() -> None:
    paths = {decision.path for decision in explain.decisions(MADE.plan)}
    wanted = {
        ("gateway", "listen"),
        ("gateway", "cors"),
        ("limits", "standard", "requests"),
        ("keys", "gone", "expires"),
    }
    wanted |= {("providers", name) for name in ("one", "two")} | {
        ("models", name) for name in ("smart", "gpt-*", "gpt-4*")
    }
    assert wanted | {("keys",), ("providers", "one", "api_key"), ("providers", "two", "health")} <= paths
    tiers = {decision.tier for decision in explain.decisions(MADE.plan) if decision.path != ("gateway", "retention")}
    assert tiers == {Tier.NATIVE}


LIMITS = """\
version: 1
gateway: {limits: [all], redis: {env: REDIS_URL}}
providers: {p: {kind: mock, limits: [share]}}
models: {m: {provider: p, limits: [few]}}
teams: {red: {limits: [team]}}
keys:
  alice: {secret: {env: A}, team: red, limits: [standard], budget: [trial, monthly]}
limits:
  all: {requests: 50/s, per: address}
  share: {requests: 10/s, scope: fleet, on_error: deny}
  few: {concurrent: 4}
  team: {tokens: 1M/m}
  standard: {requests: 600/m, tokens: 200k/m, enforce: strict}
budgets:
  trial: {usd: 5, per: day, enforce: strict}
  monthly: {usd: 50, per: month}
prices: {m: {input: 1, output: 2}}
"""


def test_every_limit_and_budget_says_its_tier_and_its_overshoot() -> None:
    found = {
        ".".join(map(str, each.path)): each
        for each in explain.decisions(compiled(LIMITS).plan)
        if each.path[0] in ("limits", "budgets")
    }
    tiers = {path: each.tier for path, each in found.items()}
    assert tiers == {
        "limits.all.requests": Tier.NATIVE,
        "limits.share.requests": Tier.INLINE,
        "limits.few.concurrent": Tier.INLINE,
        "limits.team.tokens": Tier.ASIDE,
        "limits.standard.requests": Tier.NATIVE,
        "limits.standard.tokens": Tier.INLINE,
        "budgets.trial": Tier.INLINE,
        "budgets.monthly": Tier.ASIDE,
    }
    for path, each in found.items():
        assert "overshoot" in each.why, path
        if each.tier is Tier.INLINE:
            assert "overshoot: none" in each.why, path
            assert "call" in each.mechanism, path
            assert "while the service is away" in each.why, path
    assert "without Redis, requests are refused with 503" in found["limits.share.requests"].why


def test_a_request_is_told_the_limits_of_every_place() -> None:
    made = compiled(LIMITS).plan
    assert set(request_explained.request(made, "m", "alice").limits) == {"standard", "all", "share", "few", "team"}
    assert set(request_explained.request(made, "unknown", "alice").limits) == {"standard", "all", "team"}
