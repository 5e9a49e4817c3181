"""A store that may go away: nobody waits for it then, and what was to be settled is settled when it is back."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from extproc.limits.counters import Counters
from extproc.limits.stores import Charge, Hold, Store, StoreError, Verdict

_log = structlog.get_logger(__name__)

_FIRST_S, _LAST_S = 0.05, 1.0  # between two attempts to reach it
_WAITING = 100_000  # calls whose settling waits, at a few hundred bytes each


class Remote(Store, Protocol):
    async def ping(self) -> None:
        """Raises StoreError while the store cannot be used."""


class Guard:
    """The first call that fails opens the circuit: calls fail at once until a task in the background gets through.

    Each outage is logged twice: its beginning and its end.
    """

    def __init__(self, store: Remote, counters: Counters) -> None:
        self._store = store
        self._counters = counters
        self._waiting: deque[tuple[str, Sequence[Charge]]] = deque()
        self._returning: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None

    @property
    def away(self) -> bool:
        return self._returning is not None

    async def probe(self) -> None:
        """Looks whether the store is there before the first call does; where it is not, the circuit opens."""
        try:
            await self._store.ping()
        except StoreError as error:
            self._open(error)

    async def reserve(self, call: str, holds: Sequence[Hold]) -> Verdict | None:
        """None: the store is away. What it may have taken all the same is given back later."""
        if self._returning is not None:
            return None
        try:
            return await self._store.reserve(call, holds)
        except StoreError as error:
            self._open(error)
            self._later(call, _undone(holds))
        except asyncio.CancelledError:
            # Envoy gave the request up while the store was asked: there will be no end of the stream to settle it.
            self._later(call, _undone(holds))
            if self._flushing is None:
                self._flushing = asyncio.create_task(self._flush())
            raise
        return None

    async def settle(self, call: str, charges: Sequence[Charge]) -> None:
        if self._returning is not None:
            self._later(call, charges)
            return
        try:
            await self._store.settle(call, charges)
        except StoreError as error:
            self._open(error)
            self._later(call, charges)

    async def close(self) -> None:
        """What still waits is lost, and is counted as it was reserved when its lease ends."""
        for task in (self._returning, self._flushing):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._store.close()

    def _later(self, call: str, charges: Sequence[Charge]) -> None:
        if not charges:
            return
        if len(self._waiting) >= _WAITING:
            self._waiting.popleft()
            self._counters.lost += 1
        self._waiting.append((call, charges))

    def _open(self, error: StoreError) -> None:
        if self._returning is None:
            self._counters.outages += 1
            _log.error("the shared counters are away; on_error decides", reason=str(error))
            self._returning = asyncio.create_task(self._return(time.monotonic()))

    async def _return(self, since: float) -> None:
        pause = _FIRST_S
        while True:
            try:
                await self._store.ping()
                late = await self._settle_waiting()
                break
            except StoreError:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LAST_S)
        self._returning = None
        _log.warning("the shared counters are back", away_s=round(time.monotonic() - since, 3), settled_late=late)

    async def _flush(self) -> None:
        """Settles what waits while the store is there."""
        try:
            if self._returning is None:
                await self._settle_waiting()
        except StoreError as error:
            self._open(error)
        finally:
            self._flushing = None

    async def _settle_waiting(self) -> int:
        settled = 0
        while self._waiting:
            item = self._waiting.popleft()
            try:
                await self._store.settle(*item)
            except BaseException:
                self._waiting.appendleft(item)
                raise
            settled += 1
            self._counters.late += 1
        return settled


def _undone(holds: Sequence[Hold]) -> list[Charge]:
    """Gives back what was held, in whichever calendar window. What is spent at once stays: nobody knows if it was."""
    return [
        Charge(hold.bucket, hold.ask, 0, hold.lease_us, end)
        for hold in holds
        if hold.lease_us and hold.ask
        for end in hold.ends or (0,)
    ]
