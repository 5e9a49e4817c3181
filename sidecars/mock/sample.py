"""The smallest value that a JSON schema accepts, for structured answers and tool arguments.

Covers what OpenAI's structured outputs allow (object, array, string, number, integer, boolean, null, enum, const,
anyOf, allOf, local `$ref`) with the bounds that change a minimal value; `pattern` and `format` are not solved.
"""

import math
from typing import Any

_DEEPEST = 64


def sample(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """A minimal instance of `schema`; None for what is not understood or never ends."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return None
    if "$ref" in schema:
        return sample(_resolve(root, schema["$ref"]), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if schema.get("allOf"):
        return sample(_merged(schema["allOf"], root), root, depth + 1)
    options = schema.get("anyOf") or schema.get("oneOf")
    return sample(_shallowest(options), root, depth + 1) if options else _typed(schema, root, depth)


def _typed(schema: dict[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else None)
    if isinstance(kind, list):
        kind = "null" if "null" in kind else next(iter(kind), None)
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: sample(properties.get(name, {}), root, depth + 1) for name in schema.get("required") or ()}
    if kind == "array":
        return [sample(schema.get("items"), root, depth + 1) for _ in range(schema.get("minItems") or 0)]
    if kind == "string":
        return "x" * (schema.get("minLength") or 0)
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    return False if kind == "boolean" else None


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    low: float = schema.get("minimum", -math.inf)
    high: float = schema.get("maximum", math.inf)
    if "exclusiveMinimum" in schema:
        low = max(low, math.floor(schema["exclusiveMinimum"]) + 1)
    if "exclusiveMaximum" in schema:
        high = min(high, math.ceil(schema["exclusiveMaximum"]) - 1)
    if low > 0:
        return math.ceil(low) if whole else low
    if high < 0:
        return math.floor(high) if whole else high
    return 0


def _merged(parts: list[Any], root: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        resolved = _resolve(root, part["$ref"]) if isinstance(part, dict) and "$ref" in part else part
        if not isinstance(resolved, dict):
            continue
        for key, value in resolved.items():
            if key == "properties":
                merged[key] = {**merged.get(key, {}), **value}
            elif key == "required":
                merged[key] = [*merged.get(key, []), *value]
            else:
                merged[key] = value
    return merged


def _shallowest(options: list[Any]) -> Any:
    """The null option where there is one, so that recursive schemas end."""
    return next((option for option in options if option == {"type": "null"}), options[0])


def _resolve(root: Any, reference: Any) -> Any:
    """The target of a local reference (`#/$defs/x`, `#`), None when there is none."""
    target = root
    for step in str(reference).lstrip("#").split("/")[1:]:
        target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, dict) else None
    return target
