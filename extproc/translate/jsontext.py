"""JSON text in and out: key order and every whole number kept; and the model's name spliced into a body.

orjson reads whole numbers beyond 64 bits as floats and refuses to write objects nested more than 254 deep. Texts with
such numbers go to the standard library's parser instead. Other numbers are IEEE doubles, as everywhere in JSON.
"""

import json
import re
from typing import Any

import orjson

Object = dict[str, Any]

# Seventeen digits and more may be a whole number beyond 64 bits. Long digit runs inside strings cost time, no more.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
# A string, or what gives a JSON text its shape.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:,]', re.DOTALL)
_SPACE = b" \t\r\n"


class JSONTextError(ValueError):
    """Not a JSON text, or one that cannot be written. The message shows nothing of the text."""


def loads(text: bytes | str) -> Any:
    """The value of a JSON text in UTF-8, nested at most 1,024 deep. Raises JSONTextError."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise JSONTextError(f"not JSON: {error.msg} at character {error.pos}") from None
    if not _LONG_NUMBER.search(text if isinstance(text, bytes) else text.encode()):
        return value
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits, or a deep text
        raise JSONTextError("a number is too long") from None


def dumps(value: Any) -> bytes:
    """The compact JSON text. Raises JSONTextError for what is nested too deep for the standard library too."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        pass
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError):
        raise JSONTextError("the value cannot be written as JSON") from None


def text(value: Any) -> str:
    """The compact JSON text, as a string."""
    return dumps(value).decode()


def with_model(body: bytes, model: str) -> bytes:
    """The body with each top-level `model` replaced and all else as it was, byte for byte.

    The body is a whole JSON object that has the field: `loads` has read it before.
    """
    pieces, done = [], 0
    for start, end in _models(body):
        pieces += [body[done:start], dumps(model)]
        done = end
    return b"".join([*pieces, body[done:]])


def _models(body: bytes) -> list[tuple[int, int]]:
    """Where the values of top-level `model` fields stand."""
    if body.count(b'"model"') == 1 and b"\\u" not in body:
        key = body.index(b'"model"')  # the only one it can be
        found = _value_after(body, key + 7)
        if found is not None:
            return [found]
    spans, depth, key_next, key_end = [], 0, False, 0
    for token in _TOKEN.finditer(body):
        first = body[token.start()]
        if first in b"{[":
            depth += 1
            key_next = depth == 1
        elif first in b"}]":
            depth -= 1
        elif depth == 1 and first == 0x2C:
            key_next = True
        elif depth == 1 and first == 0x3A:
            if key_end:
                spans.append(_value_after(body, key_end))
            key_end = 0
        elif key_next:
            key_next = False
            key_end = token.end() if orjson.loads(token[0]) == "model" else 0
    return [span for span in spans if span is not None]


def _value_after(body: bytes, key_end: int) -> tuple[int, int] | None:
    """The span of the string after a key and a colon; None where there is another thing."""
    at = key_end
    while body[at] in _SPACE:
        at += 1
    if body[at] != 0x3A:
        return None
    at += 1
    while body[at] in _SPACE:
        at += 1
    token = _TOKEN.match(body, at)
    return token.span() if token is not None and body[at] == 0x22 else None
