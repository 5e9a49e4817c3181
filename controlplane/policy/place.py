"""Where something stands in the user's file."""

import re
from dataclasses import dataclass

_STEP = re.compile(r'\[(\d+)\]|\["(.*?)"\](?=[.\[]|$)|\.?([^.\[]+)')


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a policy file: 1-based line and column, and the path in the document."""

    file: str
    line: int
    column: int
    path: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


def path_text(path: tuple[str | int, ...]) -> str:
    """Renders a document path the way people write it: ``keys.alice.limits[0]``; the root is ``$``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.replace("-", "").replace("_", "").isalnum():
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text or "$"


def path_of(text: str) -> tuple[str | int, ...]:
    """The path that `path_text` rendered."""
    steps = () if text == "$" else _STEP.finditer(text)
    return tuple(int(step[1]) if step[1] is not None else step[step.lastindex or 0] for step in steps)
