"""What a semantic cache compares of a request: what the user said last. All that came before has to be the same."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from extproc.stages import canonical
from extproc.stages.protocol import Endpoint, Request

MOST_TEXT = 32_000  # characters that are compared; longer ones only match exactly


class Compared(NamedTuple):
    """`group`: 32 bytes; requests of one group differ in nothing but `text`."""

    group: bytes
    text: str


def compared(request: Request, scope: str) -> Compared | None:
    """None for a request that only an equal one is like. `scope`: who shares answers, and how texts are compared."""
    blank, text = _parted(request.endpoint, request.body)
    if blank is None or not 0 < len(text) <= MOST_TEXT or not text.strip():
        return None
    return Compared(canonical.key(request.changed(orjson.dumps(blank)), f"similar:{scope}", request.model), text)


def _parted(endpoint: Endpoint, body: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The body without what was said last, and that."""
    if endpoint in (Endpoint.CHAT, Endpoint.MESSAGES):
        messages = body.get("messages")
        last = messages[-1] if isinstance(messages, list) and messages else None
        text = _text(last.get("content")) if isinstance(last, dict) and last.get("role") == "user" else None
        if text is not None and isinstance(messages, list) and isinstance(last, dict):
            return {**body, "messages": [*messages[:-1], {**last, "content": ""}]}, text
    else:
        name = {Endpoint.COMPLETIONS: "prompt", Endpoint.RESPONSES: "input"}.get(endpoint, "")
        said = body.get(name)
        if isinstance(said, str):
            return {**body, name: ""}, said
    return None, ""


def _text(content: Any) -> str | None:
    """A message's content, where it is one text and nothing else."""
    if isinstance(content, str):
        return content
    part = content[0] if isinstance(content, list) and len(content) == 1 else None
    if isinstance(part, dict) and part.keys() == {"type", "text"} and isinstance(part["text"], str):
        return part["text"]
    return None
