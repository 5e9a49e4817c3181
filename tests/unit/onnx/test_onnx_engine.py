"""The queue of one model and its thread: order, bounds, cancellation, failures."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecars.onnx.batch import Priority
from sidecars.onnx.engine import Engine, Ran
from sidecars.onnx.errors import ServiceError
from sidecars.onnx.pooling import Floats
from sidecars.onnx.session import RunError
from sidecars.onnx.tokens import Tokens

POISON, NOTHING, LARGE = 666, 777, 888  # ids that make a run fail, give NaN, or take too much memory


@dataclass
class Fake:
    """Gives the sum and the length of each sequence. `gate`, where it is closed, holds the run up."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    batches: list[list[list[int]]] = field(default_factory=list)
    together: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def run(self, batch: Sequence[Tokens]) -> Floats:
        self.together += 1
        assert self.together == 1, "runs overlap"
        self.batches.append([tokens.ids for tokens in batch])
        self.entered.set()
        assert self.gate.wait(60)
        self.together -= 1
        for tokens in batch:
            if POISON in tokens.ids:
                raise RunError("poisoned", memory=False)
            if LARGE in tokens.ids:
                raise RunError("bad_alloc", memory=True)
        rows = [[np.nan if NOTHING in tokens.ids else sum(tokens.ids), len(tokens)] for tokens in batch]
        return np.array(rows, dtype=np.float32)

    @property
    def fed(self) -> list[list[int]]:
        return [ids for batch in self.batches for ids in batch]


class Count:
    def __init__(self) -> None:
        self.runs: list[Ran] = []

    def ran(self, ran: Ran) -> None:
        self.runs.append(ran)


@asynccontextmanager
async def engine(fake: Fake, count: Count | None = None, **limits: int) -> AsyncIterator[Engine]:
    made = Engine("it", fake, count or Count(), **{"batch_tokens": 100, "queue_tokens": 1000, **limits})
    try:
        yield made
    finally:
        fake.gate.set()
        await made.close()


def tokens(*lists: list[int]) -> list[Tokens]:
    return [Tokens(ids, []) for ids in lists]


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - the state has no event
            await asyncio.sleep(0.001)


requests = st.lists(
    st.tuples(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=30), min_size=1, max_size=6),
              st.sampled_from(Priority)), min_size=1, max_size=10,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(requests, st.integers(1, 200))
def test_every_request_gets_its_own_rows_in_order(asked: list[tuple[list[list[int]], Priority]], budget: int) -> None:
    async def scenario() -> None:
        fake, count = Fake(), Count()
        async with engine(fake, count, batch_tokens=budget) as one:
            answers = await asyncio.gather(*(one.submit(tokens(*lists), priority) for lists, priority in asked))
        for (lists, _), rows in zip(asked, answers, strict=True):
            assert [row.tolist() for row in rows] == [[sum(ids), len(ids)] for ids in lists]
        everything = [ids for lists, _ in asked for ids in lists]
        assert sorted(fake.fed) == sorted(everything)  # nothing lost, nothing twice
        assert sum(ran.real for ran in count.runs) == sum(map(len, everything))
        assert one.queue.tokens == len(one.queue) == 0

    asyncio.run(scenario())


@settings(max_examples=40, deadline=None)
@given(requests, st.sets(st.integers(0, 9)))
def test_those_who_leave_take_nothing_from_the_others(
    asked: list[tuple[list[list[int]], Priority]], leaving: set[int]
) -> None:
    async def scenario() -> None:
        fake = Fake()
        async with engine(fake) as one:
            fake.gate.clear()
            first = asyncio.create_task(one.submit(tokens([1]), Priority.HIGH))
            await until(fake.entered.is_set)
            tasks = [asyncio.create_task(one.submit(tokens(*lists), priority)) for lists, priority in asked]
            await asyncio.sleep(0)
            for index in leaving & set(range(len(tasks))):
                tasks[index].cancel()
            await asyncio.sleep(0)
            stay = [(index, lists) for index, (lists, _) in enumerate(asked) if index not in leaving]
            assert len(one.queue) == sum(len(lists) for _, lists in stay)
            fake.gate.set()
            await first
            for index, lists in stay:
                assert [row.tolist() for row in await tasks[index]] == [[sum(ids), len(ids)] for ids in lists]
        assert sorted(fake.fed) == sorted([[1], *(ids for _, lists in stay for ids in lists)])

    asyncio.run(scenario())


async def test_what_arrives_during_a_run_is_fed_together_at_once() -> None:
    fake = Fake()
    async with engine(fake) as one:
        fake.gate.clear()
        first = asyncio.create_task(one.submit(tokens([1, 1]), Priority.NORMAL))
        await until(fake.entered.is_set)
        others = [asyncio.create_task(one.submit(tokens([i, i]), Priority.NORMAL)) for i in range(2, 6)]
        await until(lambda: len(one.queue) == 4)
        fake.gate.set()
        await asyncio.gather(first, *others)
    assert [len(batch) for batch in fake.batches] == [1, 4]


async def test_the_loop_is_free_while_the_model_runs() -> None:
    fake = Fake()
    async with engine(fake) as one:
        fake.gate.clear()
        work = asyncio.create_task(one.submit(tokens([1]), Priority.NORMAL))
        await until(fake.entered.is_set)
        await asyncio.sleep(0)  # would never return if the loop ran the model
        assert not work.done()
        fake.gate.set()
        await work


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    fake = Fake()
    async with engine(fake, queue_tokens=10) as one:
        fake.gate.clear()
        running = asyncio.create_task(one.submit(tokens([1]), Priority.NORMAL))
        await until(fake.entered.is_set)
        waiting = asyncio.create_task(one.submit(tokens([1] * 8), Priority.NORMAL))
        await until(lambda: one.queue.tokens == 8)
        with pytest.raises(ServiceError) as refused:
            await one.submit(tokens([1] * 3), Priority.HIGH)
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        assert int(refused.value.headers()["retry-after"]) >= 1
        fake.gate.set()
        await asyncio.gather(running, waiting)
        assert await one.submit(tokens([1] * 3), Priority.NORMAL)


async def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    async with engine(Fake(), queue_tokens=10) as one:
        assert len(await one.submit(tokens(*([[1] * 9] * 5)), Priority.NORMAL)) == 5


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [(POISON, 500, "inference_failed"), (NOTHING, 500, "inference_failed"), (LARGE, 503, "out_of_memory")],
)
async def test_a_bad_sequence_fails_alone(bad: int, status: int, code: str) -> None:
    fake = Fake()
    async with engine(fake) as one:
        answers = await asyncio.gather(
            *(one.submit(tokens([i, i]), Priority.NORMAL) for i in (1, 2, bad, 3, 4)), return_exceptions=True
        )
        failed = answers.pop(2)
        assert isinstance(failed, ServiceError)
        assert (failed.status, failed.code) == (status, code)
        assert [rows[0].tolist() for rows in answers if isinstance(rows, list)] == [[2, 2], [4, 2], [6, 2], [8, 2]]
        assert len(await one.submit(tokens([5]), Priority.NORMAL)) == 1


async def test_the_first_failure_of_a_request_has_its_other_sequences_forgotten() -> None:
    fake = Fake()
    async with engine(fake, batch_tokens=2) as one:
        with pytest.raises(ServiceError):
            await one.submit(tokens([POISON, 1], *([[1, 1]] * 50)), Priority.NORMAL)
        assert len(one.queue) == 0
    assert len(fake.batches) < 10


async def test_closing_ends_what_waits_first() -> None:
    fake = Fake()
    made = Engine("it", fake, Count(), batch_tokens=2, queue_tokens=100)
    work = asyncio.create_task(made.submit(tokens([1, 1], [2, 2], [3, 3]), Priority.NORMAL))
    await asyncio.sleep(0)
    await made.close()
    assert [row.tolist() for row in await work] == [[2, 2], [4, 2], [6, 2]]
