"""The texts that people and models write to one another, each with its path: what safety and limits are about.

Total: odd shapes have no texts. Names, ids, tool definitions and media are not among them.
"""

from collections.abc import Iterator
from typing import Any

from extproc.stages.protocol import Endpoint

Steps = tuple[str | int, ...]
Found = Iterator[tuple[Steps, str]]

# Members of a part, a call or an item that hold text, or content again.
_TEXTS = ("text", "refusal", "thinking", "arguments", "output", "summary", "reasoning_content")
_CONTENTS = ("content", "function", "summary", "output")
_MOST_DEPTH = 8


def texts(endpoint: Endpoint, body: dict[str, Any]) -> Found:
    """Of a request."""
    for name in ("system", "instructions"):
        if name in body:
            yield from content((name,), body[name])
    if isinstance(body.get("messages"), list):
        for index, message in enumerate(body["messages"]):
            yield from _message(("messages", index), message)
    if endpoint is not Endpoint.CHAT:
        for name in ("prompt", "input"):
            if name in body:
                yield from _given((name,), body[name])
    if isinstance(body.get("prediction"), dict):
        yield from content(("prediction", "content"), body["prediction"].get("content"))


def answer_texts(body: dict[str, Any]) -> Found:
    """Of an unary answer of any of the APIs."""
    choices = body.get("choices")
    if isinstance(choices, list):
        for index, choice in enumerate(choices):
            if isinstance(choice, dict):
                if isinstance(choice.get("text"), str):
                    yield ("choices", index, "text"), choice["text"]
                yield from _message(("choices", index, "message"), choice.get("message"))
    for name in ("content", "output"):
        if isinstance(body.get(name), list):
            yield from content((name,), body[name])


def content(path: Steps, value: Any, depth: int = 0) -> Found:
    """A text, a part, or a list of parts."""
    if isinstance(value, str):
        yield path, value
    elif depth >= _MOST_DEPTH:
        return
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from content((*path, index), part, depth + 1)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str):
                if name in _TEXTS or name == "content":
                    yield (*path, name), inner
            elif name in _CONTENTS:
                yield from content((*path, name), inner, depth + 1)
            elif name == "input" and value.get("type") == "tool_use":
                yield from strings((*path, name), inner)


def strings(path: Steps, value: Any) -> Found:
    """Every text in a value, as deep as JSON may be: what a tool is called with."""
    todo = [(path, value)]
    while todo:
        at, one = todo.pop()
        if isinstance(one, str):
            yield at, one
        elif isinstance(one, dict):
            todo += [((*at, name), inner) for name, inner in one.items()]
        elif isinstance(one, list):
            todo += [((*at, index), inner) for index, inner in enumerate(one)]


def _message(path: Steps, message: Any) -> Found:
    if not isinstance(message, dict):
        return
    for name in ("content", "refusal", "reasoning_content", "reasoning"):
        value = message.get(name)
        if value is not None:
            yield from content((*path, name), value)
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        yield from content((*path, "tool_calls"), calls)


def _given(path: Steps, value: Any) -> Found:
    """A prompt or an input: a text, a list of texts, or of messages and items."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for index, one in enumerate(value):
            if isinstance(one, str | dict):
                yield from content((*path, index), one)
