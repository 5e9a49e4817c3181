"""`ctl explain`: every rule has a tier, and a request gets what the edge would give it."""

import pytest

from controlplane.plan import explain
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
    found = explain.request(MADE.plan, model, key)
    assert (found.status, found.code, found.route) == (status, code, route)
    assert bool(found.groups) is (status == 200)


def test_the_way_of_a_request() -> None:
    found = explain.request(MADE.plan, "smart", "alice")
    assert found.groups == ((("one", "big", 1),), (("two", "small", 3), ("two", "smart", 1)))
    assert (found.attempts, found.limits) == (2, ("standard",))
    assert explain.request(MADE.plan, "gpt-4o", "alice").groups == ((("two", "four", 1),),)


@pytest.mark.parametrize("key", ["nobody", "gone"])
def test_a_key_that_is_not_there_is_an_error(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        explain.request(MADE.plan, "smart", key)


def test_without_keys_everyone_may_use_every_model() -> None:
    opened = compiled(TEXT[: TEXT.index("keys:")])
    assert explain.request(opened.plan, "gpt-3", None).status == 200


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
