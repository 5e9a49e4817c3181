"""The text of an answer: a function of the request. One word (split at white space) is one token."""

import re
from itertools import cycle, islice
from typing import Any

from sidecars.mock.call import Call
from sidecars.mock.errors import invalid

PREFACE = "You said: "
_FILLER = "mock "
# A word with the white space before it; the last one also takes what follows, so that pieces join to the text.
_WORD = re.compile(r"\s*\S+\s*\Z|\s*\S+|\s+")


def words(text: str) -> int:
    return len(text.split())


def echo(call: Call, said: str) -> str:
    """The reply to `said`: an echo, a filler of exactly `size` bytes, repeated until there are `chunks` words."""
    size, chunks = call.controls.size, call.controls.chunks
    if size is not None:
        return (_FILLER * (size // len(_FILLER) + 1))[:size]
    text = PREFACE + said
    if chunks is not None and words(text) < chunks:
        return " ".join(islice(cycle(text.split()), chunks))
    return text


def cut(text: str, stops: tuple[str, ...], limit: int | None) -> tuple[str, str]:
    """`text` up to the first stop string and to `limit` words, and why it ended: `stop` or `length`."""
    text = text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]
    if limit is not None and words(text) > limit:
        return "".join(islice(_WORD.findall(text), limit)), "length"
    return text, "stop"


def stops_of(call: Call) -> tuple[str, ...]:
    """The request's `stop`: a string or up to four."""
    value = call.data.get("stop")
    found = [value] if isinstance(value, str) else value or []
    if not isinstance(found, list) or len(found) > 4 or not all(isinstance(item, str) and item for item in found):
        raise invalid("stop", "a string or an array of at most 4 strings, none empty")
    return tuple(found)


def pieces(text: str, count: int | None) -> list[str]:
    """`text` in the pieces it is streamed in: its words, or `count` near-equal runs of words (of characters, when
    there are fewer words than that)."""
    units: Any = _WORD.findall(text)
    if count is None:
        return list(units)
    if len(units) < count:
        units = text
        count = min(count, len(text))
    return ["".join(units[len(units) * i // count : len(units) * (i + 1) // count]) for i in range(count)]
