"""Shares one model among the answers in work: each in turn makes one step, so that none waits for another's end.

What does not fit into the cache, or is more than may be in work, waits in the queue of `batch`, by priority and
arrival. The steps happen in a thread of the model's own, so that the event loop stays free.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from sidecars.onnx.batch import Item, Priority
from sidecars.onnx.engine import Observer, Ran
from sidecars.onnx.errors import ServiceError, failed
from sidecars.onnx.generate.generation import Asked, Piece, Step
from sidecars.onnx.queue import Queue

_RATE_MEMORY = 0.95  # of the measured speed; the rest is the last step
_FIRST_RATE = 100.0  # tokens per second, before anything was measured


class Maker(Protocol):
    """What makes one answer; see `Generation`."""

    def step(self) -> Step:
        """Raises ServiceError."""

    def close(self) -> None: ...


class Source(Protocol):
    """A model; see `Generations`. It is only asked in the thread."""

    def begin(self, asked: Asked) -> Maker:
        """Raises ServiceError."""

    def close(self) -> None: ...


class Watcher(Observer, Protocol):
    """Who counts the steps and the answers."""

    def generated(self, tokens: int) -> None: ...

    def began(self, seconds: float) -> None:
        """A first token, so long after it was asked for."""


@dataclass(slots=True, eq=False)
class _Job:
    """An answer that waits, or is in work. `left`: nobody waits for it any more."""

    asked: Asked
    put: Callable[[Piece | ServiceError], None]
    began: float
    maker: Maker | None = None
    generated: int = 0
    left: bool = False
    done: bool = False


@dataclass(slots=True, eq=False)
class Answers:
    """The answers to one request, as they grow. To be left when they are not read to their end."""

    leave: Callable[[], None]
    open: int
    news: "asyncio.Queue[tuple[int, Piece | ServiceError]]" = field(default_factory=asyncio.Queue)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        """Pieces, and which of the answers each belongs to. Raises ServiceError, once for all of them."""
        while self.open:
            index, piece = await self.news.get()
            if isinstance(piece, ServiceError):
                raise piece
            self.open -= piece.finish is not None
            yield index, piece


class Turns:
    """The queue, the answers in work and the thread of one model. Belongs to the event loop."""

    def __init__(
        self,
        name: str,
        source: Source,
        watcher: Watcher,
        *,
        room: int,
        together: int,
        queue_tokens: int,
    ) -> None:
        """`room`: tokens that all in work may have in the cache; `together`: how many answers may be in work;
        `queue_tokens`: what may wait."""
        self._name = name
        self._source = source
        self._watcher = watcher
        self._room = room
        self._together = together
        self.queue: Queue[_Job] = Queue(name, queue_tokens, rate=_FIRST_RATE, memory=_RATE_MEMORY)
        self._active: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"onnx-{name}")
        self._pump: asyncio.Task[None] | None = None

    def submit(self, asked: Sequence[Asked], priority: Priority) -> Answers:
        """Raises ServiceError, 429, when the queue is full."""
        self.queue.expect_room(sum(one.size for one in asked))
        items: list[Item[_Job]] = []
        answers = Answers(lambda: self._leave(items), len(asked))
        now = perf_counter()
        for index, one in enumerate(asked):
            items.append(self.queue.put(one.size, priority, _Job(one, _putter(answers, index), now)))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        return answers

    async def close(self) -> None:
        """Ends the model and the thread after what is in work and waits. Nothing may be submitted from here on."""
        if self._pump is not None:
            await self._pump
        await asyncio.get_running_loop().run_in_executor(self._thread, self._source.close)
        await asyncio.to_thread(self._thread.shutdown)

    def _leave(self, items: Sequence[Item[_Job]]) -> None:
        self.queue.remove(items)
        for item in items:
            item.load.left = True

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._admit():
            await loop.run_in_executor(self._thread, self._turn, list(self._active), loop)
            self._active = deque(job for job in self._active if not job.done)

    def _admit(self) -> bool:
        """Takes in what there is room for. Whether anything is in work then."""
        while len(self._active) < self._together:
            used = sum(job.asked.size for job in self._active)
            # Alone an answer may have any size: what a model allows is bounded by itself.
            item = self.queue.take_first(self._room - used if self._active else None)
            if item is None:
                break
            self._active.append(item.load)
        return bool(self._active)

    def _turn(self, jobs: Sequence[_Job], loop: asyncio.AbstractEventLoop) -> None:
        """One step of each. In the thread."""
        for job in jobs:
            started = perf_counter()
            fed, news = 0, None
            if not job.left:
                fed, news = self._step(job)
            if job.left or isinstance(news, ServiceError) or (news is not None and news.finish is not None):
                job.done = True
                if job.maker is not None:
                    job.maker.close()
            loop.call_soon_threadsafe(self._count, job, fed, news, perf_counter() - started)

    def _step(self, job: _Job) -> tuple[int, Piece | ServiceError | None]:
        try:
            if job.maker is None:
                job.maker = self._source.begin(job.asked)
            return job.maker.step()
        except ServiceError as error:
            return 0, error
        except Exception as error:  # whatever it is, the others are not to wait for ever
            return 0, failed(self._name, f"{type(error).__name__}: {error}")

    def _count(self, job: _Job, fed: int, news: Piece | ServiceError | None, seconds: float) -> None:
        """Counts a step and passes on what came of it."""
        if fed:
            self.queue.ran(fed, seconds)
            self._watcher.ran(Ran(1, fed, fed, seconds))
        if isinstance(news, Piece):
            if not job.generated:
                self._watcher.began(perf_counter() - job.began)
            self._watcher.generated(news.generated - job.generated)
            job.generated = news.generated
        if news is not None and not job.left:
            job.put(news)


def _putter(answers: Answers, index: int) -> Callable[[Piece | ServiceError], None]:
    return lambda news: answers.news.put_nowait((index, news))
