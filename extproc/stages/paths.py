"""Paths as settings write them: `metadata.user_id`, `messages[0].content`, `choices[*].logprobs`."""

import re
from collections.abc import Iterator
from typing import Any

EVERY = -1  # stands for `[*]`
Steps = tuple[str | int, ...]

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d{1,6}|\*)\]")


def steps(text: str) -> Steps:
    """Raises ValueError for what is no path."""
    found: list[str | int] = []
    at = 0
    while at < len(text):
        step = _STEP.match(text, at)
        if not step or (step.group().startswith(".") and not found) or (step.group(1) and at and text[at] != "."):
            raise ValueError(f"{text!r} is no path: names and indices are expected, as in metadata.user or messages[0]")
        found.append(step.group(1) or (EVERY if step.group(2) == "*" else int(step.group(2))))
        at = step.end()
    if not found or isinstance(found[0], int):
        raise ValueError(f"{text!r} is no path: it starts with the name of a member")
    return tuple(found)


def written(path: Steps) -> str:
    """The inverse of `steps`, for messages."""
    text = ""
    for step in path:
        text += f"[{'*' if step == EVERY else step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def expanded(path: Steps, value: Any) -> Iterator[Steps]:
    """The paths that exist in a value, each `[*]` by every index, the last element first: removing keeps the others."""
    if EVERY not in path:
        if _leads(path, value):
            yield path
        return
    at = path.index(EVERY)
    for step in path[:at]:
        value = _at(value, step)
    if isinstance(value, list):
        for index in range(len(value) - 1, -1, -1):
            for rest in expanded(path[at + 1 :], value[index]):
                yield (*path[:at], index, *rest)


def _leads(path: Steps, value: Any) -> bool:
    for step in path:
        if isinstance(step, str):
            there = isinstance(value, dict) and step in value
        else:
            there = isinstance(value, list) and step < len(value)
        if not there:
            return False
        value = value[step]
    return True


def _at(value: Any, step: str | int) -> Any:
    return value[step] if _leads((step,), value) else None
