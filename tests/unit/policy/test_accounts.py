"""Budgets, owners and prices in a policy: the names they use, their amounts, and what is told about mistakes."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.plan.limits import counted
from controlplane.policy import grammar
from controlplane.policy.accounts import Downgrade
from controlplane.policy.check import check
from controlplane.policy.diagnostics import Severity
from controlplane.policy.language import Policy
from controlplane.policy.place import path_text
from extproc.usage.prices import price_from_json

BASE = """\
version: 1
providers: {p: {kind: mock}}
models: {m: p, cheap: p}
"""


def problems(text: str) -> list[tuple[str, str, str | None]]:
    """Code, path and suggestion of each error."""
    found = check(BASE + text, "policy.yaml").diagnostics
    errors = [each for each in found if each.severity is Severity.ERROR]
    return [(each.code, path_text(each.place.path), each.suggestion) for each in errors]


def policy(text: str) -> Policy:
    found = check(BASE + text, "policy.yaml")
    assert found.policy is not None, found.diagnostics
    return found.policy


BUDGETS = "budgets: {monthly: {usd: 5, per: month}}\n"


@pytest.mark.parametrize(
    ("text", "where", "near"),
    [
        ("gateway: {budget: montly}\n" + BUDGETS, "gateway.budget[0]", "monthly"),
        ("teams: {t: {budget: [monthly, dayly]}}\n" + BUDGETS, "teams.t.budget[1]", None),
        ("organizations: {o: {budget: monthyl}}\n" + BUDGETS, "organizations.o.budget[0]", "monthly"),
        ("keys: {k: {secret: {env: K}, budget: Monthly}}\n" + BUDGETS, "keys.k.budget[0]", "monthly"),
        ("keys: {k: {secret: {env: K}, team: serach}}\nteams: {search: {}}\n", "keys.k.team", "search"),
        ("keys: {k: {secret: {env: K}, team: t}}\n", "keys.k.team", None),
        ("teams: {t: {organization: acne}}\norganizations: {acme: {}}\n", "teams.t.organization", "acme"),
        ("budgets: {b: {usd: 1, per: day, on_spent: {downgrade: chaep}}}\n", "budgets.b.on_spent.downgrade", "cheap"),
    ],
)
def test_names_that_lead_nowhere(text: str, where: str, near: str | None) -> None:
    assert problems(text) == [("unknown-name", where, near)]


def test_a_budget_is_named_once() -> None:
    text = "keys: {k: {secret: {env: K}, budget: [monthly, monthly]}}\n" + BUDGETS
    assert problems(text) == [("duplicate-item", "keys.k.budget[1]", None)]


@pytest.mark.parametrize(
    "amounts", ["", "usd: 1, tokens: 5", "tokens: 5, requests: 5", "usd: 1, tokens: 5, requests: 5"]
)
def test_a_budget_has_one_amount(amounts: str) -> None:
    text = f"budgets: {{b: {{{amounts}{', ' if amounts else ''}per: day}}}}\n"
    assert problems(text) == [("one-amount", "budgets.b", None)]


def test_a_limit_limits_something() -> None:
    assert problems("limits: {l: {}}\n") == [("one-amount", "limits.l", None)]


def test_a_name_whose_own_entry_is_wrong_is_not_told_to_be_absent() -> None:
    text = "gateway: {budget: b}\nbudgets: {b: {usd: -1, per: day}}\n"
    assert [code for code, _, _ in problems(text)] == ["invalid-value"]


def test_all_mistakes_are_told_at_once() -> None:
    text = """\
gateway: {budget: [a, a]}
keys: {k: {secret: {env: K}, team: x, budget: y}}
teams: {t: {organization: z, budget: w}}
budgets: {b: {per: day, on_spent: {downgrade: v}}}
limits: {l: {}}
"""
    assert sorted(code for code, _, _ in problems(text)) == [
        "duplicate-item", "one-amount", "one-amount", *["unknown-name"] * 7,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "budget",
    [
        "usd: -1, per: day",
        "usd: 1, per: year",
        "usd: 1",
        "usd: 2000000000, per: day",
        "usd: 0.0000000000001, per: day",
        "usd: .nan, per: day",
        "usd: .inf, per: day",
        "usd: true, per: day",
        "usd: many, per: day",
        "tokens: 0, per: day",
        "tokens: 1.5, per: day",
        "tokens: 4294967296, per: day",
        "requests: -1, per: day",
        "usd: 1, per: day, warn: [0]",
        "usd: 1, per: day, warn: [1.1]",
        "usd: 1, per: day, warn: [x]",
        "usd: 1, per: day, timezone: Europe/Nowhere",
        "usd: 1, per: day, timezone: ../../etc/passwd",
        "usd: 1, per: day, window: sliding",
        "usd: 1, per: day, on_spent: stop",
        "usd: 1, per: day, on_spent: {downgrade: cheap, to: m}",
        "usd: 1, per: day, on_spent: {}",
        "usd: 1, per: day, enforced: strict",
    ],
)
def test_budgets_that_are_none(budget: str) -> None:
    assert problems(f"budgets: {{b: {{{budget}}}}}\n")


def test_a_budget_with_its_defaults() -> None:
    found = policy("budgets: {b: {usd: 0.1, per: week}}\n").budgets["b"]
    assert (found.usd, found.per, found.window, found.timezone, found.warn, found.on_spent) == (
        Decimal("0.1"), "week", "calendar", "UTC", [], "block",
    )  # fmt: skip


def test_a_budget_with_everything() -> None:
    text = (
        "b: {tokens: 5, per: day, window: calendar, timezone: Asia/Tokyo, warn: [0.5, 1], on_spent: {downgrade: cheap}}"
    )
    found = policy(f"budgets: {{{text}}}\n").budgets["b"]
    assert (found.tokens, found.warn, found.on_spent) == (5, [Decimal("0.5"), Decimal(1)], Downgrade(downgrade="cheap"))


def test_one_name_is_a_list_of_one() -> None:
    text = "gateway: {budget: monthly}\nteams: {t: {budget: [monthly]}}\n" + BUDGETS
    found = policy(text)
    assert found.gateway.budget == found.teams["t"].budget == ["monthly"]


def test_prices_are_exact() -> None:
    found = policy('prices: {"gpt-*": {input: 0.15, output: 1e-7, request: 0}}\n').prices["gpt-*"]
    assert found.stated() == {"input": Decimal("0.15"), "output": Decimal("1E-7"), "request": Decimal(0)}


@pytest.mark.parametrize(
    "price", ["{input: -1}", "{inptu: 1}", "{input: cheap}", "{input: 1e-13}", "7", "{output: 1e10}"]
)
def test_prices_that_are_none(price: str) -> None:
    assert problems(f"prices: {{m: {price}}}\n")


@given(st.decimals(0, 10**9, places=12))
def test_amounts_are_what_is_written(amount: Decimal) -> None:
    assert grammar.amount(str(amount)) == amount


@given(st.text(max_size=20) | st.integers() | st.floats())
def test_what_is_no_amount_says_what_is(value: str | int | float) -> None:
    try:
        found = grammar.amount(value)
    except ValueError as error:
        assert "a number such as" in str(error)
    else:
        assert 0 <= found <= 10**9 and found == found.quantize(Decimal("1e-12"))


@given(st.floats())
def test_a_fraction_is_above_zero_and_at_most_one(value: float) -> None:
    try:
        assert 0 < grammar.fraction(value) <= 1
    except ValueError as error:
        assert "such as 0.8" in str(error)


@pytest.mark.parametrize(
    ("text", "code", "where"),
    [
        ("budgets: {b: {usd: 0, per: day, enforce: strict}}\n", "unfit-budget", "budgets.b.usd"),
        ("budgets: {b: {usd: 2305844, per: day, enforce: strict}}\n", "unfit-budget", "budgets.b.usd"),
        ("budgets: {b: {usd: 1, per: day, window: rolling, timezone: UTC}}\n", "unfit-budget", "budgets.b.timezone"),
        ("limits: {l: {tokens: 1/d, burst: 367}}\n", "unfit-limit", "limits.l.burst"),
        ("prices: {m: {output: 10000.01}}\n", "invalid-value", "prices.m.output"),
        ("prices: {m: {request: 1001}}\n", "invalid-value", "prices.m.request"),
    ],
)
def test_amounts_that_nothing_could_count_by(text: str, code: str, where: str) -> None:
    assert problems(text) == [(code, where, None)]


def test_the_largest_amounts_can_be_counted_by() -> None:
    """What a policy may say the service and the collector take."""
    found = policy(
        "gateway: {limits: [l], budget: b}\nlimits: {l: {tokens: 1/d, burst: 366, enforce: strict}}\n"
        "budgets: {b: {usd: 2305843, per: day, enforce: strict}}\nprices: {m: {input: 10000, request: 1000}}\n"
    )
    assert len(list(counted(found, None))) == 2
    price_from_json({name: format(rate, "f") for name, rate in found.prices["m"].stated().items()})
