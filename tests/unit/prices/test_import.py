"""The community's price file: what is read from it, and what is said about the rest."""

import json
from datetime import date
from fractions import Fraction
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.usage.price_book import PriceBook
from extproc.usage.price_catalog import CATALOG, Model, catalog_from_json, catalog_to_json
from extproc.usage.price_import import Imported, PriceFileError, import_prices
from extproc.usage.prices import Rates, Tier, cost, price_to_json
from extproc.usage.record import Tokens

SAMPLE = (Path(__file__).parent / "community.json").read_bytes()


@pytest.fixture(scope="module")
def imported() -> Imported:
    return import_prices(SAMPLE, updated=date(2026, 8, 6))


def model(imported: Imported, name: str) -> Model:
    (found,) = (model for model in imported.catalog.models if name in model.names)
    return found


def test_numbers_are_read_exactly(imported: Imported) -> None:
    large = model(imported, "acme-large")
    base = Rates(150_000, 75_000, 187_500, 600_000, 900_000)
    above = Rates(300_000, 75_000, 187_500, 1_200_000, 900_000)
    assert (large.price.rates, large.price.tiers) == (base, (Tier(200_000, above),))
    assert model(imported, "third").price.rates.input == Fraction("33333.333333333335")
    assert model(imported, "old-cache").price.rates.cached == 100_000


def test_what_else_the_file_knows(imported: Imported) -> None:
    large = model(imported, "acme-large")
    assert (large.context_window, large.max_output) == (200_000, 4_096)
    assert large.inputs == {"text", "image", "pdf"}
    assert large.outputs == {"text"}
    assert large.capabilities == {"streaming", "tools", "vision", "reasoning", "caching"}
    assert (large.deprecation, large.source_date) == (date(2027, 3, 31), date(2026, 8, 6))
    assert model(imported, "embedder").capabilities == {"embeddings"}


def test_names_are_the_providers_own(imported: Imported) -> None:
    names = {(each.family, each.name, each.aliases) for each in imported.catalog.models}
    assert ("groq", "fast", ("groq/fast",)) in names
    assert ("google", "flash", ("gemini/flash",)) in names
    assert ("acme", "third", ()) in names
    assert ("acme", "acme/third", ()) in names  # its short name is another entry's


def test_units(imported: Imported) -> None:
    said = {name: price_to_json(model(imported, name).price) for name in ("ranker", "hearer", "speaker", "painter")}
    assert said == {
        "ranker": {"input": "0", "request": "0.002"},
        "hearer": {"audio_minute": "0.006"},
        "speaker": {"million_characters": "15"},
        "painter": {"image": "0.04"},
    }


def test_every_bad_entry_is_named_with_its_reason(imported: Imported) -> None:
    assert {problem.name: problem.reason for problem in imported.rejected} == {
        "no-price": "no price that can be charged; it has none at all",
        "null-price": "no price that can be charged; it has none at all",
        "only-pixels": "no price that can be charged; it has input_cost_per_pixel",
        "in-words": "`input_cost_per_token` is '1e-06': a number is expected, in USD",
        "negative": "`input_cost_per_token`: -0.000001 USD is no price: between 0 and 0.01 is expected",
        "per-million": "`input_cost_per_token`: 2.5 USD is no price: between 0 and 0.01 is expected",
        "endless": "`input_cost_per_token`: NaN is no price in USD: at most 30 decimals are expected",
        "no-number": "`input_cost_per_token`: NaN is no price in USD: at most 30 decimals are expected",
        "yes": "`input_cost_per_token` is True: a number is expected, in USD",
        "whose": "`litellm_provider` is missing: the name of a provider is expected",
        "listed": "this is no object with fields",
        "": "a name has 1 to 300 characters",
    }


def test_nothing_is_dropped_in_silence(imported: Imported) -> None:
    entries = set(json.loads(SAMPLE)) - {"sample_spec"}
    kept = {name for each in imported.catalog.models for name in each.names} & entries
    assert kept | {problem.name for problem in imported.rejected} == entries
    assert dict(imported.unsupported) == {
        "acme-large": (
            "input_cost_per_token_batches",
            "input_cost_per_audio_token",
            "search_context_cost_per_query",
        ),
        "both-ways": ("output_cost_per_image",),
    }
    assert imported.free == ("at-home",)
    assert [(problem.name, problem.reason.split(" is ")[0]) for problem in imported.doubts] == [
        ("odd-numbers", "`max_input_tokens`"),
        ("odd-numbers", "`max_output_tokens`"),
        ("odd-numbers", "`deprecation_date`"),
    ]


def test_a_name_that_is_there_twice_is_told() -> None:
    entry = '{"litellm_provider": "acme", "input_cost_per_token": %s}'
    twice = import_prices('{"m": ' + entry % "1e-6" + ', "m": ' + entry % "2e-6" + "}")
    assert [problem.name for problem in twice.doubts] == ["m"]
    assert model(twice, "m").price.rates.input == 2_000_000


def test_it_survives_the_catalogs_json_and_gives_the_same_costs(imported: Imported) -> None:
    document = json.loads(json.dumps(catalog_to_json(imported.catalog)))
    schema = json.loads((CATALOG.parent / "models.schema.json").read_text())
    assert [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)] == []
    assert catalog_from_json(document) == imported.catalog
    found = PriceBook(imported=catalog_from_json(document)).find("acme-large", "acme")
    assert found
    assert found.source == "imported prices of 2026-08-06: acme/acme-large"
    # 800 x $0.15/M + 200 x $0.075/M + 100 x $0.60/M
    assert cost(found.price, Tokens(1_000, 100, cached=200)) == 195_000_000


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"3", b"{", b'{"m": }', b"\xff\xfe\xfd", b"[" * 200_000, b'{"m": ' + b"1" * 5_000 + b"}"]
)
def test_what_is_no_price_file_is_an_error(data: bytes) -> None:
    with pytest.raises(PriceFileError, match="this is no price file"):
        import_prices(data)


numbers = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.floats(0, 1e-3)
)
fields = st.dictionaries(
    st.sampled_from(
        [
            "input_cost_per_token",
            "output_cost_per_token",
            "cache_read_input_token_cost",
            "input_cost_per_token_above_200k_tokens",
            "output_cost_per_token_above_128k_tokens",
            "input_cost_per_second",
            "output_cost_per_image",
            "input_cost_per_query",
            "max_tokens",
            "max_input_tokens",
            "deprecation_date",
            "mode",
            "tiered_pricing",
        ]
    ),
    numbers,
)
entries = st.one_of(
    numbers,
    st.builds(lambda data, who: {**data, "litellm_provider": who}, fields, st.sampled_from(["openai", "a", "", 3])),
)


@given(st.dictionaries(st.sampled_from(["m", "a/m", "openai/m", "a/a/m", "/", "a/"]), entries))
def test_any_entries_are_kept_or_rejected_and_kept_ones_survive_json(data: dict[str, object]) -> None:
    imported = import_prices(json.dumps(data))
    kept = [name for each in imported.catalog.models for name in each.names if name in data]
    rejected = [problem.name for problem in imported.rejected]
    assert set(kept) | set(rejected) == set(data)
    assert len(imported.catalog.models) + len(rejected) == len(data)
    assert catalog_from_json(json.loads(json.dumps(catalog_to_json(imported.catalog)))) == imported.catalog
