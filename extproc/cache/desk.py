"""What becomes of each call of the workers: found, not found, or wait for another. No sockets here.

`who` is whoever asks, a connection and a number of its own; what comes later for a call goes to `tell`.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import structlog

from extproc.cache.embeddings import EmbeddingError, Wanted
from extproc.cache.memory import MemoryStore, Place, Vectored
from extproc.cache.nearest import Vector
from extproc.cache.redis_store import RedisStore
from extproc.cache.shared_vectors import SharedVectors
from extproc.stages.flights import Flights, Next, Part

_log = structlog.get_logger(__name__)
_PAUSE_S = 1.0  # after a failure, in which no embedding is asked for


class Near(NamedTuple):
    """Texts of the group are compared, as near as the threshold at least."""

    group: bytes
    wanted: Wanted
    threshold: float


class Find(NamedTuple):
    """`lead`: whoever finds nothing asks the provider, and others wait for what it stores."""

    place: Place
    shared: bool  # in Redis
    lead: bool
    near: Near | None


class Said(NamedTuple):
    """`how`: "hit" with what is stored; "lead": ask the provider; "wait": `tell` says what came of it."""

    how: str
    stored: bytes = b""
    similarity: float | None = None


class Source(Protocol):
    async def of(self, wanted: Wanted) -> Vector:
        """Raises EmbeddingError."""


@dataclass(slots=True)
class Counts:
    """By rule, from the start on."""

    hits: Counter[str] = field(default_factory=Counter)
    similar: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    waited: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    embedding_failures: int = 0


class Desk:
    """One for all connections. `redis`, `shared`: None where the policy names none.

    `clock`: seconds, which never go back.
    """

    def __init__(
        self,
        memory: MemoryStore,
        redis: RedisStore | None,
        source: Source,
        tell: Callable[[Hashable, Said], None],
        clock: Callable[[], float],
        shared: SharedVectors | None = None,
    ) -> None:
        self._memory, self._redis, self._source, self._tell, self._clock = memory, redis, source, tell, clock
        self._shared = shared
        self._flights: Flights[Hashable] = Flights()
        self._places: dict[Hashable, Place] = {}  # of whoever leads or waits
        self._vectors: dict[Hashable, Vectored] = {}  # of whoever leads
        self._embed_again = 0.0
        self.counts = Counts()

    def find_at_once(self, who: Hashable, find: Find) -> Said | None:
        """What can be said without asking anyone else; None: `find` can."""
        if find.shared:
            return None
        stored = self._memory.get(find.place)
        if stored is not None:
            self.counts.hits[find.place.rule] += 1
            return Said("hit", stored)
        return None if find.near else self._missed(find.place.rule, self._joined(who, find))

    async def find(self, who: Hashable, find: Find) -> Said:
        if find.shared:
            stored = await self._redis.get(find.place) if self._redis else None
            if stored is not None:
                self.counts.hits[find.place.rule] += 1
                return Said("hit", stored)
        part = self._joined(who, find)
        if find.near is not None and part is not Part.WAIT:
            found = await self._alike(who, find, find.near)
            if found is not None:
                return found
        return self._missed(find.place.rule, part)

    def keep(self, who: Hashable, place: Place, stored: bytes, ttl_s: int) -> None:
        """An answer; those who wait for it have it now."""
        self.counts.stored[place.rule] += 1
        self._memory.put(place, stored, ttl_s, self._vectors.get(who))
        self._landed(who, stored)

    async def keep_shared(self, who: Hashable, place: Place, stored: bytes, ttl_s: int) -> None:
        """An answer for Redis; those who wait for it have it also where Redis has not."""
        self.counts.stored[place.rule] += 1
        vectored = self._vectors.get(who)
        there = self._redis is not None and await self._redis.put(place, stored, ttl_s)
        self._landed(who, stored)
        if there and vectored is not None and self._shared is not None:
            await self._shared.put(place, vectored, ttl_s)

    def leave(self, who: Hashable) -> None:
        """It is gone, or has no answer that may be shared: the one who waited longest asks the provider."""
        place = self._places.pop(who, None)
        self._vectors.pop(who, None)
        if place is None:
            return
        after: Next[Hashable] = self._flights.leave(place.whole, who)
        if after.leads is not None:
            self._tell(after.leads, Said("lead"))

    async def clear(self, rule: str | None) -> dict[str, Any]:
        gone = self._memory.clear(rule)
        shared = await self._redis.clear(rule) if self._redis else 0
        if self._shared is not None:
            await self._shared.clear(rule)
        return {"cleared": gone + (shared or 0), "redis": self._state()}

    async def show(self) -> dict[str, Any]:
        """JSON-ready: by rule, and the whole."""
        memory = self._memory.entries()
        shared = await self._redis.entries() if self._redis else {}
        counts = self.counts
        counted = {"hits": counts.hits, "similar": counts.similar, "misses": counts.misses, "stored": counts.stored}
        counted |= {"waited": counts.waited, "entries": Counter(memory), "redis_entries": Counter(shared or {})}
        rules = sorted({rule for each in counted.values() for rule in each})
        return {
            "rules": [{"rule": rule, **{name: of[rule] for name, of in counted.items()}} for rule in rules],
            "bytes": self._memory.bytes,
            "evicted": self._memory.evicted,
            **await self.status(),
        }

    async def status(self) -> dict[str, Any]:
        """JSON-ready: what is away."""
        if self._redis is not None:
            await self._redis.look()
        failures = self._redis.failures if self._redis else 0
        embeddings = "away" if self._embed_again > self._clock() else "here"
        return {
            "redis": self._state(), "redis_failures": failures,
            "embeddings": embeddings, "embedding_failures": self.counts.embedding_failures,
        }  # fmt: skip

    def _state(self) -> str:
        return "unused" if self._redis is None else "away" if self._redis.away else "here"

    def _joined(self, who: Hashable, find: Find) -> Part:
        """Whether it asks the provider, and for whom."""
        part = self._flights.join(find.place.whole, who) if find.lead else Part.ALONE
        if part is not Part.ALONE:
            self._places[who] = find.place
        return part

    def _missed(self, rule: str, part: Part) -> Said:
        counted = self.counts.waited if part is Part.WAIT else self.counts.misses
        counted[rule] += 1
        return Said("wait" if part is Part.WAIT else "lead")

    async def _alike(self, who: Hashable, find: Find, near: Near) -> Said | None:
        """The answer to a request that is alike; what was asked is kept for the answer that is to be stored."""
        if self._clock() < self._embed_again:
            return None
        try:
            vectored = Vectored(near.group, await self._source.of(near.wanted))
        except EmbeddingError as error:
            self.counts.embedding_failures += 1
            self._embed_again = self._clock() + _PAUSE_S
            _log.error("no embedding: only equal requests are found", reason=str(error))
            return None
        rule = find.place.rule
        if not find.shared:
            found = self._memory.alike(rule, vectored, near.threshold)
        else:
            found = await self._shared.alike(rule, vectored, near.threshold) if self._shared else None
        if found is None:
            if who in self._places:
                self._vectors[who] = vectored
            return None
        self.counts.similar[rule] += 1
        self._landed(who, found[0], found[1])
        return Said("hit", *found)

    def _landed(self, who: Hashable, stored: bytes, similarity: float | None = None) -> None:
        place = self._places.pop(who, None)
        self._vectors.pop(who, None)
        if place is None:
            return
        for waits in self._flights.land(place.whole, who).served:
            self._places.pop(waits, None)
            self.counts.hits[place.rule] += 1
            self._tell(waits, Said("hit", stored, similarity))
