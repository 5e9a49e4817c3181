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
        if here == ("rules",):
            yield from _rules(old or [], new or [])
        elif isinstance(old, Mapping) and isinstance(new, Mapping) and len(here) < _DEPTH:
            yield from _diff(old, new, here)
        elif not path and isinstance(new or old, Mapping):
            yield from _diff(old or {}, new or {}, here)
        else:
            action = "add" if old is None else "remove" if new is None else "change"
            yield PolicyChange(action, here, old, new)


def _rules(old: list[Any], new: list[Any]) -> Iterator[PolicyChange]:
    """Rules are told apart by their names. Their order counts, so it is a change of its own."""
    before, after = _named(old, new), _named(new, old)
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield PolicyChange("change", ("rules",), list(before), list(after))
    for name in [*after, *(name for name in before if name not in after)]:
        was, becomes = before.get(name), after.get(name)
        if was is None or becomes is None:
            yield PolicyChange("add" if was is None else "remove", ("rules", name), was, becomes)
        elif was != becomes:
            yield from _rule(was, becomes, ("rules", name))


def _rule(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> Iterator[PolicyChange]:
    """Actions are compared one by one where both rules do the same things in the same order."""
    for change in _diff(old, new, path):
        before, after = change.before, change.after
        if change.path != (*path, "do") or [list(each) for each in before] != [list(each) for each in after]:
            yield change
            continue
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _diff(one, other, (*change.path, number))


def _named(rules: list[Any], others: list[Any]) -> dict[str, Any]:
    """By what logs call them. One without a name of its own that is in both lists has only moved."""
    return {
        rule.get("name") or f"rule-{place + 1}": rule
        for place, rule in enumerate(rules)
        if rule.get("name") or rule not in others
    }
