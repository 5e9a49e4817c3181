"""Runs one loaded model: requests wait in `batch`, and whenever the model is free the next batch is fed, at once.

There is no timer: what arrives while the model runs is what the next run takes. The runs happen in a thread of the
model's own, so that the event loop stays free.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np

from sidecars.onnx.batch import Item, Priority
from sidecars.onnx.errors import ServiceError, failed, out_of_memory
from sidecars.onnx.pooling import Floats
from sidecars.onnx.queue import Queue
from sidecars.onnx.session import RunError
from sidecars.onnx.tokens import Tokens

_RATE_MEMORY = 0.8  # of the measured speed; the rest is the last run
_FIRST_RATE = 1000.0  # tokens per second, before anything was measured


class Runner(Protocol):
    """What feeds a model; see `Session`."""

    def run(self, batch: Sequence[Tokens]) -> Floats:
        """A row for each sequence. Raises RunError."""


class Ran(NamedTuple):
    """One turn of the model. `padded` counts what was fed, padding included, `real` without."""

    sequences: int
    real: int
    padded: int
    seconds: float


class Observer(Protocol):
    """Who counts the runs."""

    def ran(self, ran: Ran) -> None: ...


@dataclass(slots=True, eq=False)
class _Job:
    """One request's sequences. The first error of one of them is the answer."""

    done: "asyncio.Future[list[Floats]]"
    rows: list[Floats]
    left: int
    items: "list[Item[_Part]]" = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Part:
    """A sequence, and where its row goes."""

    tokens: Tokens
    job: _Job
    index: int


class Engine:
    """The queue and the thread of one model. Belongs to the event loop."""

    def __init__(self, name: str, runner: Runner, observer: Observer, *, batch_tokens: int, queue_tokens: int) -> None:
        self._name = name
        self._runner = runner
        self._observer = observer
        self._batch_tokens = batch_tokens
        self.queue: Queue[_Part] = Queue(name, queue_tokens, rate=_FIRST_RATE, memory=_RATE_MEMORY)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"onnx-{name}")
        self._pump: asyncio.Task[None] | None = None

    async def submit(self, sequences: Sequence[Tokens], priority: Priority) -> list[Floats]:
        """A row for each sequence, in order. When cancelled, what still waits of it is forgotten.

        Raises ServiceError: 429 when the queue is full, 500 and 503 for a sequence that cannot be computed.
        """
        self.queue.expect_room(sum(map(len, sequences)))
        job = _Job(asyncio.get_running_loop().create_future(), [_NOTHING] * len(sequences), len(sequences))
        for index, tokens in enumerate(sequences):
            job.items.append(self.queue.put(len(tokens), priority, _Part(tokens, job, index)))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._feed())
        try:
            return await job.done
        finally:
            self.queue.remove(job.items)

    async def close(self) -> None:
        """Ends the thread after what waits. Nothing may be submitted from here on."""
        if self._pump is not None:
            await self._pump
        await asyncio.to_thread(self._thread.shutdown)

    async def _feed(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self.queue.take(self._batch_tokens):
            started = perf_counter()
            sequences = [item.load.tokens for item in batch]
            try:
                rows = await loop.run_in_executor(self._thread, self._run, sequences)
            except Exception as error:  # whatever it is, the next batch is not to wait for ever
                rows = [failed(self._name, str(error))] * len(batch)
            self._count(batch, perf_counter() - started)
            for item, row in zip(batch, rows, strict=True):
                _deliver(item.load, row)

    def _run(self, batch: Sequence[Tokens]) -> list[Floats | ServiceError]:
        """A row or an error for each. What fails is halved, so that one bad sequence fails alone."""
        try:
            rows = self._runner.run(batch)
        except RunError as error:
            if len(batch) == 1:
                return [out_of_memory(self._name) if error.memory else failed(self._name, str(error))]
            middle = len(batch) // 2
            return self._run(batch[:middle]) + self._run(batch[middle:])
        return [
            row if np.isfinite(row).all() else failed(self._name, "its output is not a number (NaN or infinite).")
            for row in rows
        ]

    def _count(self, batch: Sequence[Item[_Part]], seconds: float) -> None:
        real = sum(item.tokens for item in batch)
        self.queue.ran(real, seconds)
        self._observer.ran(Ran(len(batch), real, len(batch) * batch[-1].tokens, seconds))


_NOTHING: Floats = np.empty(0, dtype=np.float32)


def _deliver(part: _Part, row: Floats | ServiceError) -> None:
    job = part.job
    if job.done.done():
        return
    if isinstance(row, ServiceError):
        job.done.set_exception(row)
        return
    job.rows[part.index] = row
    job.left -= 1
    if job.left == 0:
        job.done.set_result(job.rows)
