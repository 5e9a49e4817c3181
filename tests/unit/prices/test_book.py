"""Which price wins, and what is said about its origin."""

import pytest

from extproc.usage.price_book import Layer, Override, PriceBook, overrides_from, undated_name
from extproc.usage.price_catalog import Catalog, Family, Model, load_catalog
from extproc.usage.prices import Price, price_from_json


def price(usd: int) -> Price:
    return price_from_json({"input": usd, "output": usd})


def file(*entries: tuple[str, str, int], title: str = "a file") -> Catalog:
    families = tuple(Family(name, name, maker=name == "maker") for name in ("maker", "host", "other"))
    return Catalog(title, None, families, tuple(Model(family, name, price(usd)) for family, name, usd in entries))


def usd(book: PriceBook, model: str, family: str = "", provider: str = "") -> int | None:
    found = book.find(model, family, provider)
    return None if found is None else int(found.price.rates.input or 0) // 10**6


CATALOG = file(("maker", "m", 1), ("host", "m", 2), ("maker", "m-2024-05-13", 3), ("host", "only", 4), title="catalog")


def test_an_unknown_model_has_no_price() -> None:
    assert PriceBook(load_catalog()).find("no-such-model", "openai", "openai") is None
    assert PriceBook().find("gpt-4o") is None


def test_what_the_family_sells_comes_before_the_name_alone() -> None:
    book = PriceBook(CATALOG)
    assert (usd(book, "m", "maker"), usd(book, "m", "host")) == (1, 2)
    assert usd(book, "m", "somebody") == 1  # the maker's
    assert usd(book, "only") == 4


def test_sellers_that_disagree_give_no_price_for_a_name_alone() -> None:
    assert usd(PriceBook(file(("host", "x", 1), ("other", "x", 2))), "x") is None
    assert usd(PriceBook(file(("host", "x", 1), ("other", "x", 1))), "x") == 1


def test_a_dated_name_gets_the_undated_price_only_where_it_has_none_itself() -> None:
    book = PriceBook(CATALOG)
    assert usd(book, "m-2024-05-13", "maker") == 3
    assert usd(book, "m-2024-08-06", "maker") == 1
    assert usd(book, "m-latest", "host") == 2


def test_an_imported_file_comes_before_the_catalog() -> None:
    book = PriceBook(CATALOG, file(("maker", "m", 9), title="imported"))
    assert usd(book, "m", "maker") == 9
    assert usd(book, "m-2024-05-13", "maker") == 9
    assert usd(book, "only") == 4


def test_the_policy_comes_first() -> None:
    overrides = overrides_from({"m": price(10), "m*": price(11), "m-x*": price(12), "new": price(0)})
    book = PriceBook(CATALOG, file(("maker", "m", 9)), overrides)
    assert usd(book, "m", "maker") == 10
    assert usd(book, "m-2024-05-13", "maker") == 10  # the same model, dated; more is said of it than by m*
    assert usd(book, "mm") == 11
    assert usd(book, "m-xyz") == 12
    assert usd(book, "new") == 0  # zero is a price
    assert usd(book, "only") == 4


def test_a_longer_wildcard_comes_before_the_undated_name() -> None:
    book = PriceBook(overrides=overrides_from({"m": price(1), "m-2024*": price(2), "m-2025-01-01": price(3)}))
    assert [usd(book, name) for name in ("m-2024-05-13", "m-2025-05-13", "m-2025-01-01")] == [2, 1, 3]


def test_a_price_for_one_provider_comes_before_those_for_all() -> None:
    overrides = (*overrides_from({"m": price(1)}), *overrides_from({"*": price(0)}, provider="farm"))
    book = PriceBook(CATALOG, overrides=overrides)
    assert usd(book, "m", "", "farm") == 0
    assert usd(book, "m", "", "cloud") == 1


def test_a_stand_in_costs_what_the_policy_says_or_nothing_known() -> None:
    assert usd(PriceBook(CATALOG), "m", "mock") is None
    assert usd(PriceBook(CATALOG, overrides=overrides_from({"m": price(5)})), "m", "mock") == 5


def test_the_origin_is_told() -> None:
    book = PriceBook(CATALOG, file(("host", "i", 1), title="imported prices"), overrides_from({"p*": price(1)}))
    sources = {name: book.find(name) for name in ("pq", "i", "m", "m-2024-08-06")}
    assert {name: found and found.source for name, found in sources.items()} == {
        "pq": "policy: p*",
        "i": "imported prices: host/i",
        "m": "catalog: maker/m",
        "m-2024-08-06": "catalog: maker/m, for the undated name",
    }
    assert [found and found.layer for found in sources.values()] == [
        Layer.POLICY,
        Layer.IMPORTED,
        Layer.CATALOG,
        Layer.CATALOG,
    ]


def test_answers_are_remembered_but_not_without_end() -> None:
    book = PriceBook(CATALOG)
    assert book.find("m") is book.find("m")
    for number in range(25_000):
        assert book.find(f"unknown-{number}") is None
    assert len(book._remembered) <= 10_000
    assert usd(book, "m") == 1


@pytest.mark.parametrize("pattern", ["", "a*b", "**"])
def test_a_bad_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no pattern"):
        Override(pattern, price(1))


def test_two_prices_for_one_pattern_are_an_error() -> None:
    with pytest.raises(ValueError, match="'m' has two prices"):
        PriceBook(overrides=(Override("m", price(1)), Override("m", price(2))))


@pytest.mark.parametrize(
    ("name", "undated"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("grok-3-latest", "grok-3"),
        ("gpt-4-0613", None),
        ("mistral-large-2411", None),
        ("m-20251399", None),
        ("-latest", None),
        ("gpt-4o", None),
        ("", None),
    ],
)
def test_dates_at_the_end_of_names(name: str, undated: str | None) -> None:
    assert undated_name(name) == undated


@pytest.mark.parametrize(
    ("model", "family", "entry"),
    [
        ("gpt-4o-2024-05-13", "openai", "openai/gpt-4o-2024-05-13"),
        ("gpt-4o-2030-01-01", "openai", "openai/gpt-4o"),
        ("claude-sonnet-4-5-20250929", "anthropic", "anthropic/claude-sonnet-4-5"),
        ("claude-3-5-sonnet-latest", "anthropic", "anthropic/claude-3-5-sonnet"),
        (
            "eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "bedrock",
            "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        ("llama-3.3-70b-versatile", "groq", "groq/llama-3.3-70b-versatile"),
        ("gpt-4o-mini", "", "openai/gpt-4o-mini"),
    ],
)
def test_names_that_providers_answer_with(model: str, family: str, entry: str) -> None:
    found = PriceBook(load_catalog()).find(model, family)
    assert found
    assert found.entry == entry
