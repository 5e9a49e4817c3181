"""Two policies -> what changes, in the words of the policy. Works on plain data: the documents as written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]

# Below this depth a change is shown as a whole: `keys.alice.models`, not `keys.alice.models[3]`.
_DEPTH = 3


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One change. `before` and `after` are JSON-ready; None where there is nothing."""

    action: str  # "add" | "change" | "remove"
    path: Path
    before: Any
    after: Any


def diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[PolicyChange, ...]:
    """The changes from one policy to the other, in the order of the document."""
    return tuple(_diff(before, after, ()))


def _diff(before: Mapping[str, Any], after: Mapping[str, Any], path: Path) -> Iterator[PolicyChange]:
    for name in [*after, *(name for name in before if name not in after)]:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        here = (*path, name)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and len(here) < _DEPTH:
            yield from _diff(old, new, here)
        elif not path and isinstance(new or old, Mapping):
            yield from _diff(old or {}, new or {}, here)
        else:
            action = "add" if old is None else "remove" if new is None else "change"
            yield PolicyChange(action, here, old, new)
