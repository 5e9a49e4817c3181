"""Budgets and token limits -> accounts, and the accounting document that the collector reads."""

from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from controlplane.plan.accounts import LIMIT, _amount
from controlplane.policy.accounts import Budget
from controlplane.policy.grammar import NAME, matches
from controlplane.xds.accounting import lower
from extproc.usage.accounting import AccountSpec, dump, read
from extproc.usage.budgets import Budgets
from extproc.usage.record import PICO
from tests.unit.plan.compiled import compiled

BASE = """\
version: 1
gateway: {budget: everyone}
providers: {p: {kind: mock}, q: {kind: openai}}
models: {m: p, cheap: p}
budgets:
  everyone: {requests: 1000, per: day}
  monthly: {usd: 50.5, per: month, warn: [0.8, 0.95], timezone: Europe/Berlin}
  rolling: {tokens: 200, per: week, window: rolling, on_spent: warn}
  soft: {usd: 0.000000000001, per: day, on_spent: {downgrade: cheap}}
limits:
  plain: {requests: 10/s}
  tokens: {tokens: 200k/m}
  both: {requests: 600/m, tokens: 1M/d}
organizations: {acme: {budget: [monthly]}}
teams: {search: {organization: acme, budget: [rolling, soft]}, alone: {}}
keys:
  alice: {secret: {env: A}, team: search, budget: [monthly, rolling], limits: [plain, tokens, both]}
  bob: {secret: {env: B}, team: alone}
"""


def accounts() -> dict[tuple[str, str, str], AccountSpec]:
    return {(spec.budget, spec.owner_kind, spec.owner): spec for spec in compiled(BASE).plan.accounts}


def test_one_for_each_owner_that_names_one() -> None:
    assert sorted(accounts()) == [
        ("everyone", "", ""),
        ("limit:both", "key", "alice"),
        ("limit:tokens", "key", "alice"),
        ("monthly", "key", "alice"),
        ("monthly", "organization", "acme"),
        ("rolling", "key", "alice"),
        ("rolling", "team", "search"),
        ("soft", "team", "search"),
    ]


def test_money_is_exact() -> None:
    assert accounts()["monthly", "key", "alice"].amount == 50_500_000_000_000
    assert accounts()["soft", "team", "search"].amount == 1


def test_what_an_account_says() -> None:
    found = accounts()
    assert found["monthly", "key", "alice"] == AccountSpec(
        "monthly", "key", "alice", "pico", 50_500_000_000_000, "month", "Europe/Berlin", 0, ("0.8", "0.95"), "block"
    )
    assert found["rolling", "team", "search"] == AccountSpec(
        "rolling", "team", "search", "tokens", 200, None, "UTC", 7 * 86_400, (), "warn"
    )
    assert found["soft", "team", "search"].on_spent == "downgrade:cheap"
    assert found["limit:tokens", "key", "alice"] == AccountSpec(
        "limit:tokens", "key", "alice", "tokens", 200_000, seconds=60
    )
    assert found["limit:both", "key", "alice"].amount == 1_000_000


def test_every_account_of_a_policy_can_be_counted() -> None:
    specs = compiled(BASE).plan.accounts
    assert len(Budgets(spec.account() for spec in specs).spent_now(0)) == len(specs)


def test_no_budget_can_have_the_name_of_a_limit() -> None:
    assert not matches(NAME, LIMIT + "x")


def test_the_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = lower(compiled(BASE).plan)
    path = tmp_path / "accounting.json"
    path.write_bytes(dump(made))
    assert read(path) == made
    assert b"value-of-" not in path.read_bytes()


def test_who_answers_behind_a_cluster() -> None:
    clusters = lower(compiled(BASE).plan).clusters
    assert (clusters["p"].kind, clusters["q"].host) == ("mock", "api.openai.com")


def test_prices_are_written_as_the_policy_has_them() -> None:
    prices = 'prices: {"gpt-*": {input: 0.15, output: 1e-7}, m: {request: 0}}\n'
    assert lower(compiled(BASE + prices).plan).prices == {
        "": {"gpt-*": {"input": "0.15", "output": "0.0000001"}, "m": {"request": "0"}}
    }


MODELS = """\
version: 1
providers: {p: {kind: mock}, q: {kind: openai, base_url: "http://10.0.0.1/other"}}
models:
  m: p
  alias: m
  smart: {provider: q, model: gpt-4o}
  "w-*": {provider: p, model: fixed}
  "w-x*": p
  w-xy: {provider: p, model: own}
  w-z: p
  "*": q
  spread: {try: [[{provider: p, model: a, weight: 3}, {provider: q, model: b}], {provider: p, model: c}]}
"""


def test_the_name_that_a_provider_is_asked_for() -> None:
    found = lower(compiled(MODELS).plan)
    asked = {
        ("m", "p"): "m", ("alias", "p"): "m", ("smart", "q"): "gpt-4o", ("w-1", "p"): "fixed", ("w-", "p"): "fixed",
        ("w-x1", "p"): "w-x1", ("w-xy", "p"): "own", ("w-z", "p"): "w-z", ("anything", "q"): "anything",
    }  # fmt: skip
    assert {pair: found.upstream_name(*pair) for pair in asked} == asked
    spread = {found.upstream_name("spread", cluster) for cluster in found.clusters}
    assert spread >= {"a", "b", "c"}


@given(st.decimals(0, 10**9, places=12))
def test_no_amount_of_money_is_rounded(amount: Decimal) -> None:
    unit, pico = _amount(Budget.model_validate({"usd": str(amount), "per": "day"}))
    assert unit == "pico"
    assert Decimal(pico) / PICO == amount
