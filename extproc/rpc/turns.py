"""Who may send a large message: so many at once that memory is bounded, the others after them."""

from typing import Protocol


class Waiting(Protocol):
    """Who wants a turn."""

    def granted(self) -> None:
        """It has one now."""


class Turns:
    """`most` at once, in the order in which they asked."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._having: set[Waiting] = set()
        self._waiting: dict[Waiting, None] = {}

    def ask(self, who: Waiting) -> None:
        """Calls `granted`, now or later."""
        if not self._free:
            self._waiting[who] = None
            return
        self._free -= 1
        self._having.add(who)
        who.granted()

    def done(self, who: Waiting) -> None:
        """Its turn is over, or it wants none anymore."""
        self._waiting.pop(who, None)
        if who not in self._having:
            return
        self._having.remove(who)
        self._free += 1
        if self._waiting:
            following = next(iter(self._waiting))
            del self._waiting[following]
            self.ask(following)
