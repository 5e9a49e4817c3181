"""Metadata in JSON: what clients get of `/v1/models/{id}`, and what `ctl models show` gets. Pure.

For clients the fields have the names that OpenRouter's API gave them, https://openrouter.ai/docs/models, with prices in
USD per token; what only this gateway tells has names of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Context, Decimal
from typing import Any, NamedTuple

import orjson

from controlplane.metadata import facts
from controlplane.metadata.facts import OTHERS, Fact, Facts
from controlplane.metadata.models import Choice, Metadata
from extproc.stages.parameters import Kind, Parameter

_EXACT = Context(prec=80)
_MODALITIES = {"pdf": "file"}
_PRICES = {
    "input": "prompt",
    "output": "completion",
    "cached_input": "input_cache_read",
    "cache_write": "input_cache_write",
    "reasoning": "internal_reasoning",
}
_UNITS = ("request", "image", "audio_minute")
_LISTED = {facts.CONTEXT: "context_length", facts.OUTPUT: "max_completion_tokens"}


class Parts(NamedTuple):
    """The members of a model's object beyond those of OpenAI, and those of its member `parameters`: JSON, in pieces.

    Many models have most of the pieces in common.
    """

    members: tuple[str, ...]
    parameters: tuple[str, ...]

    @property
    def text(self) -> str:
        return ",".join((*self.members, f'"parameters":{{{",".join(self.parameters)}}}'))


def parts(metadata: Metadata) -> Parts:
    """What clients are told of a model."""
    own = _own(metadata.facts)
    if len(metadata.providers) > 1:
        pairs = zip(metadata.providers, metadata.targets, strict=True)
        own["endpoints"] = [{"provider_name": provider, **_own(known)} for provider, known in pairs]
    described, summary = _parameters(metadata.facts)
    members = (_members(own), _members(summary)) if own else (_members(summary),)
    return Parts(members, tuple(_members({name: of}) for name, of in described.items()))


def view(model: str, choices: Sequence[Choice], metadata: Metadata) -> dict[str, Any]:
    """All values, each with its source. `choices`: the targets of the model."""
    pairs = zip(choices, metadata.targets, strict=True)
    targets = [{**asdict(choice), **_valued(known)} for choice, known in pairs]
    return {"model": model, **_valued(metadata.facts), "targets": targets}


def _members(values: Mapping[str, Any]) -> str:
    return orjson.dumps(values)[1:-1].decode()


def _own(known: Facts) -> dict[str, Any]:
    found = {name: known[fact].value for fact, name in _LISTED.items() if fact in known}
    inputs, outputs = (known[name].value if name in known else () for name in (facts.INPUTS, facts.OUTPUTS))
    capabilities = known[facts.CAPABILITIES].value if facts.CAPABILITIES in known else ()
    if not outputs and "embeddings" in capabilities:
        outputs = ("embeddings",)
    if inputs or outputs:
        found["architecture"] = {"input_modalities": _spoken(inputs), "output_modalities": _spoken(outputs)}
    if capabilities:
        found["capabilities"] = capabilities
    if facts.PRICE in known:
        found["pricing"] = pricing(known[facts.PRICE].value)
    if facts.DEPRECATION in known:
        found["expiration_date"] = known[facts.DEPRECATION].value
    sources = {_SHOWN[name]: fact.source.text for name, fact in known.items() if name in _SHOWN}
    return found | ({"sources": sources} if sources else {})


_SHOWN = {
    **_LISTED,
    facts.INPUTS: "architecture.input_modalities",
    facts.OUTPUTS: "architecture.output_modalities",
    facts.CAPABILITIES: "capabilities",
    facts.PRICE: "pricing",
    facts.DEPRECATION: "expiration_date",
}


def _spoken(modalities: tuple[str, ...]) -> list[str]:
    return [_MODALITIES.get(word, word) for word in modalities]


def pricing(price: Mapping[str, Any]) -> dict[str, Any]:
    """A price for one token, not a million of them, as exact decimals: `{"prompt": "0.00000015"}`."""
    found: dict[str, Any] = {_PRICES[name]: _each(price[name]) for name in _PRICES if name in price}
    found |= {name: price[name] for name in _UNITS if name in price}
    if "million_characters" in price:
        found["character"] = _each(price["million_characters"])
    if "tiers" in price:
        found["tiers"] = [{"above": tier["above"], **pricing(tier)} for tier in price["tiers"]]
    return found


def _each(million: str) -> str:
    each = _EXACT.scaleb(Decimal(million), -6)
    return f"{each.normalize(_EXACT):f}"


def _parameters(known: Facts) -> tuple[dict[str, Any], dict[str, Any]]:
    """Each parameter, and what follows from them in OpenRouter's words."""
    told, defaults = facts.parameters(known), facts.defaults(known)
    supported = [name for name, fact in told.items() if name != OTHERS and fact.value.kind is not Kind.UNSUPPORTED]
    described = {name: _described(fact, defaults.get(name)) for name, fact in told.items()}
    usual = {name: found["default"] for name, found in described.items() if "default" in found}
    return described, {"supported_parameters": supported, "default_parameters": usual}


def _described(fact: Fact, default: Fact | None) -> dict[str, Any]:
    """A parameter: its kind, and what is known of its values."""
    value: Parameter = fact.value
    bounds = {"min": value.least, "max": value.most, "value": value.value}
    found = {"kind": value.kind.value, **{name: bound for name, bound in bounds.items() if bound is not None}}
    if value.kind is Kind.MUTABLE and default is not None and default.value is not None:
        found["default"] = default.value
    return {**found, "source": fact.source.text}


def _valued(known: Facts) -> dict[str, Any]:
    plain = {
        name: {"value": known[name].value, "source": known[name].source.text} for name in facts.FORMS if name in known
    }
    defaults = facts.defaults(known)
    told = facts.parameters(known).items()
    return {"facts": plain, "parameters": {name: _described(fact, defaults.get(name)) for name, fact in told}}
