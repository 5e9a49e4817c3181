"""What rules of the policy do to parameters, where they do it to every request for a model. Pure."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson
from pydantic import TypeAdapter

from controlplane.metadata import apis, facts
from controlplane.metadata.facts import OPAQUE, OTHERS, UNSUPPORTED, Fact, Facts, Layer, Source, Told
from controlplane.metadata.rely import within
from controlplane.plan.rules import Rule, Rules
from extproc.stages import parameters, paths, values
from extproc.stages.parameters import Kind, Parameter
from extproc.stages.patterns import Patterns

_PARAMETERS: TypeAdapter[parameters.Settings] = TypeAdapter(parameters.Settings)


def told(rules: Rules | None, model: str, path: str) -> tuple[Told, ...]:
    """The facts of each rule that every request for a model to a path goes through, in their order."""
    found = (_of(rule, model) for rule in (rules.rules if rules else ()) if _always(rule, model, path))
    return tuple(each for each in found if each.facts)


def held(known: Facts, rules: tuple[Told, ...]) -> dict[str, Fact]:
    """Facts after rules: bounds narrow what a parameter may be, anything else takes its place."""
    found = dict(known)
    for fact in (fact for rule in rules for fact in rule.facts):
        if not isinstance(fact.value, Parameter) or fact.value.kind is not Kind.MUTABLE:
            found[fact.name] = fact
            continue
        before = found.get(fact.name)
        kept = OPAQUE if before is None else before.value
        if kept.kind is Kind.OPAQUE:
            found[fact.name] = fact
        elif kept.kind is Kind.MUTABLE:
            value = within(kept, fact.value.least, fact.value.most)
            if value != kept:
                found[fact.name] = fact._replace(value=value)
    return found


def _always(rule: Rule, model: str, path: str) -> bool:
    inner = rule.spec.when
    some = rule.keys is not None or rule.teams is not None or rule.stream is not None or inner.headers or inner.modality
    return not some and rule.for_model(model) and (rule.paths is None or path in rule.paths)


def _of(rule: Rule, model: str) -> Told:
    """The same values for the same rule, edit after edit: facts are looked up by being the same."""
    found = orjson.dumps([(spec.kind, spec.settings) for spec in rule.spec.stages if spec.kind in _READ])
    judged = any(spec.kind == "parameters" for spec in rule.spec.stages)
    return _told(rule.spec.name, found, model if judged else "")


@lru_cache(maxsize=4096)
def _told(name: str, stages: bytes, model: str) -> Told:
    source = Source(Layer.RULE, f"policy: rule {name}")
    return Told(tuple(fact for kind, settings in orjson.loads(stages) for fact in _READ[kind](settings, model, source)))


def _transformed(settings: Mapping[str, Any], _: str, source: Source) -> Iterator[Fact]:
    for operation in settings["operations"]:
        for path, value in operation.get("set", {}).items():
            if (name := _name(path)) is not None:
                yield facts.parameter(name, Parameter(Kind.READ_ONLY, value=_constant(value)), source)
        for path, value in operation.get("default", {}).items():
            if (name := _name(path)) is not None:
                yield facts.default(name, _constant(value), source)
        for path in operation.get("remove", ()):
            if (name := _name(path)) is not None:
                yield facts.parameter(name, UNSUPPORTED, source)
        for path, bounds in operation.get("clamp", {}).items():
            if (name := _name(path)) is not None:
                value = Parameter(Kind.MUTABLE, least=bounds.get("least"), most=bounds.get("most"))
                yield facts.parameter(name, value, source)
        if "max_tokens" in operation:
            for name in apis.CAPS:
                yield facts.parameter(name, Parameter(Kind.MUTABLE, most=operation["max_tokens"]["most"]), source)


def _judged(settings: Mapping[str, Any], model: str, source: Source) -> Iterator[Fact]:
    read = _PARAMETERS.validate_json(orjson.dumps(settings))
    found = Patterns(read.models).get(model)
    if found is None:
        return
    for name, parameter in found.parameters.items():
        yield facts.parameter(name, parameter, source)
    if found.others is Kind.UNSUPPORTED:
        yield facts.parameter(OTHERS, UNSUPPORTED, source)


_READ = {"transform": _transformed, "parameters": _judged}


def _name(path: str) -> str | None:
    """The parameter that a path means; None within one."""
    steps = paths.steps(path)
    return steps[0] if len(steps) == 1 and isinstance(steps[0], str) else None


def _constant(value: Any) -> Any:
    """The value that all requests get; None where it is made of the request."""
    made = values.compiled(value)
    return orjson.loads(made) if isinstance(made, bytes) else None
