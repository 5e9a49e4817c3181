"""What models cost at most, as the rate limit service is told."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from controlplane.xds.limiting import _dearest, lower
from extproc.limits.tariff import most
from extproc.usage.prices import Price, Rates, Tier, cost
from extproc.usage.record import Tokens
from tests.unit.plan.compiled import compiled

rate = st.none() | st.integers(0, 50) | st.fractions(0, 50)
rates = st.builds(Rates, input=st.integers(0, 50), cached=rate, cache_write=rate, output=rate, reasoning=rate)
tiers = st.just(()) | st.builds(lambda above, of: (Tier(above, of),), st.integers(1, 500), rates)
prices = st.builds(Price, rates=rates, tiers=tiers, request=rate)


@given(st.lists(prices, min_size=1, max_size=4), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_no_target_exceeds_the_dearest(targets: list[Price], prompt: int, output: int, cached: int) -> None:
    dearest = _dearest(targets)
    assert dearest is not None
    for price in targets:
        paid = cost(price, Tokens(prompt, output, min(cached, prompt)))
        bound = most(dearest, prompt, output)
        assert bound is not None
        assert paid is None or Fraction(paid) <= bound


POLICY = """\
version: 1
providers: {p: {kind: mock}, o: {kind: openai}}
models:
  known: p
  alias: known
  half: {try: [p, {provider: p, model: known}]}
  "a-*": p
  "a-b*": {provider: p, model: known}
  "gpt-4o*": o
keys: {k: {secret: {env: K}, budget: b}}
budgets: {b: {usd: 5, per: day, enforce: strict}}
prices:
  known: {input: 1}
  a-1: {input: 2}
  "a-c*": {input: 3}
  "x*": {input: 4}
"""


def test_names_and_patterns_have_the_price_of_what_serves_them() -> None:
    settings = lower(compiled(POLICY).plan)
    assert settings is not None
    found = {name: price["input"] for name, price in settings.prices.items()}
    catalog = {name: usd for name, usd in found.items() if name.startswith("gpt-4o")}
    expected = {"known": "1", "alias": "1", "a-1": "2", "a-c*": "3", "a-b*": "1"}
    assert {name: usd for name, usd in found.items() if name not in catalog} == expected
    assert catalog["gpt-4o"] == "2.5"
    assert catalog["gpt-4o-mini"] == "0.15"
