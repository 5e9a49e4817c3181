"""The texts that people and models write to one another, each with its path: what safety and limits are about.

Total: odd shapes have no texts. Names, ids, tool definitions and media are not among them. Names of members count in
any case, since servers written in Go read `Content` for `content`.
"""

from collections.abc import Iterator
from typing import Any

from extproc.stages.protocol import Endpoint

Steps = tuple[str | int, ...]
Found = Iterator[tuple[Steps, str]]

# Members that hold text, or content again: a message, a part, a list of either.
_CONTENTS = frozenset(
    ("text", "content", "refusal", "thinking", "reasoning", "reasoning_content", "reasoning_details", "summary",
     "arguments", "output", "function", "function_call", "tool_calls", "custom", "audio", "transcript", "message",
     "document", "revised_prompt", "premise", "hypothesis")
)  # fmt: skip
# Members in which every text is one, whatever it is called: what a tool is called with, variables of a prompt.
_ANYTHING = frozenset(("input", "variables"))
_OF_CHATS = frozenset(("system", "instructions", "messages", "prediction"))
_OF_REQUESTS = _OF_CHATS | {"prompt", "suffix", "input", "query", "documents", "labels", "hypothesis_template"}
_OF_ANSWERS = frozenset(("choices", "content", "output", "text", "segments", "results", "data"))
# Texts that are JSON themselves, so that what they say may be written with escapes.
_JSON = frozenset(("arguments", "partial_json"))
_MOST_DEPTH = 100


def texts(endpoint: Endpoint, body: dict[str, Any]) -> Found:
    """Of a request."""
    return _of(body, _OF_CHATS if endpoint is Endpoint.CHAT else _OF_REQUESTS)


def answer_texts(body: dict[str, Any]) -> Found:
    """Of an unary answer of any of the APIs."""
    return _of(body, _OF_ANSWERS)


def is_json(path: Steps) -> bool:
    """Whether the text at a path is JSON."""
    return path[-1] in _JSON


def content(path: Steps, value: Any, depth: int = 0) -> Found:
    """A text, a message, a part, or a list of them."""
    if isinstance(value, str):
        yield path, value
    elif depth >= _MOST_DEPTH:
        return
    elif isinstance(value, list):
        for index, part in enumerate(value):
            if isinstance(part, str | dict | list):
                yield from content((*path, index), part, depth + 1)
    elif isinstance(value, dict):
        for name, inner in value.items():
            known = name if name in _CONTENTS else name.casefold()
            if known in _CONTENTS:
                yield from content((*path, name), inner, depth + 1)
            elif known in _ANYTHING:
                yield from strings((*path, name), inner)
            elif known == "source" and isinstance(inner, dict):
                yield from _source((*path, name), inner, depth + 1)


def strings(path: Steps, value: Any) -> Found:
    """Every text in a value, as deep as JSON may be."""
    todo = [(path, value)]
    while todo:
        at, one = todo.pop()
        if isinstance(one, str):
            yield at, one
        elif isinstance(one, dict):
            todo += [((*at, name), inner) for name, inner in one.items()]
        elif isinstance(one, list):
            todo += [((*at, index), inner) for index, inner in enumerate(one)]


def _of(body: dict[str, Any], names: frozenset[str]) -> Found:
    for name, value in body.items():
        if name in names or name.casefold() in names:
            yield from strings((name,), value) if name.casefold() == "documents" else content((name,), value)


def _source(path: Steps, source: dict[str, Any], depth: int) -> Found:
    """Of a document of Anthropic's API: plain text, or content."""
    if source.get("type") == "text" and isinstance(source.get("data"), str):
        yield (*path, "data"), source["data"]
    yield from content((*path, "content"), source.get("content"), depth)
