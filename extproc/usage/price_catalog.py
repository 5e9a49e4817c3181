"""The model catalog: what is known about each model of each provider. schemas/models.schema.json describes the file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from extproc.usage.prices import MAX_TOKENS, Price, price_from_json, price_to_json

CATALOG = Path(__file__).parents[2] / "schemas" / "models.json"
VERSION = 1
CAPABILITIES = ("streaming", "tools", "vision", "json_schema", "reasoning", "caching", "embeddings")
MODALITIES = ("text", "image", "audio", "video", "pdf")
MAX_NAME = 300  # characters of a model's name
_FIELDS = (
    "family",
    "name",
    "aliases",
    "price",
    "context_window",
    "max_output",
    "inputs",
    "outputs",
    "capabilities",
    "deprecation",
    "source_date",
)


@dataclass(frozen=True, slots=True)
class Family:
    """Who sells models: its id ("openai", "groq"), its name, and the hosts of its API, `*` standing for anything.

    A maker sells its own models; what the others sell has another price with each of them.
    """

    id: str
    title: str
    maker: bool = False
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A model as one provider family sells it. None and empty: not known."""

    family: str
    name: str
    price: Price
    aliases: tuple[str, ...] = ()
    context_window: int | None = None  # tokens
    max_output: int | None = None  # tokens
    inputs: frozenset[str] = frozenset()  # of MODALITIES
    outputs: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()  # of CAPABILITIES
    deprecation: date | None = None  # when the provider turns it off
    source_date: date | None = None  # when its price was looked up

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models, none of them twice in a family. `title` says where they are from: "catalog of 2026-08-06"."""

    title: str
    updated: date | None
    families: tuple[Family, ...]
    models: tuple[Model, ...]

    def family(self, kind: str, host: str = "") -> str:
        """The family of a provider: by its API's host, since many speak the API of one; else its kind's own name."""
        host = host.lower()
        for family in self.families:
            if any(fnmatchcase(host, pattern) for pattern in family.hosts):
                return family.id
        return "" if host and kind == "openai" else kind


def load_catalog(path: Path = CATALOG) -> Catalog:
    """The embedded catalog, or another file of its form. ValueError names the entry that is wrong; OSError as is."""
    return catalog_from_json(json.loads(path.read_text(encoding="utf-8")))


def catalog_from_json(data: Mapping[str, Any]) -> Catalog:
    """A catalog out of its JSON document (schemas/models.schema.json); `catalog_to_json` is its inverse."""
    if not isinstance(data, Mapping) or data.get("version") != VERSION:
        raise ValueError(f"this is no catalog of version {VERSION}: `version`, `families` and `models` are expected")
    updated = _date(data.get("updated"), "updated")
    families = tuple(_family(name, family) for name, family in _of(data, "families", dict).items())
    known = {family.id for family in families}
    models: list[Model] = []
    taken: set[tuple[str, str]] = set()
    for number, entry in enumerate(_of(data, "models", list)):
        model = _placed(entry, number)
        if model.family not in known:
            raise ValueError(f"models[{number}] {model.name}: the family {model.family} is not in `families`")
        for name in model.names:
            if (model.family, name) in taken:
                raise ValueError(f"models[{number}] {model.name}: {model.family} has the name {name} twice")
            taken.add((model.family, name))
        models.append(model)
    title = data.get("title") or (f"catalog of {updated}" if updated else "catalog")
    return Catalog(title, updated, families, tuple(models))


def catalog_to_json(catalog: Catalog) -> dict[str, Any]:
    """The document that `catalog_from_json` reads: how an imported price file crosses to where costs are computed."""
    return {
        "version": VERSION,
        "title": catalog.title,
        **({"updated": catalog.updated.isoformat()} if catalog.updated else {}),
        "families": {
            family.id: {"title": family.title, "maker": family.maker, "hosts": list(family.hosts)}
            for family in catalog.families
        },
        "models": [_model_to_json(model) for model in catalog.models],
    }


def _of(data: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(data.get(name), kind):
        raise ValueError(f"`{name}` is {data.get(name)!r}: a {kind.__name__} is expected")
    return data[name]


def _family(name: str, data: Any) -> Family:
    if not isinstance(data, Mapping) or not {"title"} <= set(data) <= {"title", "maker", "hosts"}:
        raise ValueError(f"families {name}: `title`, and if need be `maker` and `hosts`, are expected")
    return Family(name, data["title"], data.get("maker", False), tuple(data.get("hosts", ())))


def _placed(entry: Any, number: int) -> Model:
    if not isinstance(entry, Mapping):
        raise ValueError(f"models[{number}] is {entry!r}: an object is expected")
    try:
        return _model(entry)
    except ValueError as error:
        raise ValueError(f"models[{number}] {entry.get('name', '')}: {error}") from None


def _model(entry: Mapping[str, Any]) -> Model:
    unknown = set(entry) - set(_FIELDS)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: fields are {', '.join(_FIELDS)}")
    return Model(
        family=_of(entry, "family", str),
        name=_of(entry, "name", str),
        price=price_from_json(_of(entry, "price", dict)),
        aliases=tuple(entry.get("aliases", ())),
        context_window=_count(entry, "context_window"),
        max_output=_count(entry, "max_output"),
        inputs=_words(entry.get("inputs", ()), MODALITIES),
        outputs=_words(entry.get("outputs", ()), MODALITIES),
        capabilities=_words(entry.get("capabilities", ()), CAPABILITIES),
        deprecation=_date(entry.get("deprecation"), "deprecation"),
        source_date=_date(entry.get("source_date"), "source_date"),
    )


def _model_to_json(model: Model) -> dict[str, Any]:
    data = {
        "family": model.family,
        "name": model.name,
        "aliases": list(model.aliases),
        "price": price_to_json(model.price),
        "context_window": model.context_window,
        "max_output": model.max_output,
        "inputs": sorted(model.inputs, key=MODALITIES.index),
        "outputs": sorted(model.outputs, key=MODALITIES.index),
        "capabilities": sorted(model.capabilities, key=CAPABILITIES.index),
        "deprecation": model.deprecation and model.deprecation.isoformat(),
        "source_date": model.source_date and model.source_date.isoformat(),
    }
    return {name: value for name, value in data.items() if value not in (None, [])}


def _words(words: Any, known: tuple[str, ...]) -> frozenset[str]:
    found = frozenset(words)
    if not found <= set(known):
        raise ValueError(f"{', '.join(sorted(found - set(known)))}: one of {', '.join(known)} is expected")
    return found


def _count(entry: Mapping[str, Any], name: str) -> int | None:
    value = entry.get(name)
    if value is not None and (type(value) is not int or not 0 < value <= MAX_TOKENS):
        raise ValueError(f"`{name}` is {value!r}: a number of tokens is expected")
    return value


def _date(value: Any, name: str) -> date | None:
    if value is None:
        return None
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` is {value!r}: a date such as 2026-08-06 is expected") from None
