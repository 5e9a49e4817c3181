"""JSON values whose texts are templates."""

from collections.abc import Iterator
from typing import Any

import orjson

from extproc.stages.protocol import Endpoint, Request
from extproc.stages.template import Template, template


def compiled(value: Any) -> Any:
    """JSON bytes where no text has a variable; else the value with its texts as templates. Raises ValueError."""
    made = _made(value)
    varies = any(not isinstance(part, str) for text in templates(made) for part in text.parts)
    return made if varies else orjson.dumps(filled(made, _NOBODY))


def filled(value: Any, request: Request) -> Any:
    """The value for one request."""
    if isinstance(value, Template):
        return value.of(request)
    if isinstance(value, dict):
        return {name: filled(inner, request) for name, inner in value.items()}
    return [filled(inner, request) for inner in value] if isinstance(value, list) else value


def templates(value: Any) -> Iterator[Template]:
    """All templates of a compiled value."""
    if isinstance(value, Template):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from templates(inner)


def _made(value: Any) -> Any:
    if isinstance(value, str):
        return template(value)
    if isinstance(value, dict):
        return {name: _made(inner) for name, inner in value.items()}
    return [_made(inner) for inner in value] if isinstance(value, list) else value


_NOBODY = Request(Endpoint.OTHER, b"{}")
