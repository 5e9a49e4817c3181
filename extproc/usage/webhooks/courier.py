"""Webhooks for a program that is not asynchronous: a thread that delivers while the collector goes on."""

import asyncio
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from extproc.usage.budgets import Event
from extproc.usage.webhooks.endpoints import Endpoint
from extproc.usage.webhooks.outbox import FolderOutbox
from extproc.usage.webhooks.sending import Webhooks

_STORED_S = 10.0  # a slow disk; a thread that does not answer by then never will


class Courier:
    """Delivers from its start to its end. Methods are for one thread."""

    def __init__(self, outbox: Path, endpoints: Iterable[Endpoint]) -> None:
        """Raises OSError when the outbox cannot be made."""
        self._outbox, self._endpoints = FolderOutbox(outbox), tuple(endpoints)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._deliver, name="webhooks", daemon=True)
        self._ready = threading.Event()
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was not delivered stays in the outbox."""
        self._loop.call_soon_threadsafe(self._running.cancel)
        self._thread.join()

    def send(self, events: Iterable[Event]) -> None:
        """Returns when the events are in the outbox."""
        asyncio.run_coroutine_threadsafe(self._store(tuple(events)), self._loop).result(_STORED_S)

    def troubles(self) -> dict[str, str]:
        return self._webhooks.troubles()

    async def _store(self, events: tuple[Event, ...]) -> None:
        for event in events:
            self._webhooks.send(event)

    def _deliver(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._run())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._failed = error
            self._ready.set()
            raise

    async def _run(self) -> None:
        self._running = asyncio.ensure_future(self._serve())
        await self._running

    async def _serve(self) -> None:
        async with httpx.AsyncClient() as client:
            self._webhooks = Webhooks(client, _now_us, endpoints=self._endpoints, outbox=self._outbox)
            self._ready.set()
            await self._webhooks.run()


def _now_us() -> int:
    return time.time_ns() // 1000
