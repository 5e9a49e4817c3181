"""Vectors of the entries in Redis, for all gateways that use it: a stream per rule and group.

Every gateway follows the streams that it is asked about, and compares in a copy of its own: one question to Redis per
request, which brings what others have stored since the last. What the copy still has of entries that are gone, is
found out when such an entry is wanted. https://redis.io/docs/latest/commands/xread/
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from extproc.cache.memory import Place, Vectored
from extproc.cache.nearest import Group, Vector
from extproc.cache.redis_store import RedisStore

_MOST = 5000  # vectors of a group, about
_AT_ONCE = 500  # entries of a stream in one answer
_TRIES = 4  # entries that are looked for in vain before there is none


class SharedVectors:
    """`most_bytes`: of all copies; what was not asked for longest goes first. `clock`: seconds since 1970."""

    def __init__(self, redis: RedisStore, most_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._redis, self._most, self._clock = redis, most_bytes, clock
        self._copies: OrderedDict[str, _Copy] = OrderedDict()

    @property
    def size(self) -> int:
        return sum(copy.size for copy in self._copies.values())

    async def put(self, place: Place, vectored: Vectored, ttl_s: int) -> None:
        """For an entry that was stored in Redis for so long."""
        name = self._name(place.rule, vectored.group)
        vector = vectored.vector.astype("<f4").tobytes()
        ends = int(self._clock()) + ttl_s
        await self._redis.call("XADD", name, "MAXLEN", "~", _MOST, "*", "k", place.key, "v", vector, "e", ends)
        await self._redis.call("EXPIRE", name, ttl_s)

    async def alike(self, rule: str, vectored: Vectored, threshold: float) -> tuple[bytes, float] | None:
        """The entry of the nearest text, if it is near enough, and how near."""
        name = self._name(rule, vectored.group)
        copy = self._copies.setdefault(name, _Copy())
        self._copies.move_to_end(name)
        await self._follow(name, copy)
        for _ in range(_TRIES):
            found = copy.nearest(vectored.vector, threshold, self._clock())
            if found is None:
                return None
            stored = await self._redis.get(Place(rule, found[0]))
            if stored is not None:
                return stored, found[1]
            copy.remove(found[0])
        return None

    async def clear(self, rule: str | None) -> None:
        """Of a rule, or of all."""
        await self._redis.unlink(f"{self._redis.prefix}-vectors", rule)
        self._copies.clear()

    async def _follow(self, name: str, copy: "_Copy") -> None:
        """Takes over what is new."""
        while True:
            told = await self._redis.call("XREAD", "COUNT", _AT_ONCE, "STREAMS", name, copy.last)
            entries = _entries(told)
            for number, entry in entries:
                copy.take(number, entry)
            if entries:
                self._bound()
            if len(entries) < _AT_ONCE:
                return

    def _bound(self) -> None:
        held = self.size
        while held > self._most and len(self._copies) > 1:
            _, gone = self._copies.popitem(last=False)
            held -= gone.size

    def _name(self, rule: str, group: bytes) -> str:
        return f"{self._redis.prefix}-vectors:{rule}:{group.hex()}"


class _Copy:
    """Of one stream."""

    def __init__(self) -> None:
        self.last = b"0-0"
        self._group: Group | None = None
        self._ends: OrderedDict[bytes, int] = OrderedDict()

    def take(self, number: bytes, entry: dict[bytes, bytes]) -> None:
        """What is not of this form is passed over: another version of this program may have written it."""
        self.last = number
        try:
            key, vector, ends = entry[b"k"], np.frombuffer(entry[b"v"], dtype="<f4"), int(entry[b"e"])
        except (KeyError, ValueError):
            return
        if self._group is None or self._group.size != len(vector):  # the model was changed for another
            self._group, self._ends = Group(len(vector)), OrderedDict()
        self._group.put(key, vector)
        self._ends[key] = ends
        self._ends.move_to_end(key)
        while len(self._ends) > _MOST:
            self.remove(next(iter(self._ends)))

    @property
    def size(self) -> int:
        return len(self._ends) * (4 * self._group.size + 200) if self._group else 0

    def nearest(self, vector: Vector, threshold: float, now: float) -> tuple[bytes, float] | None:
        """The key and the cosine."""
        group = self._group
        while group is not None and len(group) and group.size == len(vector):
            key, cosine = group.nearest(vector)
            if cosine < threshold:
                return None
            if self._ends[key] > now:
                return key, cosine
            self.remove(key)
        return None

    def remove(self, key: bytes) -> None:
        if self._group is not None:
            self._group.remove(key)
        self._ends.pop(key, None)


def _entries(told: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Of the one stream that was asked for; None where it has nothing new, and while Redis is away."""
    if not told:
        return []
    entries = next(iter(told.values())) if isinstance(told, dict) else told[0][1]  # RESP3, or RESP2
    return [(number, dict(zip(fields[::2], fields[1::2], strict=True))) for number, fields in entries]
