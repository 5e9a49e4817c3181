"""Values by model name: an exact name, a prefix with `*` at its end, or `*`. The longest that fits counts."""

from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Patterns(Generic[T]):
    """One look-up for an exact name; else one for each length of prefix there is."""

    def __init__(self, values: Mapping[str, T]) -> None:
        self._exact = {name: value for name, value in values.items() if not name.endswith("*")}
        self._prefixes = {name[:-1]: value for name, value in values.items() if name.endswith("*")}
        self._lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)

    def get(self, name: str) -> T | None:
        if name in self._exact:
            return self._exact[name]
        for length in self._lengths:
            if len(name) >= length and name[:length] in self._prefixes:
                return self._prefixes[name[:length]]
        return None
