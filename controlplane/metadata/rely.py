"""Facts of several targets -> what a client can rely on, whichever of them serves it. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from controlplane.metadata import facts
from controlplane.metadata.facts import OPAQUE, OTHERS, UNSUPPORTED, Fact, Facts, Source
from extproc.stages.parameters import Kind, Parameter


def rely(targets: Sequence[Facts]) -> dict[str, Fact]:
    """The least window, what all take and give, the price where all have the same. One target: its own facts.

    What some targets do not say is taken from those that do; the source then tells how many are silent.
    """
    if len(targets) == 1:
        return dict(targets[0])
    found: dict[str, Fact] = {}
    for name, together in _TOGETHER.items():
        said = [target[name] for target in targets if name in target]
        value = together([fact.value for fact in said]) if said else None
        if value is not None and not (name == facts.PRICE and len(said) < len(targets)):
            found[name] = Fact(name, value, _source(said, value, len(targets)))
    return found | {fact.name: fact for fact in (*_parameters(targets), *_defaults(targets))}


def _common(values: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    first, *rest = values
    return tuple(word for word in first if all(word in other for other in rest))


def _alike(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values[1:]) else None


_TOGETHER: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    facts.CONTEXT: min,
    facts.OUTPUT: min,
    facts.INPUTS: _common,
    facts.OUTPUTS: _common,
    facts.CAPABILITIES: _common,
    facts.PRICE: _alike,
    facts.DEPRECATION: min,
}


def _source(said: Sequence[Fact], value: Any, targets: int) -> Source:
    """That of the targets whose value it is; of all where it is none of theirs."""
    own = [fact for fact in said if fact.value == value] or list(said)
    text = "; ".join(dict.fromkeys(fact.source.text for fact in own))
    silent = targets - len(said)
    if silent:
        text += f"; {silent} of {targets} targets {'does' if silent == 1 else 'do'} not say"
    return Source(max(fact.source.layer for fact in own), text)


def _parameters(targets: Sequence[Facts]) -> Iterable[Fact]:
    told = [facts.parameters(target) for target in targets]
    for name in dict.fromkeys(name for parameters in told for name in parameters):
        said = [found for parameters in told if (found := parameters.get(name) or parameters.get(OTHERS))]
        silent = [OPAQUE] * (len(targets) - len(said))
        value = together([*(fact.value for fact in said), *silent])
        yield facts.parameter(name, value, _source(said, value, len(targets)))


def _defaults(targets: Sequence[Facts]) -> Iterable[Fact]:
    """A default is one only where all targets have it."""
    told = [facts.defaults(target) for target in targets]
    for name in told[0]:
        said = [defaults[name] for defaults in told if name in defaults]
        if len(said) == len(targets) and _alike([fact.value for fact in said]) is not None:
            yield Fact(said[0].name, said[0].value, _source(said, said[0].value, len(targets)))


def together(values: Sequence[Parameter]) -> Parameter:
    """What a parameter may be that several targets take; unsupported where no value suits all of them."""
    if any(value.kind is Kind.UNSUPPORTED for value in values):
        return UNSUPPORTED
    fixed = next((value for value in values if value.kind is Kind.READ_ONLY), None)
    if fixed is not None:
        return UNSUPPORTED if any(value.problem(fixed.value) for value in values) else fixed
    found = Parameter(Kind.MUTABLE)
    for value in values:
        found = found if found.kind is Kind.UNSUPPORTED else within(found, value.least, value.most)
    opaque = any(value.kind is Kind.OPAQUE for value in values)
    return OPAQUE if opaque and found.kind is Kind.MUTABLE else found


def within(parameter: Parameter, least: float | None, most: float | None) -> Parameter:
    """A mutable parameter that is held within bounds, too; unsupported where nothing is left."""
    low = max((bound for bound in (parameter.least, least) if bound is not None), default=None)
    high = min((bound for bound in (parameter.most, most) if bound is not None), default=None)
    if low is not None and high is not None and low > high:
        return UNSUPPORTED
    return Parameter(Kind.MUTABLE, least=low, most=high)
