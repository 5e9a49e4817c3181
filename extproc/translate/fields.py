"""Reading an object so that every field is taken or named as lost."""

from collections.abc import Iterator
from typing import Any

from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, invalid


class Fields:
    """The fields of one object of the client's body, at the place `at`. Fields that are `null` count as absent."""

    __slots__ = ("_left", "_losses", "at")

    def __init__(self, value: object, at: str, losses: Losses) -> None:
        if not isinstance(value, dict):
            invalid(at, "an object")
        self.at = at
        self._left: Object = {name: held for name, held in value.items() if held is not None}
        self._losses = losses

    def place(self, name: str) -> str:
        return f"{self.at}.{name}" if self.at else name

    def take(self, name: str) -> Any:
        """The value of any type; None when absent."""
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            invalid(self.place(name), "a string")
        return value

    def need_text(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            invalid(self.place(name), "a string")
        return value

    def flag(self, name: str) -> bool | None:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            invalid(self.place(name), "true or false")
        return value

    def whole(self, name: str) -> int | None:
        value = self.take(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            invalid(self.place(name), "a whole number")
        return value

    def object(self, name: str) -> Object | None:
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            invalid(self.place(name), "an object")
        return value

    def items(self, name: str) -> list[Any]:
        """The list; empty when absent."""
        value = self.take(name)
        if value is None:
            return []
        if not isinstance(value, list):
            invalid(self.place(name), "a list")
        return value

    def each(self, name: str) -> "Iterator[Fields]":
        """The fields of each object in the list, to be finished by their own `done`; none when absent."""
        for i, item in enumerate(self.items(name)):
            yield Fields(item, self.place(f"{name}[{i}]"), self._losses)

    def within(self, name: str) -> "Fields | None":
        """The fields of the object `name`, to be finished by its own `done`."""
        value = self.object(name)
        return None if value is None else Fields(value, self.place(name), self._losses)

    def hint(self, name: str) -> None:
        """Names the field as dropped without harm, if it is there."""
        if self._left.pop(name, None) is not None:
            self._losses.hint(self.place(name))

    def rest(self) -> Object:
        """All that was not taken, now taken."""
        rest, self._left = self._left, {}
        return rest

    def done(self) -> None:
        """Names what was not taken."""
        for name in self.rest():
            self._losses.param(self.place(name))
