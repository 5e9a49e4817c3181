"""What a text model answers, before it takes the shape of an API: a text or a tool call, why it ended, its usage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sidecars.mock import prose
from sidecars.mock.answer import Usage, measure
from sidecars.mock.call import Call
from sidecars.mock.canned import Canned
from sidecars.mock.errors import MockError, invalid
from sidecars.mock.sample import sample


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the request offers; `place` is its field, for errors."""

    name: str
    parameters: Any
    place: str


@dataclass(frozen=True, slots=True)
class Draft:
    """`reason` is `stop`, `length` or `tool_calls`. With a `tool`, `text` holds its arguments as JSON; `more` are
    further calls, name and arguments. `pieces` is how a stream cuts the text."""

    text: str
    reason: str
    tool: str | None
    usage: Usage
    pieces: Sequence[str]
    more: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """What a chat-like API asks for, read from its own spelling: `said` is the last user message."""

    said: str
    prompt_words: int
    count: int
    stops: tuple[str, ...]
    limit: int | None
    tool: Tool | None
    schema: Any = None
    json_object: bool = False


def draft(call: Call, ask: Ask) -> Draft:
    if call.canned is not None and call.canned.speaks:
        return _canned(call, ask, call.canned)
    if ask.tool is not None:
        text, reason = _sample_text(ask.tool.parameters, ask.tool.place), "tool_calls"
        spent = prose.words(ask.tool.name) + prose.words(text)
    else:
        text, reason = prose.cut(_text(call, ask), ask.stops, ask.limit)
        spent = prose.words(text)
    usage = measure(call, ask.prompt_words, spent * ask.count)
    pieces = prose.pieces(text, call.controls.chunks)
    return Draft(text, reason, ask.tool.name if ask.tool else None, usage, pieces)


def _canned(call: Call, ask: Ask, canned: Canned) -> Draft:
    """What a fixture says: as it is, whatever the request's limits are."""
    first, *more = canned.calls or [(None, canned.text or "")]
    tool, text = first
    spent = sum(prose.words(name) + prose.words(arguments) for name, arguments in canned.calls) or prose.words(text)
    usage = measure(call, ask.prompt_words, spent * ask.count)
    reason = canned.reason or ("stop" if tool is None else "tool_calls")
    pieces = canned.pieces or prose.pieces(text, call.controls.chunks)
    return Draft(text, reason, tool, usage, pieces, tuple((name, of) for name, of in more if name is not None))


def _text(call: Call, ask: Ask) -> str:
    if ask.schema is not None:
        return _sample_text(ask.schema, "response_format")
    text = prose.echo(call, ask.said)
    return orjson.dumps({"reply": text}).decode() if ask.json_object else text


def _sample_text(schema: Any, place: str) -> str:
    try:
        return orjson.dumps(sample(schema)).decode()
    except (TypeError, ValueError, AttributeError):
        raise invalid(place, "a valid JSON schema") from None


def chosen(tools: Sequence[Tool], choice: Any) -> Tool | None:
    """The tool to call: the named one, the first one when any is required, none otherwise.

    `choice` is `auto`, `none`, `required`, or an object that names a function in either API's spelling.
    """
    if choice is None or choice in ("auto", "none"):
        return None
    if choice == "required" and tools:
        return tools[0]
    if isinstance(choice, dict):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, dict) else None
        for tool in tools:
            if tool.name == name:
                return tool
    raise MockError(400, "Invalid 'tool_choice': it asks for a tool that 'tools' does not have.", param="tool_choice")


def text_of(content: Any, place: str) -> str:
    """The text of a message's content: a string, or the text parts of a list of parts joined by a line break."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise invalid(place, "a string or an array of content parts")
    return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
