"""Counters in Redis (or Valkey), shared by all nodes. One round trip per call, whatever the number of holds.

The `limits` library was looked at: its strategies check one counter in each call, so that a request with several
limits takes from the first before it knows what the second says, and nothing in it reserves and settles.

All keys of a prefix share a hash tag, for one script touches several of them: in a cluster, they live on one node.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as Client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from extproc.limits.stores import Charge, Hold, Standing, StoreError, Verdict

_FOLDER = Path(__file__).parent / "redis_lua"
_CONNECTIONS = 64
_VALUES = 5  # in an answer, for each hold


class RedisStore:
    """`timeout_s` bounds each call as a whole, waiting for a connection included.

    `clock` replaces Redis's own in tests: microseconds since the epoch.
    """

    def __init__(
        self, url: str, *, prefix: str = "headgate", timeout_s: float = 0.05, clock: Callable[[], int] | None = None
    ) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._client = Client.from_pool(pool)
        self._prefix = prefix
        self._clock = clock
        common = _text("bucket")
        self._reserve = self._client.register_script(common + _text("reserve"))
        self._settle = self._client.register_script(common + _text("settle"))

    async def reserve(self, call: str, holds: Sequence[Hold]) -> Verdict:
        keys, args = self._start(call)
        for hold in holds:
            self._add_keys(keys, hold.bucket.key)
            args += (hold.bucket.form, hold.bucket.step_us, hold.amount, hold.ask, hold.need - hold.amount)
            args += (hold.lease_us, ",".join(map(str, hold.ends)))
        answer = await self._run(self._reserve, keys, args)
        rows = [answer[at : at + _VALUES] for at in range(1, len(answer), _VALUES)]
        standings = tuple(
            Standing(int(used), int(wait), int(reset), int(end), held == 1) for used, wait, reset, end, held in rows
        )
        return Verdict(answer[0] == 1, standings)

    async def settle(self, call: str, charges: Sequence[Charge]) -> None:
        keys, args = self._start(call)
        for charge in charges:
            self._add_keys(keys, charge.bucket.key)
            args += (charge.bucket.form, charge.bucket.step_us, charge.held, charge.actual)
            args += (charge.actual - charge.held, charge.lease_us, charge.end, "1" if charge.anyway else "")
        await self._run(self._settle, keys, args)

    async def ping(self) -> None:
        """Tries a connection made anew; raises StoreError. A Redis that only reads is away too."""
        try:
            await self._client.connection_pool.disconnect()
            await self._client.ping()
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreError(_words(error)) from None

    async def close(self) -> None:
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    def _start(self, call: str) -> tuple[list[str], list[Any]]:
        return [], [self._clock() if self._clock else "", call]

    def _add_keys(self, keys: list[str], key: str) -> None:
        name = f"{{{self._prefix}}}:{key}"
        keys += (name, f"{name}:held")

    async def _run(self, script: Any, keys: list[str], args: list[Any]) -> Any:
        """EVALSHA; a Redis that does not know the script, because it was restarted, is given it."""
        try:
            return await script(keys, args)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreError(_words(error)) from None


def _text(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def _words(error: Exception) -> str:
    """Without what was sent: an answer to AUTH repeats nothing, and neither may this."""
    return f"{type(error).__name__}: {error}"
