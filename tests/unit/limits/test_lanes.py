"""What a rule asks for before a request, and charges after it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.limits.calls import Asked
from extproc.limits.lanes import Lane
from extproc.limits.settings import By, Estimate, Kind, Rule, Unit
from extproc.limits.stores import Form
from extproc.limits.tariff import Tariff, most, spent
from extproc.usage.prices import cost, price_from_json
from extproc.usage.record import Tokens

PRICES: dict[str, Any] = {
    "gpt-4o": {"input": "2.50", "cached_input": "1.25", "output": "10"},
    "gpt-*": {"input": "1", "output": "2"},
    "long": {"input": "1", "output": "2", "tiers": [{"above": 1000, "input": "4"}]},
    "painter": {"image": "0.04"},
    "embed": {"input": "0.02"},
}
NOW = 1_700_000_000_000_000  # 2023-11-14 22:13:20 UTC
JULY = 1_690_840_800_000_000 - 1  # the last microsecond of July 2023 in Berlin


def lane(kind: Kind, amount: int = 1000, **settings: Any) -> Lane:
    if kind is not Kind.CONCURRENT and "calendar" not in settings:
        settings.setdefault("per_s", 60)
    return Lane.of("rule", Rule(kind, amount, **settings), Tariff.of(PRICES))


def asked(body_bytes: int | None = 300, cap: int | None = 50, model: str = "gpt-4o") -> Asked:
    return Asked("rule", "acme/search/alice;rule;", model, body_bytes, cap)


@pytest.mark.parametrize(
    ("body_bytes", "cap", "ask"), [(300, 50, 150), (301, 50, 151), (0, 0, 0), (None, 50, 850), (300, None, 107)]
)
def test_tokens_are_reserved_for_the_prompt_and_the_cap(body_bytes: int | None, cap: int | None, ask: int) -> None:
    rule = lane(Kind.TOKENS, estimate=Estimate(output=7, prompt=800))
    assert rule.ask(asked(body_bytes, cap)) == ask


def test_the_rest_reserve_what_they_count() -> None:
    assert lane(Kind.REQUESTS).ask(asked()) == 1
    assert lane(Kind.CONCURRENT).ask(asked()) == 1
    assert lane(Kind.BUDGET, unit=Unit.REQUESTS).ask(asked()) == 1
    assert lane(Kind.TOKENS, enforce="eventual").ask(asked()) == 0
    assert lane(Kind.BUDGET, unit=Unit.PICODOLLARS).ask(asked()) == 100 * 2_500_000 + 50 * 10_000_000


def test_only_what_has_an_end_waits_for_it() -> None:
    assert [lane(kind).settles for kind in (Kind.REQUESTS, Kind.TOKENS, Kind.CONCURRENT)] == [False, True, True]
    assert lane(Kind.REQUESTS).hold("alice", 1, NOW).lease_us == 0
    assert lane(Kind.TOKENS).hold("alice", 100, NOW).lease_us == 3_600_000_000


@pytest.mark.parametrize(
    ("by", "who"),
    [
        (By.KEY, "acme/search/alice"),
        (By.TEAM, "acme/search"),
        (By.ORGANIZATION, "acme"),
        (By.VALUE, "acme/search/alice;rule;"),
        (By.ALL, ""),
    ],
)
def test_who_shares_a_bucket(by: By, who: str) -> None:
    assert lane(Kind.REQUESTS, by=by).who("acme/search/alice;rule;") == who


def test_a_long_name_is_a_short_key() -> None:
    rule = lane(Kind.REQUESTS, by=By.VALUE)
    assert len(rule.who("m" * 60_000)) == 32
    assert rule.who("m" * 60_000) != rule.who("m" * 60_001)


def test_a_bucket_belongs_to_a_window() -> None:
    assert lane(Kind.TOKENS, 5).bucket("a") == lane(Kind.TOKENS, 6).bucket("a")
    assert lane(Kind.TOKENS, 5, per_s=61).bucket("a").key != lane(Kind.TOKENS, 5).bucket("a").key


def test_calendar_windows_end_by_the_clock_of_their_zone() -> None:
    rule = lane(Kind.BUDGET, unit=Unit.TOKENS, calendar="month", zone="Europe/Berlin")
    assert rule.form is Form.CALENDAR
    assert rule.hold("a", 1, NOW).ends == (1_701_385_200_000_000,)
    assert rule.hold("a", 1, JULY).ends == (JULY + 1, 1_693_519_200_000_000)


@pytest.mark.parametrize(
    ("status", "counts", "actual"),
    [
        (200, {"total_tokens": 42}, 42),
        (200, {"input_tokens": 40, "output_tokens": 2}, 42),
        (200, {"total_tokens": 4200}, 4200),
        (200, {}, 150),  # nobody said: all that was held
        (0, {}, 150),  # the client left, the provider may go on
        (504, {}, 150),
        (502, {}, 0),
        (400, {}, 0),
        (502, {"total_tokens": 42}, 42),
    ],
)
def test_what_is_charged(status: int, counts: dict[str, int], actual: int) -> None:
    assert lane(Kind.TOKENS).actual(150, "gpt-4o", status, counts) == actual
    assert lane(Kind.CONCURRENT).actual(1, "gpt-4o", status, counts) == 0


@pytest.mark.parametrize(
    ("counts", "actual"),
    [
        ({"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}, 350_000_000),
        ({"input_tokens": 100, "total_tokens": 110}, 350_000_000),
        ({"input_tokens": 100, "output_tokens": 10, "cached_tokens": 60}, 275_000_000),
        ({"input_tokens": 100, "output_tokens": 10, "cached_tokens": 600}, 225_000_000),
        ({"input_tokens": 100, "output_tokens": 10, "total_tokens": 130}, 550_000_000),  # thinking, in the total alone
        ({"total_tokens": 110}, 1_100_000_000),
        ({}, 7),
    ],
)
def test_money_is_charged_as_the_price_says(counts: dict[str, int], actual: int) -> None:
    assert lane(Kind.BUDGET, unit=Unit.PICODOLLARS).actual(7, "gpt-4o", 200, counts) == actual


def test_money_is_charged_for_what_costs_more_than_its_like() -> None:
    """Writing to a cache; and thinking, of which nobody tells in time which part of the output it was."""
    price = price_from_json({"input": "3", "cache_write": "3.75", "output": "10", "reasoning": "20"})
    assert spent(price, None, 100, 10, written=40) == 60 * 3_000_000 + 40 * 3_750_000 + 10 * 20_000_000


def test_no_price_bounds_nothing() -> None:
    budget = lane(Kind.BUDGET, unit=Unit.PICODOLLARS)
    assert budget.ask(asked(model="gpt-5")) == 200_000_000
    for model in ("claude", "painter"):
        assert budget.ask(asked(model=model)) is None
    assert budget.ask(asked(model="embed")) == 2_000_000
    assert budget.actual(7, "claude", 200, {"total_tokens": 3}) == 7


@given(st.sampled_from(sorted(PRICES)), st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000), st.data())
def test_no_request_costs_more_than_its_bound(
    model: str, prompt: int, output: int, cap: int, data: st.DataObject
) -> None:
    price = price_from_json(PRICES[model])
    bound = most(price, prompt, cap)
    if bound is None:
        return
    cached = data.draw(st.integers(0, prompt))
    used = min(output, cap) if price.rates.output is not None else 0
    real = cost(price, Tokens(prompt, used, cached))
    assert real is not None
    assert real <= bound
    written = data.draw(st.integers(0, prompt - cached))
    real = cost(price, Tokens(prompt, used, cached, written, data.draw(st.integers(0, used)))) or 0
    reported = spent(price, prompt + used, prompt, used, cached, written)
    assert reported is None or real <= reported <= bound
    with_total_alone = spent(price, prompt + used, None, None)
    assert with_total_alone is None or with_total_alone >= real
