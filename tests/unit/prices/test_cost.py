"""What a request costs: by hand, and against exact fractions."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.usage.prices import (
    DECIMALS,
    MAX_AUDIO_MS,
    MAX_IMAGES,
    MAX_PER_MILLION,
    MAX_PER_UNIT,
    MAX_TOKENS,
    Price,
    Units,
    cost,
    price_from_json,
    price_to_json,
    weights,
)
from extproc.usage.record import PICO, Tokens

SONNET = {
    "input": "3",
    "cached_input": "0.30",
    "cache_write": "3.75",
    "output": "15",
    "tiers": [
        {"above": 200_000, "input": "6", "cached_input": "0.60", "cache_write": "7.50", "output": "22.50"},
    ],
}
KINDS = ("input", "cached_input", "cache_write", "output", "reasoning")

dollars = st.decimals(0, MAX_PER_MILLION, places=6).map(lambda value: f"{value:f}")
fine = st.decimals(0, MAX_PER_MILLION, places=15).map(lambda value: f"{value:f}")


def prices(amounts: st.SearchStrategy[str]) -> st.SearchStrategy[Price]:
    kinds = st.fixed_dictionaries(
        {"input": amounts, "output": amounts},
        optional={kind: amounts for kind in KINDS if kind not in ("input", "output")},
    )
    return kinds.map(price_from_json)


@st.composite
def tokens(draw: st.DrawFn, most: int = MAX_TOKENS) -> Tokens:
    read, wrote = draw(st.integers(0, most)), draw(st.integers(0, most))
    cached = draw(st.integers(0, read))
    return Tokens(read, wrote, cached, draw(st.integers(0, read - cached)), draw(st.integers(0, wrote)))


@pytest.mark.parametrize(
    ("price", "used", "pico"),
    [
        # 1,000 x $2.50/M + 500 x $10/M = $0.0025 + $0.005
        ({"input": "2.50", "output": "10"}, Tokens(1_000, 500), 7_500_000_000),
        # 200 plain at $0.15/M, 800 cached at $0.075/M, 10 out at $0.60/M = $0.00003 + $0.00006 + $0.000006
        ({"input": "0.15", "cached_input": "0.075", "output": "0.60"}, Tokens(1_000, 10, cached=800), 96_000_000),
        # 100 plain, 900 written, 1,000 read of 2,000; 10 out: $0.0003 + $0.003375 + $0.0003 + $0.00015
        (SONNET, Tokens(2_000, 10, cached=1_000, cache_write=900), 4_125_000_000),
        # exactly at the border the lower price holds: 200,000 x $3/M + 1 x $15/M
        (SONNET, Tokens(200_000, 1), 600_015_000_000),
        # one above, all of it is dearer: 200,001 x $6/M + 1 x $22.50/M
        (SONNET, Tokens(200_001, 1), 1_200_028_500_000),
        # 60 said at $2/M, 40 thought at $5/M
        ({"input": "1", "output": "2", "reasoning": "5"}, Tokens(0, 100, reasoning=40), 320_000_000),
        # no cached price: as input
        ({"input": "1", "output": "2"}, Tokens(100, 0, cached=100), 100_000_000),
        # the smallest price that is whole: $0.000001 per million is one picodollar per token
        ({"input": "0.000001"}, Tokens(7), 7),
        ({"input": "0"}, Tokens(7), 0),
        ({"request": "0.002"}, Tokens(), 2_000_000_000),
        # a price by the request alone includes tokens, of whatever kind
        ({"request": "0.002"}, Tokens(1_000, 500, cached=100, reasoning=7), 2_000_000_000),
        # one that prices tokens too charges both: $0.002 + 1,000 x $1/M
        ({"request": "0.002", "input": "1"}, Tokens(1_000, 0), 3_000_000_000),
    ],
)
def test_costs_worked_out_by_hand(price: dict[str, object], used: Tokens, pico: int) -> None:
    assert cost(price_from_json(price), used) == pico


def test_a_price_by_the_request_that_prices_some_tokens_knows_no_cost_of_others() -> None:
    assert cost(price_from_json({"request": "0.002", "input": "1"}), Tokens(1_000, 1)) is None


@pytest.mark.parametrize(
    ("price", "units", "pico"),
    [
        ({"audio_minute": "0.006"}, Units(audio_ms=90_000), 9_000_000_000),
        ({"million_characters": "15"}, Units(characters=2_000), 30_000_000_000),
        ({"image": "0.04"}, Units(images=3), 120_000_000_000),
        ({"image": "0.04", "request": "0.01"}, Units(images=0), 10_000_000_000),
        # $0.0001 a minute for 1 ms: 10^8 / 60,000 = 1,666.67 picodollars
        ({"audio_minute": "0.0001"}, Units(audio_ms=1), 1_667),
    ],
)
def test_units_are_charged_besides_tokens(price: dict[str, object], units: Units, pico: int) -> None:
    assert cost(price_from_json(price), Tokens(), units) == pico


@pytest.mark.parametrize(
    ("price", "used"),
    [
        ({"input": "1"}, Tokens(1, 1)),
        ({"output": "1"}, Tokens(1, 0)),
        ({"audio_minute": "0.006"}, Tokens()),
        ({"image": "1"}, Tokens()),
        ({"million_characters": "1"}, Tokens()),
    ],
)
def test_what_has_no_price_or_was_not_counted_costs_none_not_zero(price: dict[str, object], used: Tokens) -> None:
    assert cost(price_from_json(price), used) is None


def test_a_sum_that_is_not_whole_is_rounded_once_half_to_even() -> None:
    half = price_from_json({"input": "0.0000005", "output": "0.0000005"})  # half a picodollar per token
    assert [cost(half, Tokens(count)) for count in range(6)] == [0, 0, 1, 2, 2, 2]
    assert cost(half, Tokens(1, 1)) == 1  # not two halves, each rounded to nothing


@given(price=prices(dollars), used=tokens())
def test_weights_say_the_same_as_the_price(price: Price, used: Tokens) -> None:
    by = weights(price)
    assert by is not None
    assert sum(count * weight for count, weight in zip(used, by, strict=True)) == cost(price, used)


@pytest.mark.parametrize(
    "price",
    [
        SONNET,
        {"input": "1"},
        {"output": "1"},
        {"input": "1", "output": "0.0000005"},
        {"input": "1", "output": "1", "cached_input": "0.0000005"},
        {"input": "1", "output": "1", "request": "1"},
        {"input": "1", "output": "1", "image": "1"},
    ],
)
def test_a_price_that_is_more_has_no_weights(price: dict[str, object]) -> None:
    assert weights(price_from_json(price)) is None


@given(price=prices(dollars), first=tokens(MAX_TOKENS // 2), second=tokens(MAX_TOKENS // 2))
def test_costs_of_whole_rates_add_up(price: Price, first: Tokens, second: Tokens) -> None:
    both = Tokens(
        first.input + second.input,
        first.output + second.output,
        first.cached + second.cached,
        first.cache_write + second.cache_write,
        first.reasoning + second.reasoning,
    )
    one, other = cost(price, first), cost(price, second)
    assert one is not None
    assert other is not None
    assert cost(price, both) == one + other


@given(amounts=st.fixed_dictionaries(dict.fromkeys(KINDS, fine)), used=tokens())
def test_the_cost_is_the_exact_fraction_rounded_half_to_even(amounts: dict[str, str], used: Tokens) -> None:
    counts = {
        "input": used.input - used.cached - used.cache_write,
        "cached_input": used.cached,
        "cache_write": used.cache_write,
        "output": used.output - used.reasoning,
        "reasoning": used.reasoning,
    }
    exact = sum((Fraction(amounts[kind]) * count * PICO / 10**6 for kind, count in counts.items()), Fraction(0))
    assert cost(price_from_json(amounts), used) == round(exact)


@given(price=prices(fine))
def test_a_price_survives_its_json(price: Price) -> None:
    assert price_from_json(json.loads(json.dumps(price_to_json(price)))) == price


def test_tiers_and_units_survive_json() -> None:
    price = price_from_json(
        SONNET | {"request": "0.01", "image": "0.5", "audio_minute": "0.006", "million_characters": "15"}
    )
    assert price_from_json(price_to_json(price)) == price


def test_a_tier_states_only_what_differs_from_the_price_above_it() -> None:
    price = price_from_json(
        {"input": "1", "output": "2", "tiers": [{"above": 10, "input": "3"}, {"above": 20, "output": "4"}]}
    )
    assert price.at(10).input == 1_000_000
    assert (price.at(11).input, price.at(11).output) == (3_000_000, 2_000_000)
    assert (price.at(21).input, price.at(21).output) == (3_000_000, 4_000_000)


def test_the_highest_cost_fits_a_database_column() -> None:
    price = price_from_json(
        dict.fromkeys((*KINDS, "million_characters"), MAX_PER_MILLION)
        | dict.fromkeys(("request", "image", "audio_minute"), MAX_PER_UNIT)
    )
    highest = cost(price, Tokens(MAX_TOKENS, MAX_TOKENS), Units(MAX_IMAGES, MAX_AUDIO_MS, MAX_TOKENS))
    assert highest is not None
    assert highest < 2**63


@pytest.mark.parametrize(
    "used",
    [
        Tokens(-1),
        Tokens(0, -1),
        Tokens(5, 0, cached=-1),
        Tokens(5, 0, cache_write=-1),
        Tokens(0, 5, reasoning=-1),
        Tokens(5, 0, cached=6),
        Tokens(5, 0, cached=3, cache_write=3),
        Tokens(0, 5, reasoning=6),
        Tokens(MAX_TOKENS + 1),
        Tokens(0, MAX_TOKENS + 1),
    ],
)
def test_counts_that_cannot_be_are_errors(used: Tokens) -> None:
    with pytest.raises(ValueError, match=f"cannot be: counts lie between 0 and {MAX_TOKENS}"):
        cost(price_from_json(SONNET), used)


@pytest.mark.parametrize(
    "units",
    [
        Units(images=-1),
        Units(audio_ms=-1),
        Units(characters=-1),
        Units(images=MAX_IMAGES + 1),
        Units(audio_ms=MAX_AUDIO_MS + 1),
    ],
)
def test_units_that_cannot_be_are_errors(units: Units) -> None:
    with pytest.raises(ValueError, match="cannot be: between 0 and"):
        cost(price_from_json({"request": "1"}), Tokens(), units)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "a price has at least one of input"),
        ({"tiers": []}, "a price has at least one of input"),
        ({"inptu": "1"}, "`inptu` is no field of a price"),
        ({"input": 0.15}, "`input` is 0.15: a decimal such as"),
        ({"input": True}, "`input` is True"),
        ({"input": "-1"}, "`input` is '-1'"),
        ({"input": "1e3"}, "`input` is '1e3'"),
        ({"input": "٣"}, "`input` is"),
        ({"input": None}, "`input` is None"),
        ({"input": "10001"}, "between 0 and 10000 is expected"),
        ({"input": Decimal("-0.1")}, "between 0 and 10000 is expected"),
        ({"input": Decimal("NaN")}, "NaN is no price"),
        ({"input": Decimal("1e-999999")}, f"at most {DECIMALS} decimals"),
        ({"input": Decimal("1e999999")}, "is no price"),
        ({"request": "1001"}, "between 0 and 1000 is expected"),
        ({"input": "1", "tiers": {}}, "`tiers` is a list"),
        ({"input": "1", "tiers": [{"above": 5}]}, "a tier has `above` and at least one of"),
        ({"input": "1", "tiers": [{"input": "5"}]}, "a tier has `above`"),
        ({"input": "1", "tiers": [{"above": 0, "input": "5"}]}, "`above` is 0"),
        ({"input": "1", "tiers": [{"above": True, "input": "5"}]}, "`above` is True"),
        ({"input": "1", "tiers": [{"above": 9, "input": "5"}, {"above": 9, "input": "6"}]}, "higher with each tier"),
    ],
)
def test_a_bad_price_says_which_field_is_wrong(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        price_from_json(data)
