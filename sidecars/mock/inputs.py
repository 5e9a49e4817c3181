"""The four spellings of an input: a text, several texts, token ids, several lists of token ids."""

from dataclasses import dataclass
from typing import Any

from sidecars.mock.call import Call
from sidecars.mock.errors import invalid
from sidecars.mock.prose import words


@dataclass(frozen=True, slots=True)
class Input:
    """`text` is the text, or the ids written with spaces between; `tokens` counts words or ids."""

    text: str
    tokens: int


def inputs(call: Call, name: str) -> list[Input]:
    """The inputs in field `name`, at least one."""
    value = call.data.get(name)
    if isinstance(value, str):
        return [_text(value)]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return [_text(item) for item in value]
        if _is_ids(value):
            return [_ids(value)]
        if all(isinstance(item, list) and item and _is_ids(item) for item in value):
            return [_ids(item) for item in value]
    raise invalid(name, "a string, an array of strings, an array of token ids or an array of those, not empty")


def _text(text: str) -> Input:
    return Input(text, words(text))


def _ids(ids: list[int]) -> Input:
    return Input(" ".join(map(str, ids)), len(ids))


def _is_ids(value: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in value)
