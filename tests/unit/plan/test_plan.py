"""What a policy comes down to: lanes, retries, references followed, keys that have expired."""

from datetime import UTC, datetime, timedelta

import pytest

from controlplane.plan.build import next_expiry, plan
from controlplane.plan.ir import Plan, Route
from controlplane.policy.check import check
from tests.unit.plan.compiled import NOW, compiled

PROVIDERS = """\
version: 1
providers:
  one: {kind: openai, base_url: "http://10.0.0.1:8000/v1"}
  two: {kind: openai, base_url: "http://10.0.0.2:8000/v1"}
  other-path: {kind: openai, base_url: "http://10.0.0.3:8000/openai/v1"}
  with-key: {kind: openai, base_url: "http://10.0.0.4:8000/v1", api_key: {env: A}}
  with-header: {kind: openai, base_url: "http://10.0.0.5:8000/v1", headers: {X-Team: edge}}
"""


def planned(models: str) -> Plan:
    checked = check(PROVIDERS + f"models:\n{models}", "policy.yaml")
    assert checked.policy is not None, checked.diagnostics
    return plan(checked.policy, now=NOW)


def route(models: str, name: str = "m") -> Route:
    return next(route for route in planned(models).routes if route.name == name)


@pytest.mark.parametrize(
    "targets",
    [
        "[one, two]",
        "[{provider: one, model: x}, {provider: two, model: x}]",
        "[[one, two]]",
        "[{provider: one, model: m}, two]",  # the model's own name is no other name
    ],
)
def test_targets_that_agree_get_by_with_the_plain_cluster(targets: str) -> None:
    found = route(f"  m: {{try: {targets}}}\n")
    assert {target.lane for target in found.targets} == {0}
    assert not found.per_attempt


@pytest.mark.parametrize(
    "targets",
    [
        "[one, {provider: two, model: x}]",
        "[one, other-path]",
        "[one, with-key]",
        "[one, with-header]",
        "[[{provider: one, model: x}, {provider: one, model: y}]]",
    ],
)
def test_targets_that_differ_get_lanes(targets: str) -> None:
    found = route(f"  m: {{try: {targets}}}\n")
    assert all(target.lane for target in found.targets)
    assert found.upstream_model is None


def test_one_lane_per_upstream_name_and_headers_of_others_are_foreign() -> None:
    made = planned(
        "  m: {try: [{provider: one, model: x}, {provider: one, model: y}, {provider: with-key, model: x}]}\n"
    )
    assert [target.lane for target in made.routes[0].targets] == [1, 2, 1]
    assert made.upstreams["one"].lanes == 3
    assert made.upstreams["one"].foreign == ("authorization",)
    assert made.upstreams["with-key"].foreign == ()
    assert made.upstreams["two"].lanes == 1


def test_a_single_target_is_adapted_once_at_the_edge() -> None:
    found = route("  m: {provider: other-path, model: x}\n")
    assert (found.upstream_model, found.base_path, found.per_attempt) == ("x", "/openai/v1", False)


@pytest.mark.parametrize(
    ("on", "conditions", "statuses"),
    [
        ("[429, 5xx, timeout, connect, reset]", ("5xx", "retriable-status-codes"), (429,)),
        ("[timeout]", ("reset",), ()),
        ("[reset, timeout]", ("reset",), ()),
        ("[connect]", ("connect-failure",), ()),
        ("[503, 429, 503]", ("retriable-status-codes",), (429, 503)),
        ("[5xx]", ("retriable-status-codes",), tuple(range(500, 600))),
        ("[]", (), ()),
    ],
)
def test_when_an_attempt_is_followed_by_another(
    on: str, conditions: tuple[str, ...], statuses: tuple[int, ...]
) -> None:
    retry = route(f"  m: {{provider: one, on: {on}}}\n").retry
    assert (retry.conditions, retry.statuses) == (conditions, statuses)


@pytest.mark.parametrize(
    ("model", "attempts", "waits"),
    [
        ("one", 2, True),
        ("{provider: one, retries: 0}", 1, True),
        ("{provider: one, retries: 3, on: [5xx]}", 4, False),
        ("{try: [one, two, one]}", 3, False),
        ("{try: [[one, two]]}", 2, True),
    ],
)
def test_attempts_are_groups_or_retries(model: str, attempts: int, waits: bool) -> None:
    retry = route(f"  m: {model}\n").retry
    assert (retry.attempts, retry.honour_retry_after) == (attempts, waits)


def test_references_are_followed_to_their_targets() -> None:
    models = "  m: middle\n  middle: end\n  end: {provider: one, model: x}\n"
    models += "  both: {try: [middle, last]}\n  last: {try: [one, two]}\n"
    assert route(models).upstream_model == "x"
    assert [[(t.provider, t.model) for t in group] for group in route(models, "both").groups] == [
        [("one", "x")], [("one", "last")], [("two", "last")],
    ]  # fmt: skip


def test_an_alias_of_a_name_that_passes_through_asks_for_that_name() -> None:
    assert route("  m: gpt\n  gpt: one\n").upstream_model == "gpt"


def test_a_provider_wins_over_a_model_of_the_same_name() -> None:
    assert route("  m: one\n  one: {provider: two, model: x}\n").targets[0].provider == "one"


def test_keys_expire_at_the_moment_that_is_passed_in() -> None:
    text = (
        PROVIDERS + "models: {m: one}\nkeys:\n  a: {secret: {env: A}, expires: 2026-06-01}\n  b: {secret: {env: B}}\n"
    )
    moment = datetime(2026, 6, 1, tzinfo=UTC)
    before, after = compiled(text, moment - timedelta(microseconds=1)), compiled(text, moment)
    assert ([key.name for key in before.plan.keys], before.plan.expired) == (["a", "b"], ())
    assert ([key.name for key in after.plan.keys], after.plan.expired) == (["b"], ("a",))
    assert next_expiry(before.policy, now=NOW) == moment
    assert next_expiry(after.policy, now=moment) is None


def test_a_policy_whose_keys_have_all_expired_is_not_open() -> None:
    text = PROVIDERS + "models: {m: one}\nkeys: {a: {secret: {env: A}, expires: 2020-01-01}}\n"
    assert not compiled(text).plan.open
