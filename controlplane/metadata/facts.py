"""What is known about models: facts, each with its source, and how those of several sources become one. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from extproc.stages.parameters import Kind, Parameter


class Layer(IntEnum):
    """Where facts are from. Of the same fact, the one of the later layer counts."""

    API = 0  # what OpenAI's API itself says of its parameters
    CATALOG = 1  # the embedded catalog, and the facts in a file of prices
    PROVIDER = 2  # the provider's own listing
    SIDECAR = 3  # a service that the gateway runs
    FILE = 4  # prices of the file that the policy names
    TRANSLATION = 5  # what the provider's own API has no place for
    POLICY = 6
    RULE = 7  # what rules of the policy do to every request


class Source(NamedTuple):
    """`text` is for people: `catalog of 2026-08-06: openai/gpt-4o`."""

    layer: Layer
    text: str


class Fact(NamedTuple):
    """One value. What names there are, and the form of each one's value, is said by `FORMS` below."""

    name: str
    value: Any
    source: Source


CONTEXT, OUTPUT = "context_window", "max_output"
INPUTS, OUTPUTS, CAPABILITIES = "inputs", "outputs", "capabilities"
PRICE, DEPRECATION = "price", "deprecation"
# The plain facts and their forms: tokens, words, a price in JSON's terms (extproc/usage/prices.py), a date.
FORMS: Mapping[str, type] = MappingProxyType(
    {
        CONTEXT: int,
        OUTPUT: int,
        INPUTS: tuple,
        OUTPUTS: tuple,
        CAPABILITIES: tuple,
        PRICE: dict,
        DEPRECATION: str,
    }
)
# Beside these: a parameter's kind, and its default, by the parameter's name. OTHERS are those that are not named.
_PARAMETER, _DEFAULT = "parameters.", "defaults."
OTHERS = "*"

Facts: TypeAlias = Mapping[str, Fact]
OPAQUE, UNSUPPORTED = Parameter(Kind.OPAQUE), Parameter(Kind.UNSUPPORTED)


@dataclass(frozen=True, eq=False, slots=True)
class Told:
    """Facts that are told together. Equal only to itself, so that it is looked up without being read."""

    facts: tuple[Fact, ...] = ()


NOTHING = Told()


@lru_cache(maxsize=1024)
def parameter_name(parameter: str) -> str:
    """The name of the fact about a parameter."""
    return _PARAMETER + parameter


@lru_cache(maxsize=1024)
def default_name(parameter: str) -> str:
    """The name of the fact about a parameter's default."""
    return _DEFAULT + parameter


def parameter(name: str, value: Parameter, source: Source) -> Fact:
    return Fact(parameter_name(name), value, source)


def default(name: str, value: Any, source: Source) -> Fact:
    return Fact(default_name(name), value, source)


def merge(*told: Iterable[Fact]) -> dict[str, Fact]:
    """One fact of each name: of the latest layer, and within a layer the last."""
    found: dict[str, Fact] = {}
    for fact in (fact for facts in told for fact in facts):
        known = found.get(fact.name)
        if known is None or fact.source.layer >= known.source.layer:
            found[fact.name] = fact
    return found


def parameters(facts: Facts) -> dict[str, Fact]:
    """The facts about parameters, by the parameters' names; what holds for all others comes last."""
    start = len(_PARAMETER)
    found = {name[start:]: fact for name, fact in facts.items() if name.startswith(_PARAMETER)}
    return {**{name: fact for name, fact in found.items() if name != OTHERS}, **_only(found, OTHERS)}


def _only(found: Facts, name: str) -> dict[str, Fact]:
    return {name: found[name]} if name in found else {}


def defaults(facts: Facts) -> dict[str, Fact]:
    """The facts about defaults of parameters, by the parameters' names."""
    start = len(_DEFAULT)
    return {name[start:]: fact for name, fact in facts.items() if name.startswith(_DEFAULT)}
