"""A YAML document as plain data beside the positions of its parts."""

from dataclasses import dataclass, field
from typing import Any

from controlplane.policy.place import Place

Path = tuple[str | int, ...]


@dataclass(slots=True)
class Node:
    """Where a value stands (0-based, relative to its chunk), and its children; `keys` are the places of mapping keys."""

    line: int
    column: int
    children: dict[Any, "Node"] | list["Node"] | None = None
    keys: dict[Any, tuple[int, int]] = field(default_factory=dict)
    base: int = 0  # lines before the chunk that the children's lines count from

    def child(self, step: str | int) -> "Node | None":
        if isinstance(self.children, dict):
            return self.children.get(step)
        if isinstance(self.children, list) and isinstance(step, int) and step < len(self.children):
            return self.children[step]
        return None


@dataclass(frozen=True, slots=True)
class Document:
    """`data` is the policy as plain dicts, lists and scalars; places are looked up only when something is wrong."""

    file: str
    data: dict[str, Any]
    root: Node

    def place(self, path: Path, *, key: bool = False) -> Place:
        """The place of the value at a path (of its key with `key`), or of the nearest part that exists."""
        node, line, column, base = self.root, self.root.line, self.root.column, 0
        for number, step in enumerate(path):
            base += node.base
            found = node.child(step)
            if found is None:
                if step in node.keys:
                    line, column = node.keys[step]
                    line += base
                break
            if key and number == len(path) - 1 and step in node.keys:
                line, column = node.keys[step]
            else:
                line, column = found.line, found.column
            line += base
            node = found
        return Place(self.file, line + 1, column + 1, path)
