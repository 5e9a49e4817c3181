"""The life of each model: available, loading, ready, idle (unloaded until it is asked for), failed.

A model is loaded by the first request that needs it, or when told to. It is unloaded when told to, when nobody asked
for it for a while, or when another needs its memory. A model that is to go finishes the requests it has; what comes
meanwhile waits, and has it loaded again.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from time import perf_counter
from typing import Any

import structlog

from sidecars.onnx.errors import overloaded, unavailable
from sidecars.onnx.folder import Card
from sidecars.onnx.generate.card import GeneratorCard
from sidecars.onnx.loaded import Loaded, Plan, UnusableError, load, look
from sidecars.onnx.memory import Memory, give_back
from sidecars.onnx.metrics import Metrics, Reading
from sidecars.onnx.settings import ModelSettings

_log = structlog.get_logger(__name__)


class State(StrEnum):
    AVAILABLE = "available"
    LOADING = "loading"
    READY = "ready"
    IDLE = "idle"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a model was unloaded."""

    ASKED = "asked"
    IDLE = "idle"
    MEMORY = "memory"
    REMOVED = "removed"
    STOP = "stop"


_AFTER = {
    Reason.ASKED: (State.AVAILABLE, None),
    Reason.IDLE: (State.IDLE, "nobody asked for it"),
    Reason.MEMORY: (State.IDLE, "another model needed its memory"),
    Reason.REMOVED: (State.AVAILABLE, None),
    Reason.STOP: (State.AVAILABLE, None),
}


class Model:
    """One model of the settings. Belongs to the event loop."""

    def __init__(
        self, name: str, settings: ModelSettings, memory: Memory, metrics: Metrics, *, threads: int, retry_s: float
    ) -> None:
        self.name = name
        self.settings = settings
        self.state = State.AVAILABLE
        self.why: str | None = None  # it failed, or was unloaded
        self.plan: Plan | None = None
        self.card: Card | GeneratorCard | None = None  # what its folder says, as far as that was looked at
        self._looked_at = False
        self.loaded: Loaded | None = None
        self.used = 0.0  # by the loop's clock
        self._memory = memory
        self._metrics = metrics
        self.threads = settings.threads or threads
        self.retry_s = retry_s
        self._retry_at = 0.0
        self._requests = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._idle: asyncio.TimerHandle | None = None
        # The load or unload under way. It ends by itself, whoever waits for it.
        self._change: asyncio.Task[None] | None = None
        self._waiters: list[asyncio.Future[Loaded]] = []

    @property
    def busy(self) -> bool:
        return self._users > 0

    @property
    def holds(self) -> Plan | None:
        return self.plan if self.loaded is not None else None

    async def make_room(self) -> None:
        await self.unload(Reason.MEMORY)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Loaded]:
        """The loaded model, which stays loaded meanwhile; loads it where it is not.

        Raises ServiceError: 429 when too many requests are in work, 503 when it cannot be loaded.
        """
        if self._requests >= self.settings.max_requests:
            wait = self.loaded.engine.queue.wait_s() if self.loaded else 1.0
            raise overloaded(f"The model '{self.name}' has {self._requests} requests in work, the most it may.", wait)
        self._requests += 1
        self._quiet.clear()
        try:
            loaded = await self._enter_loaded()
            try:
                yield loaded
            finally:
                self._leave()
        finally:
            self._requests -= 1
            if not self._requests:
                self._quiet.set()

    async def look(self) -> None:
        """Has the card of a model that was not loaded yet; none where its folder is wrong, which loading says."""
        if not self._looked_at:
            self._looked_at = True
            with suppress(Exception):
                card = (await asyncio.to_thread(look, self.settings)).card
                self.card = self.card or card  # it may have been loaded meanwhile

    async def load(self) -> None:
        """Loads the model where it is not, also when it failed a moment ago. Raises ServiceError."""
        self._retry_at = 0.0
        await self._enter_loaded()
        self._leave()

    async def unload(self, reason: Reason) -> None:
        """Has the model finish what it has and go; nothing where it is not loaded."""
        if self.state is State.LOADING and self._change is not None:
            await asyncio.wait([self._change])
        if self._change is None and self.loaded is not None:
            self._begin(self._unload(self.loaded, reason))
        # By the end of the unloading it may be loading again, and that is not ours to wait for.
        if self._change is not None and self.state is State.READY:
            await asyncio.wait([self._change])

    async def retire(self) -> None:
        """Serves the requests that it has, and goes. For a model that nobody can find any more."""
        await self._quiet.wait()
        await self.unload(Reason.REMOVED)

    def reading(self) -> Reading:
        engine = self.loaded.engine if self.loaded else None
        return Reading(
            model=self.name,
            state=self.state,
            requests=self._requests,
            waiting_sequences=len(engine.queue) if engine else 0,
            waiting_tokens=engine.queue.tokens if engine else 0,
            memory_bytes=self.holds.memory_bytes if self.holds else 0,
        )

    async def _enter_loaded(self) -> Loaded:
        """Waits until the model is loaded, and enters. Raises ServiceError."""
        if self._change is None:
            if self.loaded is not None:
                self._enter()
                return self.loaded
            self._refuse_if_failed()
            self._begin(self._load())
        waiter: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self._leave()  # it was let in, and left in the same moment
            raise

    def _refuse_if_failed(self) -> None:
        left = self._retry_at - asyncio.get_running_loop().time()
        if self.state is State.FAILED and left > 0:
            raise unavailable(self.name, self.why or "", left)

    def _enter(self) -> None:
        self._users += 1
        self._unused.clear()
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            self._unused.set()
            self._rest()

    def _rest(self) -> None:
        """From now on nobody uses it."""
        loop = asyncio.get_running_loop()
        self.used = loop.time()
        if self.settings.idle_unload_s is not None and self._idle is None:
            self._idle = loop.call_later(self.settings.idle_unload_s, self._idled)

    def _idled(self) -> None:
        self._idle = None
        if self._change is None and self.loaded is not None:
            self._begin(self._unload(self.loaded, Reason.IDLE))

    def _begin(self, change: Coroutine[Any, Any, None]) -> None:
        self._change = asyncio.create_task(change)

    async def _load(self) -> None:
        self.state, self.why = State.LOADING, None
        started = perf_counter()
        try:
            self.plan = await asyncio.to_thread(look, self.settings)
            self.card, self._looked_at = self.plan.card, True
            async with self._memory.room(self.plan):
                runs = self._metrics.runs_of(self.name)
                loaded = await asyncio.to_thread(load, self.name, self.plan, self.settings, self.threads, runs)
                self._loaded(self.plan, loaded, perf_counter() - started)
        except UnusableError as error:
            self._fail(str(error))
        except Exception as error:
            _log.exception("onnx: loading failed", model=self.name)
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self._change = None

    def _loaded(self, plan: Plan, loaded: Loaded, seconds: float) -> None:
        self.state, self.loaded = State.READY, loaded
        self._rest()
        # Those that wait are in before anyone can have the model go: each load serves those it was for.
        for waiter in self._waiting():
            self._enter()
            waiter.set_result(loaded)
        self._metrics.loads.labels(self.name, "ready").inc()
        self._metrics.load_seconds.labels(self.name).observe(seconds)
        _log.info(
            "onnx: model ready", model=self.name, device=str(plan.device), threads=self.threads,
            batch_tokens=plan.batch_tokens, memory_bytes=plan.memory_bytes, seconds=round(seconds, 3),
        )  # fmt: skip

    def _waiting(self) -> list[asyncio.Future[Loaded]]:
        """Takes those that wait."""
        waiters, self._waiters = self._waiters, []
        return [waiter for waiter in waiters if not waiter.done()]

    def _fail(self, why: str) -> None:
        self.state, self.why = State.FAILED, why
        self._retry_at = asyncio.get_running_loop().time() + self.retry_s
        for waiter in self._waiting():
            waiter.set_exception(unavailable(self.name, why, self.retry_s))
        self._metrics.loads.labels(self.name, "failed").inc()
        _log.error("onnx: model failed", model=self.name, path=str(self.settings.path), why=why)

    async def _unload(self, loaded: Loaded, reason: Reason) -> None:
        try:
            await self._unused.wait()
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None
            await loaded.engine.close()
        finally:
            del loaded  # the last reference: what it took is freed here
            self.loaded = None
            self.state, self.why = _AFTER[reason]
            self._change = None
        asyncio.get_running_loop().run_in_executor(None, give_back)
        self._metrics.unloads.labels(self.name, reason).inc()
        _log.info("onnx: model unloaded", model=self.name, reason=reason.value)
        if any(not waiter.done() for waiter in self._waiters):
            self._begin(self._load())
