"""The JSON Schema of the policy language, for editors. `make docs` writes schemas/policy.schema.json."""

from collections.abc import Mapping
from typing import Any

from controlplane.policy import grammar
from controlplane.policy.language import PolicySpec

_DURATIONS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
_NAMED = ("properties", "patternProperties", "$defs")
_UNITS = {grammar.DURATION: _DURATIONS, grammar.REFRESH: _DURATIONS, grammar.DAYS: (("d", 1),)}
_SIZES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1))


def json_schema() -> dict[str, Any]:
    """The schema that an editor needs: JSON-ready, draft 2020-12, defaults as a policy would write them."""
    schema = _rewritten(PolicySpec.model_json_schema(by_alias=True))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "headgate/policy/1", **schema}


def _rewritten(part: Any) -> Any:
    """pydantic's schema without what a policy cannot say (null, names outside the grammar) and without its titles."""
    if isinstance(part, list):
        return [_rewritten(each) for each in part]
    if not isinstance(part, dict):
        return part
    made = {
        # The names in these are the policy's own, and may be those of the schema's words.
        name: {each: _rewritten(its) for each, its in of.items()} if name in _NAMED else _rewritten(of)
        for name, of in part.items()
        if not (name == "title" and isinstance(of, str))
    }
    if "patternProperties" in made:
        made["additionalProperties"] = False
    choices = made.get("anyOf")
    if choices and {"type": "null"} in choices:
        del made["anyOf"]
        rest = [choice for choice in choices if choice != {"type": "null"}]
        made = {**rest[0], **made} if len(rest) == 1 else {"anyOf": rest, **made}
    if "default" in made:
        default = _default(made.pop("default"), made)
        if default is not None:
            made["default"] = default
    return made


def _default(value: Any, field: Mapping[str, Any]) -> Any:
    """A default in the words of the policy; None where there is nothing to say: a mapping's fields have their own."""
    if value is None:
        return None
    if (units := _UNITS.get(field.get("pattern", ""))) is not None:
        return _in_units(value, units)
    if any(choice.get("pattern") == grammar.SIZE for choice in field.get("anyOf", ())):
        return _in_units(value, _SIZES)
    if isinstance(value, dict) and "scheme" in value:
        return str(grammar.Url(**value))
    if isinstance(value, dict) and "port" in value:
        return str(grammar.Address(**value))
    return None if isinstance(value, dict) else value


def _in_units(amount: int, units: tuple[tuple[str, int], ...]) -> str:
    unit, size = next((unit, size) for unit, size in units if amount % size == 0)
    return f"{amount // size}{unit}"
