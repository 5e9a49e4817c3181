"""The embedded catalog and its schema."""

import json
from copy import deepcopy
from datetime import date
from typing import Any

import jsonschema
import pytest

from extproc.usage.price_catalog import CATALOG, Catalog, catalog_from_json, catalog_to_json, load_catalog
from extproc.usage.prices import cost
from extproc.usage.record import Tokens

SCHEMA = json.loads((CATALOG.parent / "models.schema.json").read_text())
DOCUMENT = json.loads(CATALOG.read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
SMALL: dict[str, Any] = {
    "version": 1,
    "families": {"acme": {"title": "Acme", "hosts": ["api.acme.test"]}},
    "models": [{"family": "acme", "name": "one", "price": {"input": "1"}}],
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def test_the_catalog_fits_its_schema() -> None:
    VALIDATOR.check_schema(SCHEMA)
    assert [error.message for error in VALIDATOR.iter_errors(DOCUMENT)] == []


def test_every_entry_is_read_and_dated(catalog: Catalog) -> None:
    assert len(catalog.models) == len(DOCUMENT["models"]) >= 80
    assert catalog.updated
    for model in catalog.models:
        assert model.source_date, model.name
        assert date(2025, 1, 1) <= model.source_date <= catalog.updated, model.name


def test_every_family_sells_something_and_the_stand_in_sells_nothing(catalog: Catalog) -> None:
    assert {family.id for family in catalog.families} == {model.family for model in catalog.models}
    assert "mock" not in {family.id for family in catalog.families}


def test_prices_are_whole_picodollars_and_in_a_sane_order(catalog: Catalog) -> None:
    for model in catalog.models:
        for rates in (model.price.rates, *(tier.rates for tier in model.price.tiers)):
            said = [rates.input, rates.cached, rates.cache_write, rates.output, rates.reasoning]
            assert all(isinstance(rate, int) and rate > 0 for rate in said if rate is not None), model.name
            if rates.input is not None:
                assert (rates.cached or 0) <= rates.input <= (rates.cache_write or rates.input), model.name
                assert rates.input <= (rates.output or rates.input), model.name


def test_capabilities_agree_with_prices_and_modalities(catalog: Catalog) -> None:
    for model in catalog.models:
        assert ("vision" in model.capabilities) == ("image" in model.inputs), model.name
        assert ("embeddings" in model.capabilities) <= (model.price.rates.output is None), model.name
        assert ("text" in model.outputs and "text" in model.inputs) <= (model.price.rates.output is not None), (
            model.name
        )


@pytest.mark.parametrize(
    ("family", "name", "used", "pico"),
    [
        # $2.50 in, $1.25 cached, $10 out: 600 plain + 400 cached + 100 out
        ("openai", "gpt-4o", Tokens(1_000, 100, cached=400), 3_000_000_000),
        # $3 in, $15 out
        ("anthropic", "claude-sonnet-4-5-20250929", Tokens(1_000, 100), 4_500_000_000),
        # above 200,000: $2.50 in, $15 out
        ("google", "gemini-2.5-pro", Tokens(300_000, 1_000), 765_000_000_000),
        ("openai", "text-embedding-3-small", Tokens(1_000_000), 20_000_000_000),
        # $0.0375 in
        ("cohere", "command-r7b-12-2024", Tokens(10), 375_000),
    ],
)
def test_costs_of_well_known_models(catalog: Catalog, family: str, name: str, used: Tokens, pico: int) -> None:
    (model,) = (model for model in catalog.models if model.family == family and name in model.names)
    assert cost(model.price, used) == pico


@pytest.mark.parametrize(
    ("kind", "host", "family"),
    [
        ("openai", "api.openai.com", "openai"),
        ("openai", "eu.API.openai.com", "openai"),
        ("openai", "api.groq.com", "groq"),
        ("anthropic", "bedrock-runtime.eu-central-1.amazonaws.com", "bedrock"),
        ("openai", "10.0.0.7", ""),
        ("openai", "api.openai.com.evil.test", ""),
        ("openai", "", "openai"),
        ("mock", "", "mock"),
        ("mock", "127.0.0.1", "mock"),
    ],
)
def test_a_provider_belongs_to_the_family_of_its_host(catalog: Catalog, kind: str, host: str, family: str) -> None:
    assert catalog.family(kind, host) == family


def test_the_catalog_survives_its_json(catalog: Catalog) -> None:
    document = json.loads(json.dumps(catalog_to_json(catalog)))
    assert catalog_from_json(document) == catalog
    assert [error.message for error in VALIDATOR.iter_errors(document)] == []


def changed(path: str, value: Any) -> dict[str, Any]:
    document = deepcopy(SMALL)
    *way, last = path.split(".")
    place: Any = document
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[int(last) if last.isdigit() else last] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed("version", 2), "no catalog of version 1"),
        (changed("models", {}), "`models` is {}: a list is expected"),
        (changed("families", None), "`families` is None"),
        (changed("families.acme", {"host": "x"}), "families acme: `title`"),
        (changed("models.0", 3), r"models\[0\] is 3"),
        (changed("models.0.family", "amce"), r"models\[0\] one: the family amce is not in"),
        (changed("models.0.prise", {}), r"models\[0\] one: prise: fields are family, name"),
        (changed("models.0.price", {"input": 1.5}), r"models\[0\] one: `input` is 1.5"),
        (changed("models.0.aliases", ["one"]), r"models\[0\] one: acme has the name one twice"),
        (changed("models.0.context_window", "8k"), "`context_window` is '8k': a number of tokens is expected"),
        (changed("models.0.inputs", ["smell"]), "smell: one of text"),
        (changed("models.0.capabilities", ["flight"]), "flight: one of streaming"),
        (changed("models.0.deprecation", "soon"), "`deprecation` is 'soon': a date"),
    ],
)
def test_a_bad_catalog_says_where_it_is_wrong(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        catalog_from_json(document)
    assert not VALIDATOR.is_valid(document) or "amce" in message or "twice" in message
