"""The community's price file (`model_prices_and_context_window.json`, the format of LiteLLM) as a catalog.

One JSON object: a model's name -> its fields. Prices are JSON numbers in USD per token (`1.5e-07`), read as decimals.
What the format says and this catalog cannot charge (batch and priority prices, audio tokens, searches) is listed.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from extproc.usage.price_catalog import MAX_NAME, Catalog, Family, Model
from extproc.usage.prices import (
    MAX_PER_MILLION,
    MAX_PER_UNIT,
    MAX_TOKENS,
    Price,
    Rate,
    Rates,
    Tier,
    layered,
    rate_of,
)

_PER_TOKEN = Decimal(MAX_PER_MILLION) / 10**6  # USD for one token at most, and for one character
_SAMPLE = "sample_spec"  # the file's own documentation, not a model
_RATES = {
    "input_cost_per_token": "input",
    "input_cost_per_token_cache_hit": "cached",  # an older name; the one below wins where both are there
    "cache_read_input_token_cost": "cached",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
}
_TIER = re.compile(rf"({'|'.join(_RATES)})_above_([1-9]\d{{0,4}})k_tokens")
_PRICE = re.compile(
    r"cost|pric|multiplier|provider_specific_entry"
)  # a field whose name has one of these is about money

# What a mode charges instead of tokens: field, unit, how many of the field's make one unit, and at most how many USD.
_UNITS: dict[str, tuple[str, str, int, Decimal]] = {
    "image_generation": ("output_cost_per_image", "image", 1, Decimal(MAX_PER_UNIT)),
    "audio_transcription": ("input_cost_per_second", "audio_minute", 60, Decimal(MAX_PER_UNIT) / 60),
    "audio_speech": ("input_cost_per_character", "character", 1, _PER_TOKEN),
}

# `litellm_provider` -> the family it is in the catalog; others keep their own name.
_FAMILIES = {
    "text-completion-openai": "openai",
    "gemini": "google",
    "cohere_chat": "cohere",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "fireworks_ai-embedding-models": "fireworks",
    "bedrock_converse": "bedrock",
}
_MAKERS = frozenset({"openai", "anthropic", "google", "mistral", "cohere", "deepseek", "xai"})

_CAPABILITIES = {
    "supports_native_streaming": "streaming",
    "supports_function_calling": "tools",
    "supports_vision": "vision",
    "supports_response_schema": "json_schema",
    "supports_reasoning": "reasoning",
    "supports_prompt_caching": "caching",
}
_INPUTS = {
    "supports_vision": "image",
    "supports_audio_input": "audio",
    "supports_video_input": "video",
    "supports_pdf_input": "pdf",
}
_OUTPUTS = {
    "chat": "text",
    "responses": "text",
    "completion": "text",
    "audio_transcription": "text",
    "image_generation": "image",
    "audio_speech": "audio",
}


class PriceFileError(ValueError):
    """The file as a whole is not of the format; nothing of it was read."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one entry, and its name in the file."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What a price file gave: every entry is either in the catalog or in `rejected`, except the format's sample."""

    catalog: Catalog
    rejected: tuple[Problem, ...]  # entries that were left out
    doubts: tuple[Problem, ...]  # fields that were left out, or repeated, of entries that were kept
    unsupported: Mapping[str, tuple[str, ...]]  # entry -> its price fields that cannot be charged
    free: tuple[str, ...]  # entries whose every price is zero: free, or just unknown to the file's authors


@dataclass(slots=True)
class _Report:
    rejected: list[Problem] = field(default_factory=list)
    doubts: list[Problem] = field(default_factory=list)
    unsupported: dict[str, tuple[str, ...]] = field(default_factory=dict)
    free: list[str] = field(default_factory=list)


def import_prices(data: bytes | str, *, updated: date | None = None) -> Imported:
    """Reads a price file. `updated` is the day it was fetched. PriceFileError when it is no JSON object."""
    report = _Report()
    entries = _entries(data, report)
    models: list[Model] = []
    taken: set[tuple[str, str]] = set()
    # An entry that stands there by its bare name has it, whatever follows from the prefix of another one.
    bare = {(_family(entry), name) for name, entry in entries.items()}
    for name, entry in entries.items():
        if name == _SAMPLE:
            continue
        try:
            model = _model(name, entry, report, bare | taken if "/" in name else taken, updated)
        except ValueError as error:
            report.rejected.append(Problem(name, str(error)))
            continue
        taken.update((model.family, each) for each in model.names)
        models.append(model)
    title = f"imported prices of {updated}" if updated else "imported prices"
    families = tuple(Family(each, each, each in _MAKERS) for each in dict.fromkeys(model.family for model in models))
    return Imported(
        Catalog(title, updated, families, tuple(models)),
        tuple(report.rejected),
        tuple(report.doubts),
        report.unsupported,
        tuple(report.free),
    )


def _entries(data: bytes | str, report: _Report) -> Mapping[str, Any]:
    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                report.doubts.append(Problem(name, "the name is there twice in one object; the last one counts"))
            found[name] = value
        return found

    try:
        entries = json.loads(data, object_pairs_hook=unique, parse_float=_decimal, parse_constant=_decimal)
    except (ValueError, RecursionError) as error:
        raise PriceFileError(
            f"this is no price file: {error or type(error).__name__}; a JSON object is expected"
        ) from None
    if not isinstance(entries, dict):
        raise PriceFileError(f"this is no price file: a {type(entries).__name__}; an object of models is expected")
    return entries


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:  # an exponent beyond all bounds
        return Decimal("NaN")


def _model(name: str, entry: Any, report: _Report, taken: set[tuple[str, str]], updated: date | None) -> Model:
    if not isinstance(entry, dict):
        raise ValueError("this is no object with fields")
    if not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"a name has 1 to {MAX_NAME} characters")
    family = _family(entry)
    if not family:
        raise ValueError("`litellm_provider` is missing: the name of a provider is expected")
    price = _price(name, entry, report)
    own = _own_name(name, entry["litellm_provider"])
    if (family, own) in taken:
        own = name
    return Model(
        family=family,
        name=own,
        aliases=() if own == name else (name,),
        price=price,
        context_window=_count(name, entry, ("max_input_tokens", "max_tokens"), report),
        max_output=_count(name, entry, ("max_output_tokens",), report),
        inputs=_inputs(entry),
        outputs=_outputs(entry),
        capabilities=_capabilities(entry),
        deprecation=_date(name, entry, report),
        source_date=updated,
    )


def _family(entry: Any) -> str:
    provider = entry.get("litellm_provider") if isinstance(entry, dict) else None
    if not isinstance(provider, str):
        return ""
    # "vertex_ai-language-models" and its like are all one provider.
    return _FAMILIES.get(provider) or ("vertex_ai" if provider.startswith("vertex_ai-") else provider)


def _own_name(name: str, provider: str) -> str:
    """The name as the provider knows it: `llama-3.3-70b-versatile` of `groq/llama-3.3-70b-versatile`."""
    prefix, slash, rest = name.partition("/")
    known = {provider, _FAMILIES.get(provider, provider), provider.partition("-")[0]}
    return rest if slash and rest and prefix in known else name


def _price(name: str, entry: Mapping[str, Any], report: _Report) -> Price:
    """ValueError when a price is none, or when none can be charged: such an entry is as good as absent."""
    charged = {key for key in _RATES if entry.get(key) is not None}
    rates = {_RATES[key]: _rate(entry, key, _PER_TOKEN) for key in _RATES if key in charged}
    steps: dict[int, dict[str, Rate]] = {}
    for key in entry:
        tier = _TIER.fullmatch(key)
        if tier and entry[key] is not None:
            charged.add(key)
            steps.setdefault(int(tier[2]) * 1000, {})[_RATES[tier[1]]] = _rate(entry, key, _PER_TOKEN)
    units = _units(entry, charged, any(rates.values()))
    left = tuple(key for key in entry if _PRICE.search(key) and key not in charged and entry[key] is not None)
    paid = any(rates.values()) or any(any(step.values()) for step in steps.values()) or any(units.values())
    if not charged or (not paid and any(entry[key] != 0 for key in left)):
        raise ValueError(f"no price that can be charged; it has {', '.join(left) or 'none at all'}")
    if steps and not rates and not units:
        raise ValueError("prices only above a number of tokens, and none below it")
    if left:
        report.unsupported[name] = left
    if not paid:
        report.free.append(name)
    tiers: list[Tier] = []
    reached = base = Rates(**rates)
    for above in sorted(steps):
        reached = layered(reached, steps[above])
        tiers.append(Tier(above, reached))
    return Price(base, tuple(tiers), **units)


def _units(entry: Mapping[str, Any], charged: set[str], by_token: bool) -> dict[str, Rate]:
    """What is charged besides tokens. Where tokens have a price, one per image or second is another way to say it."""
    units: dict[str, Rate] = {}
    for key in ("input_cost_per_request", "input_cost_per_query"):
        if entry.get(key) is not None and "request" not in units:
            units["request"] = _rate(entry, key, MAX_PER_UNIT)
            charged.add(key)
    mode = entry.get("mode")
    key, unit, times, most = _UNITS.get(mode if isinstance(mode, str) else "", ("", "", 1, Decimal(0)))
    if unit and not by_token and entry.get(key) is not None:
        units[unit] = _rate(entry, key, most) * times
        charged.add(key)
    return units


def _rate(entry: Mapping[str, Any], key: str, most: int | Decimal) -> Rate:
    """Picodollars for one."""
    value = entry[key]
    if type(value) is not int and not isinstance(value, Decimal):
        raise ValueError(f"`{key}` is {_shown(value)}: a number is expected, in USD")
    try:
        return rate_of(Decimal(value), 1, most)
    except ValueError as error:
        raise ValueError(f"`{key}`: {error}") from None


def _count(name: str, entry: Mapping[str, Any], keys: tuple[str, ...], report: _Report) -> int | None:
    for key in keys:
        value = entry.get(key)
        if value is None:
            continue
        # Bounded before it becomes an int: 1e999999 is a short text and a long number.
        number = type(value) is int or (isinstance(value, Decimal) and value.is_finite())
        if number and 0 <= value <= MAX_TOKENS and value == int(value):
            return int(value) or None
        report.doubts.append(Problem(name, f"`{key}` is {_shown(value)}: a number of tokens is expected"))
    return None


def _date(name: str, entry: Mapping[str, Any], report: _Report) -> date | None:
    value = entry.get("deprecation_date")
    if value is None:
        return None
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        report.doubts.append(Problem(name, f"`deprecation_date` is {_shown(value)}: a date as 2026-08-06 is expected"))
        return None


def _inputs(entry: Mapping[str, Any]) -> frozenset[str]:
    found = {modality for key, modality in _INPUTS.items() if entry.get(key) is True}
    if entry.get("mode") in ("chat", "responses", "completion", "embedding", "audio_speech", "image_generation"):
        found.add("text")
    elif entry.get("mode") == "audio_transcription":
        found.add("audio")
    return frozenset(found)


def _outputs(entry: Mapping[str, Any]) -> frozenset[str]:
    mode = entry.get("mode")
    found = {_OUTPUTS[mode]} if isinstance(mode, str) and mode in _OUTPUTS else set()
    return frozenset(found | ({"audio"} if entry.get("supports_audio_output") is True else set()))


def _capabilities(entry: Mapping[str, Any]) -> frozenset[str]:
    found = {capability for key, capability in _CAPABILITIES.items() if entry.get(key) is True}
    return frozenset(found | ({"embeddings"} if entry.get("mode") == "embedding" else set()))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
