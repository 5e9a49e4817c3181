"""Where something stands in the user's file."""

from dataclasses import dataclass


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
