"""A YAML document as plain data beside the positions of its parts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from controlplane.policy.diagnostics import Diagnostic
from controlplane.policy.place import Place

Path = tuple[str | int, ...]
Spot = tuple[int, int]  # line and column, 0-based, relative to the chunk


@dataclass(slots=True)
class Node:
    """Where a mapping or a list stands, and its parts; `keys` are the spots of a mapping's keys."""

    line: int
    column: int
    children: "Mapping[Any, Part] | Sequence[Part]" = ()
    keys: dict[Any, Spot] | None = None
    base: int = 0  # lines before the chunk that the children's lines count from

    def child(self, step: str | int) -> "Node | Spot | None":
        if isinstance(self.children, Mapping):
            part = self.children.get(step)
        else:
            part = self.children[step] if isinstance(step, int) and step < len(self.children) else None
        return part.found() if isinstance(part, Unread) else part


class Unread(NamedTuple):
    """The value of an entry whose places nobody asked for yet: the entry's first line, its text, and what finds them.

    Kept, the places of a big policy's parts would take more memory than all else that is known of it.
    """

    line: int
    text: str
    read: Callable[[str], Node | Spot]

    def found(self) -> Node | Spot:
        part = self.read(self.text)
        if isinstance(part, Node):
            return Node(part.line + self.line, part.column, part.children, part.keys, self.line)
        return part[0] + self.line, part[1]


Part: TypeAlias = Node | Spot | Unread


def spot(part: Node | Spot) -> Spot:
    return (part.line, part.column) if isinstance(part, Node) else part


@dataclass(frozen=True, slots=True)
class Document:
    """`data` is the policy as plain dicts, lists and scalars; places are looked up only when something is wrong.

    `problems` are errors that leave the rest of the document judgeable, such as a name that stands twice.
    """

    file: str
    data: dict[str, Any]
    root: Node
    problems: tuple[Diagnostic, ...] = ()

    def place(self, path: Path, *, key: bool = False) -> Place:
        """The place of the value at a path (of its key with `key`), or of the nearest part that exists."""
        part: Node | Spot = self.root
        (line, column), base = spot(part), 0
        for number, step in enumerate(path):
            if not isinstance(part, Node):
                break
            base += part.base
            found, keys = part.child(step), part.keys or {}
            if found is None:
                break
            line, column = keys[step] if key and number == len(path) - 1 and step in keys else spot(found)
            line += base
            part = found
        return Place(self.file, line + 1, column + 1, path)
