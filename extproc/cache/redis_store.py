"""Entries in Redis (or Valkey), shared by all gateways that use it. While it is away, there is nothing in it.

Keys are `PREFIX:cache:RULE:KEY`, so that a rule's entries can be found; they expire by themselves.
"""

import time
from collections.abc import AsyncIterator
from typing import Any

import structlog
from redis.exceptions import RedisError

from extproc.cache.memory import Place
from extproc.limits.line import Line

_log = structlog.get_logger(__name__)
_TIMEOUT_S = 0.5  # of a call as a whole
_PAUSE_S = 0.5  # after a failure, in which it is not asked
_SCANNED = 1000  # keys that a step of a scan looks at


class RedisStore:
    """Raises ValueError for a URL that is none."""

    def __init__(self, url: str, prefix: str = "headgate") -> None:
        self._line = Line(url, _TIMEOUT_S)
        self.prefix = f"{prefix}:cache"
        self._asked_again = 0.0
        self.failures = 0

    @property
    def away(self) -> bool:
        return self._asked_again > 0

    async def get(self, place: Place) -> bytes | None:
        found = await self.call("GET", self._name(place))
        return found if isinstance(found, bytes) else None

    async def put(self, place: Place, stored: bytes, ttl_s: int) -> bool:
        """Whether it is stored."""
        return await self.call("SET", self._name(place), stored, "EX", ttl_s) is not None

    async def clear(self, rule: str | None) -> int | None:
        """Removes the entries of a rule, or all; how many they were; None where Redis cannot be asked."""
        return await self.unlink(self.prefix, rule)

    async def unlink(self, prefix: str, rule: str | None) -> int | None:
        """Removes keys with a prefix, and a rule behind it; how many they were; None where Redis cannot be asked."""
        gone = 0
        async for names in self._scan(prefix, f"{rule}:*" if rule is not None else "*"):
            if names is None:
                return None
            gone += int(await self.call("UNLINK", *names) or 0) if names else 0
        return gone

    async def entries(self) -> dict[str, int] | None:
        """How many there are, by rule; None where Redis cannot be asked."""
        counts: dict[str, int] = {}
        async for names in self._scan(self.prefix, "*"):
            if names is None:
                return None
            for name in names:
                rule = name.decode("utf-8", "replace").removeprefix(f"{self.prefix}:").rpartition(":")[0]
                counts[rule] = counts.get(rule, 0) + 1
        return counts

    async def look(self) -> None:
        """Whether it is there, also where it was just seen not to be."""
        self._asked_again = min(self._asked_again, time.monotonic())
        await self.call("PING")

    async def close(self) -> None:
        await self._line.close()

    async def _scan(self, prefix: str, pattern: str) -> AsyncIterator[list[bytes] | None]:
        """The names in steps; None where Redis cannot be asked."""
        cursor = b"0"
        while True:
            found = await self.call("SCAN", cursor, "MATCH", f"{_plain(prefix)}:{pattern}", "COUNT", _SCANNED)
            if found is None:
                yield None
                return
            cursor, names = found
            yield names
            if cursor == b"0":
                return

    async def call(self, *command: object) -> Any:
        """None for nothing, and while Redis is away: nobody waits for it then."""
        if self._asked_again and time.monotonic() < self._asked_again:
            self.failures += 1
            return None
        try:
            answer = await self._line.call(*command)
        except (RedisError, OSError) as error:
            self.failures += 1
            if not self._asked_again:
                _log.error("redis is away: what it holds is not found", reason=f"{type(error).__name__}: {error}")
            self._asked_again = time.monotonic() + _PAUSE_S
            return None
        if self._asked_again:
            self._asked_again = 0.0
            _log.warning("redis is back")
        return answer

    def _name(self, place: Place) -> str:
        return f"{self.prefix}:{place.rule}:{place.key.hex()}"


def _plain(text: str) -> str:
    """A text as part of a pattern."""
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in text)
