"""What waits, and what of it is fed together next. Pure: no clock, no threads, no I/O.

A batch is led by what has waited longest in the highest class that waits. Around it goes what is nearest in length, so
that little is padded, as long as the padded batch fits the token budget. Every class passed over `PATIENCE` times in a
row leads the next batch, so that nothing starves.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush
from typing import Generic, TypeVar

Load = TypeVar("Load")

PATIENCE = 8
# Of a batch, at most this share may be padding.
_PADDING = 0.25


class Priority(IntEnum):
    """Classes of requests, the most urgent first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Item(Generic[Load]):
    """One sequence that waits. `order` is that of arrival and is never used twice."""

    order: int
    tokens: int
    priority: Priority
    load: Load


class Waiting(Generic[Load]):
    """The sequences that wait. Each leaves once: by `take`, or by `remove`."""

    def __init__(self) -> None:
        self._classes: dict[Priority, _Class[Load]] = {priority: _Class() for priority in Priority}
        self.tokens = 0

    def __len__(self) -> int:
        return sum(len(waiting.by_length) for waiting in self._classes.values())

    def add(self, item: Item[Load]) -> None:
        self._classes[item.priority].add(item)
        self.tokens += item.tokens

    def remove(self, items: Iterable[Item[Load]]) -> None:
        """Takes out those of `items` that still wait."""
        for item in items:
            if self._classes[item.priority].discard(item):
                self.tokens -= item.tokens

    def take(self, budget: int) -> list[Item[Load]]:
        """The next batch, shortest first; empty when nothing waits. A sequence longer than the budget goes alone."""
        leading = self._leading()
        if leading is None:
            return []
        self._pass(leading)
        batch = leading.window(budget)
        for waiting in self._classes.values():
            if waiting is not leading:
                batch = _join(batch, waiting, budget)
        self.remove(batch)
        return batch

    def take_first(self, room: int | None) -> Item[Load] | None:
        """What has waited longest in the class whose turn it is, alone. None when nothing waits, or when it is larger
        than `room`: it keeps its turn, so that smaller ones do not keep it waiting for ever."""
        leading = self._leading()
        if leading is None:
            return None
        item = leading.first()
        if room is not None and item.tokens > room:
            return None
        self._pass(leading)
        self.remove([item])
        return item

    def _leading(self) -> "_Class[Load] | None":
        filled = [waiting for waiting in self._classes.values() if waiting.by_length]
        if not filled:
            return None
        return next((waiting for waiting in reversed(filled) if waiting.passed >= PATIENCE), filled[0])

    def _pass(self, leading: "_Class[Load]") -> None:
        """Counts for the others that they were passed over."""
        for waiting in self._classes.values():
            if waiting.by_length:
                waiting.passed += 1
        leading.passed = 0


@dataclass(slots=True)
class _Class(Generic[Load]):
    """The sequences of one priority. `oldest` is a heap that may still hold what has left."""

    by_length: "list[tuple[int, int, Item[Load]]]" = field(default_factory=list)
    oldest: "list[tuple[int, Item[Load]]]" = field(default_factory=list)
    passed: int = 0

    def add(self, item: Item[Load]) -> None:
        insort(self.by_length, (item.tokens, item.order, item))
        heappush(self.oldest, (item.order, item))

    def discard(self, item: Item[Load]) -> bool:
        at = self.at(item)
        if at is None:
            return False
        del self.by_length[at]
        if not self.by_length:
            self.oldest.clear()
            self.passed = 0
        return True

    def at(self, item: Item[Load]) -> int | None:
        """Where an item is in the order of length."""
        found = bisect_left(self.by_length, (item.tokens, item.order))
        held = self.by_length[found : found + 1]
        return found if held and held[0][1] == item.order else None

    def first(self) -> Item[Load]:
        """What has waited longest."""
        while self.at(self.oldest[0][1]) is None:
            heappop(self.oldest)
        return self.oldest[0][1]

    def window(self, budget: int) -> list[Item[Load]]:
        """What has waited longest, and its neighbours in length: the shorter one first, as it costs nothing more."""
        first = self.first()
        middle = bisect_left(self.by_length, (first.tokens, first.order))
        low, high, real = middle, middle + 1, self.by_length[middle][0]
        while True:
            longest = self.by_length[high - 1][0]
            if low > 0 and _fits(high - low + 1, longest, real + self.by_length[low - 1][0], budget):
                low -= 1
                real += self.by_length[low][0]
            elif high < len(self.by_length) and _fits(
                high - low + 1, self.by_length[high][0], real + self.by_length[high][0], budget
            ):
                real += self.by_length[high][0]
                high += 1
            else:
                return [item for _, _, item in self.by_length[low:high]]


def _join(batch: list[Item[Load]], waiting: _Class[Load], budget: int) -> list[Item[Load]]:
    """Fills what is left of a batch with another class: what makes it no longer, the longest of it first."""
    longest, real = batch[-1].tokens, sum(item.tokens for item in batch)
    at = bisect_left(waiting.by_length, (longest + 1,))
    joined: list[Item[Load]] = []
    while at > 0 and _fits(len(batch) + len(joined) + 1, longest, real + waiting.by_length[at - 1][0], budget):
        at -= 1
        real += waiting.by_length[at][0]
        joined.append(waiting.by_length[at][2])
    return sorted([*batch, *joined], key=lambda item: (item.tokens, item.order)) if joined else batch


def _fits(count: int, longest: int, real: int, budget: int) -> bool:
    padded = count * longest
    return padded <= budget and padded - real <= padded * _PADDING
