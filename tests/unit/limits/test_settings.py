"""The settings document: strict, and every problem told at once."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.limits.settings import (
    By,
    Estimate,
    Kind,
    Redis,
    Rule,
    Settings,
    SettingsError,
    Unit,
    dump,
    fingerprint,
    parse,
)


def document(**rule: Any) -> bytes:
    return json.dumps({"rules": {"r": rule}, "redis": {"url_env": "R"}}).encode()


def test_a_document_is_read() -> None:
    found = parse(
        b"""{"rules": {
            "standard": {"kind": "tokens", "amount": 200000, "per_s": 60, "burst": 50000, "scope": "fleet",
                         "on_error": "deny", "estimate": {"output": 1000}},
            "busy": {"kind": "concurrent", "amount": 16, "by": "team"},
            "monthly": {"kind": "budget", "unit": "picodollars", "amount": 50000000000000, "calendar": "month",
                        "zone": "Europe/Berlin", "scope": "fleet"}},
          "prices": {"gpt-4o*": {"input": "2.50", "output": "10"}}, "redis": {"url_env": "R", "timeout_ms": 30}}""",
        "limits.json",
    )
    standard, busy, monthly = found.rules.values()
    assert standard == Rule(
        Kind.TOKENS, 200_000, 60, burst=50_000, scope="fleet", on_error="deny", estimate=Estimate(output=1000)
    )
    assert (standard.room, standard.window_us) == (50_000, 15_000_000)
    assert (busy.by, busy.counts, busy.window_us) == (By.TEAM, Unit.REQUESTS, 0)
    assert (monthly.counts, monthly.calendar, monthly.room) == (Unit.PICODOLLARS, "month", 50 * 10**12)
    assert found.redis == Redis("R", 30)
    assert found.tariff.find("gpt-4o-mini") is not None
    assert parse(dump(found), "again") == found


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({"kind": "token", "amount": 1, "per_s": 1}, "rules.r.kind: Input should be 'requests'"),
        ({"kind": "tokens", "amount": "1", "per_s": 1}, "rules.r.amount: Input should be a valid integer"),
        ({"kind": "tokens", "amount": 1.0, "per_s": 1}, "rules.r.amount: Input should be a valid integer"),
        ({"kind": "tokens", "amount": 0, "per_s": 1}, "amount is 0"),
        ({"kind": "tokens", "amount": 2**61 + 1, "per_s": 1}, "amount is"),
        ({"kind": "tokens", "amount": 1, "per_s": 0}, "per_s is 0"),
        ({"kind": "tokens", "amount": 1, "per_s": 1, "per_minute": 1}, "rules.r.per_minute: Unexpected keyword"),
        ({"kind": "tokens", "amount": 1}, "tokens has one of per_s and calendar"),
        ({"kind": "tokens", "amount": 1, "per_s": 1, "calendar": "day"}, "tokens has one of per_s and calendar"),
        ({"kind": "concurrent", "amount": 1, "per_s": 1}, "concurrent has neither"),
        ({"kind": "budget", "amount": 1, "per_s": 1}, "a budget has a unit"),
        ({"kind": "tokens", "amount": 1, "per_s": 1, "unit": "tokens"}, "a budget has a unit, nothing else has"),
        ({"kind": "budget", "unit": "tokens", "amount": 1, "calendar": "day", "zone": "Mars"}, "time zone 'Mars'"),
        ({"kind": "budget", "unit": "tokens", "amount": 1, "per_s": 1, "burst": 1}, "burst is for requests and tokens"),
        ({"kind": "requests", "amount": 1, "per_s": 60, "burst": 10**9}, "burst makes the window longer"),
        ({"kind": "requests", "amount": 1, "per_s": 60, "lease_s": 0}, "lease_s is 0"),
        ({"kind": "requests", "amount": 1, "per_s": 60, "estimate": {"bytes_per_token": 0}}, "bytes_per_token is 1"),
    ],
)
def test_a_rule_that_cannot_be(rule: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(document(**rule), "limits.json")
    assert problem in str(caught.value)
    assert str(caught.value).startswith("limits.json: ")


def test_all_problems_are_told_at_once() -> None:
    text = b"""{"rules": {"a": {"kind": "x", "amount": 1}, "b": {"kind": "tokens", "amount": -1, "per_s": 1}},
                "prices": {"m": {"inputs": "1"}}, "extra": 1}"""
    with pytest.raises(SettingsError) as caught:
        parse(text, "f")
    assert all(place in str(caught.value) for place in ("rules.a.kind", "rules.b", "prices", "extra"))


def test_shared_rules_need_a_redis() -> None:
    with pytest.raises(ValueError, match="'r' has scope fleet"):
        Settings({"r": Rule(Kind.REQUESTS, 1, 1, scope="fleet")})


@given(st.binary())
def test_bytes_are_settings_or_an_error(text: bytes) -> None:
    with pytest.raises(SettingsError):
        parse(text, "f")


def test_the_order_of_rules_makes_no_other_settings() -> None:
    """Else the service, which sees no change, would never say that it has them."""
    one, other = Rule(Kind.CONCURRENT, 1), Rule(Kind.TOKENS, 2**61, per_s=60)
    prices = {"m": {"input": "1"}, "n": {"input": "2"}}
    first = Settings({"a": one, "b": other}, prices)
    second = Settings({"b": other, "a": one}, dict(reversed(prices.items())))
    assert first == second
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(first) != fingerprint(Settings({"a": one, "b": one}, prices))
