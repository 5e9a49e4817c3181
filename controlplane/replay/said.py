"""What an answer says, whichever API says it and however it is cut: the part of it that can be compared.

Ids, times and the names of models differ between two equal answers, so they are left out.
"""

import hashlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from struct import unpack
from typing import Any

import orjson

from sidecars.recording.events import data_of

_VOLATILE = frozenset({"id", "created", "created_at", "system_fingerprint", "model", "usage", "service_tier", "object"})

Call = tuple[str, str]  # name and arguments
Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """`finish` has a reason for each choice, `vectors` the embeddings. What is none of an API's known parts is `text`
    in a canonical form."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    finish: tuple[str, ...] = ()
    vectors: tuple[Vector, ...] = ()


def said(body: bytes) -> Said:
    """What a plain answer says."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Said(_opaque(body))
    return _of(data) if isinstance(data, dict) else Said(_canonical(data))


def said_in(events: Sequence[str]) -> Said:
    """What a stream says, put together."""
    found = []
    for event in events:
        try:
            data = orjson.loads(data_of(event))
        except orjson.JSONDecodeError:
            continue  # [DONE], comments, what broke off
        if isinstance(data, dict):
            found.append(data)
    failure = next((data for data in found if isinstance(data.get("error"), dict)), None)
    if failure is not None:
        return _error(failure["error"])
    kinds = {str(data.get("type", "")) for data in found}
    if any(kind.startswith("response.") for kind in kinds):
        return _responses_events(found)
    if any(kind.startswith("message_") for kind in kinds):
        return _messages_events(found)
    return _chunks(found)


def _of(data: dict[str, Any]) -> Said:
    if isinstance(data.get("error"), dict):
        return _error(data["error"])
    if isinstance(choices := data.get("choices"), list):
        return _choices([choice for choice in choices if isinstance(choice, dict)])
    if data.get("object") == "response":
        return _response(data)
    if data.get("type") == "message":
        return _message(data)
    if data.get("object") == "list" and (vectors := _vectors(data.get("data"))):
        return Said(vectors=vectors)
    return Said(_canonical(data))


def _error(error: Mapping[str, Any]) -> Said:
    """Messages hold names and ids; the kind of an error is what counts."""
    return Said(f"error: {error.get('code') or error.get('type') or 'unknown'}")


def _choices(choices: Sequence[dict[str, Any]]) -> Said:
    messages = [choice.get("message") or choice for choice in choices]
    texts = [str(message.get("content") or message.get("text") or "") for message in messages]
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    functions = [call.get("function") or {} for call in calls]
    return Said(
        "\n".join(texts),
        tuple((str(function.get("name")), _arguments(str(function.get("arguments", "")))) for function in functions),
        tuple(str(choice.get("finish_reason")) for choice in choices),
    )


def _chunks(chunks: Sequence[dict[str, Any]]) -> Said:
    """Chunks of chat completions and completions, put together by choice and by call."""
    texts: dict[int, str] = {}
    calls: dict[tuple[int, int], list[str]] = {}
    finish: dict[int, str] = {}
    for choice in chain.from_iterable(chunk.get("choices") or () for chunk in chunks):
        index, delta = choice.get("index", 0), choice.get("delta") or choice
        texts[index] = texts.get(index, "") + (delta.get("content") or delta.get("text") or "")
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            parts = calls.setdefault((index, call.get("index", 0)), ["", ""])
            parts[0] += function.get("name") or ""
            parts[1] += function.get("arguments") or ""
        if choice.get("finish_reason"):
            finish[index] = choice["finish_reason"]
    return Said(
        "\n".join(texts[index] for index in sorted(texts)),
        tuple((name, _arguments(arguments)) for _, (name, arguments) in sorted(calls.items())),
        tuple(finish.get(index, "None") for index in sorted(texts)),
    )


def _response(data: Mapping[str, Any]) -> Said:
    items = [item for item in data.get("output") or () if isinstance(item, dict)]
    parts = [part for item in items if item.get("type") == "message" for part in item.get("content") or ()]
    calls = [item for item in items if item.get("type") == "function_call"]
    return Said(
        "".join(str(part.get("text") or "") for part in parts),
        tuple((str(call.get("name")), _arguments(str(call.get("arguments", "")))) for call in calls),
        (str(data.get("status")),),
    )


def _responses_events(events: Sequence[dict[str, Any]]) -> Said:
    """The last event of a whole stream holds the response; of one that broke off there are the pieces."""
    for event in reversed(events):
        response = event.get("response")
        if isinstance(response, dict) and response.get("output"):
            return _response(response)
    deltas = (event["delta"] for event in events if event.get("type") == "response.output_text.delta")
    return Said("".join(map(str, deltas)), finish=("None",))


def _message(data: Mapping[str, Any]) -> Said:
    blocks = [block for block in data.get("content") or () if isinstance(block, dict)]
    return Said(
        "".join(str(block.get("text") or "") for block in blocks if block.get("type") == "text"),
        tuple((str(b.get("name")), _canonical(b.get("input"))) for b in blocks if b.get("type") == "tool_use"),
        (str(data.get("stop_reason")),),
    )


def _messages_events(events: Sequence[dict[str, Any]]) -> Said:
    text, reason = "", "None"
    calls: dict[int, list[str]] = {}
    for event in events:
        delta = event.get("delta") or {}
        block = event.get("content_block") or {}
        if block.get("type") == "tool_use":
            calls[event.get("index", 0)] = [str(block.get("name")), ""]
        text += str(delta.get("text") or "")
        if "partial_json" in delta and event.get("index", 0) in calls:
            calls[event.get("index", 0)][1] += str(delta["partial_json"])
        reason = delta.get("stop_reason") or reason
    return Said(text, tuple((name, _arguments(of or "{}")) for _, (name, of) in sorted(calls.items())), (reason,))


def _vectors(data: Any) -> tuple[Vector, ...]:
    """Embeddings, as numbers or as base64 of little-endian floats; nothing where there are none."""
    found: list[Vector] = []
    for item in data if isinstance(data, list) else ():
        value = item.get("embedding") if isinstance(item, dict) else None
        if isinstance(value, str):
            try:
                raw = b64decode(value, validate=True)
            except ValueError:
                return ()
            value = unpack(f"<{len(raw) // 4}f", raw[: len(raw) // 4 * 4])
        if not isinstance(value, list | tuple) or not all(isinstance(each, int | float) for each in value):
            return ()
        found.append(tuple(value))
    return tuple(found)


def _arguments(text: str) -> str:
    """Arguments of a call in a canonical form, where they are JSON."""
    try:
        return _canonical(orjson.loads(text))
    except orjson.JSONDecodeError:
        return text


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        value = {name: each for name, each in value.items() if name not in _VOLATILE}
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _opaque(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"{len(body)} bytes, {hashlib.sha256(body).hexdigest()}"
