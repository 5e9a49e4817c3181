"""Counters in Redis (or Valkey), shared by all nodes. One round trip per call, whatever the number of holds.

The `limits` library was looked at: its strategies check one counter in each call, so that a request with several
limits takes from the first before it knows what the second says, and nothing in it reserves and settles.

One Redis (or what a replicated one shows as its primary): a script touches several keys at once, which a Redis Cluster
allows only on one of its nodes. They share a hash tag, so that a proxy in front of a cluster finds them together.
"""

from collections.abc import Callable, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from extproc.limits.line import Line
from extproc.limits.stores import Charge, Hold, Standing, StoreError, Verdict

_FOLDER = Path(__file__).parent / "redis_lua"
_VALUES = 5  # in an answer, for each hold


class RedisStore:
    """`timeout_s` bounds each call as a whole. Raises ValueError for a URL that is none.

    `clock` replaces Redis's own in tests: microseconds since the epoch.
    """

    def __init__(
        self, url: str, *, prefix: str = "headgate", timeout_s: float = 0.05, clock: Callable[[], int] | None = None
    ) -> None:
        self._line = Line(url, timeout_s)
        self._prefix = prefix
        self._clock = clock
        common = _text("bucket")
        self._reserve = _Script(common + _text("reserve"))
        self._settle = _Script(common + _text("settle"))

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
        """Tries a new connection, and whether it may write: replicas do not. Raises StoreError."""
        await self._line.hang_up()
        try:
            await self._line.call("SET", f"{{{self._prefix}}}:ping", "", "PX", 1000)
        except (RedisError, OSError) as error:
            raise _away(error) from None

    async def close(self) -> None:
        await self._line.close()

    def _start(self, call: str) -> tuple[list[str], list[Any]]:
        return [], [self._clock() if self._clock else "", call]

    def _add_keys(self, keys: list[str], key: str) -> None:
        name = f"{{{self._prefix}}}:{key}"
        keys += (name, f"{name}:held")

    async def _run(self, script: "_Script", keys: list[str], args: list[Any]) -> Any:
        """A Redis that does not know the script, because it was restarted, is given it."""
        try:
            try:
                return await self._line.call("EVALSHA", script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return await self._line.call("EVAL", script.text, len(keys), *keys, *args)
        except (RedisError, OSError) as error:
            raise _away(error) from None


class _Script:
    def __init__(self, text: str) -> None:
        self.text = text
        # Redis names scripts by this; nothing depends on it being hard to forge.
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


def _text(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def _away(error: Exception) -> StoreError:
    return StoreError(f"{type(error).__name__}: {error}".rstrip(": "))
