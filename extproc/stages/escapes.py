r"""Texts that are JSON themselves, such as the arguments of a tool: a match may be written with escapes in them.

`\u0040` is written out as `@` before anything is looked for, which leaves the JSON's value as it was. What is put in
the place of a match gets the escapes that it needs.
"""

import re

import orjson

from extproc.stages.detectors import Detector
from extproc.stages.matching import Put

_ESCAPE = re.compile(
    # The end of a text may be half of an escape, or of the two that are one character beyond U+FFFF.
    r"(?P<half>\\(?:u(?:[dD][89abAB][0-9A-Fa-f]{2}(?:\\(?:u[0-9A-Fa-f]{0,3})?)?|[0-9A-Fa-f]{0,3}))?)\Z"
    r"|(?P<pair>\\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2})"
    r"|\\(?:u(?P<code>[0-9A-Fa-f]{4})|(?P<one>.))",
    re.DOTALL,
)


def unescaped(text: str) -> str:
    """The text with characters written out that JSON need not escape; the same object where it has no escapes."""
    return _ESCAPE.sub(_written, text) if "\\" in text else text


def in_json(put: Put) -> Put:
    """`put` for the matches of a text that is JSON: it gets values, and its values get escapes."""

    def inner(detector: Detector, match: bytes) -> bytes:
        plain = _value(match)
        said = put(detector, plain)
        return match if said == plain else orjson.dumps(said.decode())[1:-1]

    return inner


class Unescaping:
    """`unescaped`, for a text that comes in parts."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    @property
    def holds(self) -> bool:
        return bool(self._half)

    def feed(self, text: str) -> str:
        text, self._half = self._half + text, ""
        return _ESCAPE.sub(self._kept, text) if "\\" in text else text

    def end(self) -> str:
        half, self._half = self._half, ""
        return half

    def _kept(self, found: re.Match[str]) -> str:
        if found["half"] is None:
            return _written(found)
        self._half = found["half"]
        return ""


def _written(found: re.Match[str]) -> str:
    if found["pair"]:
        return str(orjson.loads(f'"{found["pair"]}"'))
    if found["code"]:
        character = chr(int(found["code"], 16))
        needed = character < " " or character in '"\\' or "\ud800" <= character <= "\udfff"
        return found[0] if needed else character
    return "/" if found["one"] == "/" else found[0]


def _value(match: bytes) -> bytes:
    """What a piece of a JSON text says; itself where it is no whole piece."""
    if b"\\" not in match:
        return match
    try:
        return str(orjson.loads(b'"%b"' % match)).encode()
    except orjson.JSONDecodeError:
        return match
