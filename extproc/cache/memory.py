"""Entries in memory, bounded in bytes: those that were not wanted for longest go first."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from extproc.cache.nearest import Nearest, Vector

_OVERHEAD = 400  # bytes of what Python needs for an entry, about


class Place(NamedTuple):
    """Where an entry is: a rule, and 32 bytes."""

    rule: str
    key: bytes

    @property
    def whole(self) -> bytes:
        return self.rule.encode() + b"\0" + self.key


class Vectored(NamedTuple):
    """By what an entry is found that is only alike. `group`: of the rule."""

    group: bytes
    vector: Vector


class _Kept(NamedTuple):
    stored: bytes
    ends_s: float
    vectored: Vectored | None

    @property
    def size(self) -> int:
        return len(self.stored) + _OVERHEAD + (self.vectored.vector.nbytes if self.vectored else 0)


class MemoryStore:
    """`clock`: seconds, which never go back."""

    def __init__(self, most_bytes: int, clock: Callable[[], float]) -> None:
        self._most = most_bytes
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._nearest = Nearest()
        self.bytes = 0
        self.evicted = 0

    def get(self, place: Place) -> bytes | None:
        return self._get(place.whole)

    def put(self, place: Place, stored: bytes, ttl_s: float, vectored: Vectored | None = None) -> None:
        whole = place.whole
        before = self._kept.get(whole)
        if vectored is None and before is not None:
            vectored = before.vectored  # the answer is new, what was asked is the same
        self._drop(whole)
        kept = _Kept(stored, self._clock() + ttl_s, vectored)
        if kept.size > self._most:
            return
        self._kept[whole] = kept
        self.bytes += kept.size
        if vectored is not None:
            self._nearest.put(_group(place.rule, vectored.group), whole, vectored.vector)
        while self.bytes > self._most:
            self._drop(next(iter(self._kept)))
            self.evicted += 1

    def alike(self, rule: str, vectored: Vectored, threshold: float) -> tuple[bytes, float] | None:
        """The entry of the nearest text, if it is near enough, and how near."""
        group = _group(rule, vectored.group)
        while (found := self._nearest.find(group, vectored.vector, threshold)) is not None:
            stored = self._get(found[0])
            if stored is not None:
                return stored, found[1]
        return None

    def clear(self, rule: str | None) -> int:
        """Removes the entries of a rule, or all; how many they were."""
        gone = [whole for whole in self._kept if rule is None or _rule(whole) == rule]
        for whole in gone:
            self._drop(whole)
        return len(gone)

    def entries(self) -> dict[str, int]:
        """How many there are, by rule; those that have expired are removed first."""
        now = self._clock()
        for whole in [whole for whole, kept in self._kept.items() if kept.ends_s <= now]:
            self._drop(whole)
        counts: dict[str, int] = {}
        for whole in self._kept:
            counts[_rule(whole)] = counts.get(_rule(whole), 0) + 1
        return counts

    def _get(self, whole: bytes) -> bytes | None:
        kept = self._kept.get(whole)
        if kept is None:
            return None
        if kept.ends_s <= self._clock():
            self._drop(whole)
            return None
        self._kept.move_to_end(whole)
        return kept.stored

    def _drop(self, whole: bytes) -> None:
        kept = self._kept.pop(whole, None)
        if kept is None:
            return
        self.bytes -= kept.size
        if kept.vectored is not None:
            self._nearest.remove(_group(_rule(whole), kept.vectored.group), whole)


def _rule(whole: bytes) -> str:
    return whole.partition(b"\0")[0].decode()


def _group(rule: str, group: bytes) -> bytes:
    return rule.encode() + b"\0" + group
