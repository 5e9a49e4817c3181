"""How answers share a model: turns, room, priority, those who leave, failures."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecars.onnx.batch import Priority
from sidecars.onnx.engine import Ran
from sidecars.onnx.errors import ServiceError, failed
from sidecars.onnx.generate.choice import Choice
from sidecars.onnx.generate.generation import Asked, Piece, Step
from sidecars.onnx.generate.turns import Answers, Turns

POISON, BROKEN = 666, 667  # prompts that fail: as they should, and as they should not


@dataclass
class Fake:
    """A model that answers `0 1 2 …`, as long as it may. `gate`, where it is closed, holds every step up."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    steps: list[int] = field(default_factory=list)  # the first token of the prompt, for each step
    open: int = 0
    most: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    def begin(self, asked: Asked) -> "Answer":
        if asked.prompt[0] == POISON:
            raise failed("it", "poisoned")
        self.open += 1
        self.most = max(self.most, self.open)
        return Answer(self, asked)

    def close(self) -> None:
        self.closed = True


@dataclass
class Answer:
    fake: Fake
    asked: Asked
    made: int = 0

    def step(self) -> Step:
        self.fake.entered.set()
        assert self.fake.gate.wait(60)
        self.fake.steps.append(self.asked.prompt[0])
        if self.asked.prompt[0] == BROKEN:
            raise ZeroDivisionError("a defect")
        self.made += 1
        finish = "length" if self.made == self.asked.max_tokens else None
        return Step(1, Piece(f"{self.made - 1} ", (), self.made, finish))

    def close(self) -> None:
        self.fake.open -= 1


@dataclass
class Watch:
    fed: int = 0
    tokens: int = 0
    begun: int = 0

    def ran(self, ran: Ran) -> None:
        self.fed += ran.real

    def generated(self, tokens: int) -> None:
        self.tokens += tokens

    def began(self, seconds: float) -> None:
        assert seconds >= 0
        self.begun += 1


@asynccontextmanager
async def turns(fake: Fake, watch: Watch | None = None, **limits: int) -> AsyncIterator[Turns]:
    made = Turns("it", fake, watch or Watch(), **{"room": 1000, "together": 8, "queue_tokens": 1000, **limits})
    try:
        yield made
    finally:
        fake.gate.set()
        await made.close()
        assert fake.closed
        assert fake.open == 0, "a cache was not given back"


def asked(prompt: int, tokens: int, size: int = 1) -> Asked:
    return Asked([prompt] * size, tokens, Choice())


async def read(answers: Answers) -> list[str]:
    found: dict[int, str] = {}
    try:
        async for index, piece in answers:
            found[index] = found.get(index, "") + piece.text
    finally:
        answers.leave()
    return [text for _, text in sorted(found.items())]


async def ask(one: Turns, *wanted: Asked, priority: Priority = Priority.NORMAL) -> list[str]:
    return await read(one.submit(wanted, priority))


def text(tokens: int) -> str:
    return "".join(f"{i} " for i in range(tokens))


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - the state has no event
            await asyncio.sleep(0.001)


requests = st.lists(
    st.tuples(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.sampled_from(Priority)), min_size=1, max_size=10
)


@settings(max_examples=40, deadline=None)
@given(requests, st.integers(1, 100), st.integers(1, 5), st.sets(st.integers(0, 9)))
def test_all_who_stay_get_their_answers(
    wanted: list[tuple[list[int], Priority]], room: int, together: int, leaving: set[int]
) -> None:
    async def scenario() -> None:
        fake, watch = Fake(), Watch()
        async with turns(fake, watch, room=room, together=together, queue_tokens=10**6) as one:
            tasks = [
                asyncio.create_task(ask(one, *(asked(i, tokens) for tokens in lengths), priority=priority))
                for i, (lengths, priority) in enumerate(wanted)
            ]
            await asyncio.sleep(0)
            for index in leaving & set(range(len(tasks))):
                tasks[index].cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        for index, (lengths, _) in enumerate(wanted):
            if index not in leaving:
                assert answers[index] == [text(tokens) for tokens in lengths]
        assert fake.most <= together
        assert one.queue.tokens == len(one.queue) == 0
        assert watch.tokens == watch.fed == len(fake.steps)

    asyncio.run(scenario())


async def test_a_short_answer_does_not_wait_for_a_long_one() -> None:
    fake = Fake()
    async with turns(fake, room=2000) as one:
        long = asyncio.create_task(ask(one, asked(1, 1000)))
        await until(lambda: len(fake.steps) > 10)
        fake.steps.clear()
        assert await ask(one, asked(2, 5)) == [text(5)]
        assert fake.steps.count(1) < 100
        assert not long.done()
        assert await long == [text(1000)]


async def test_answers_take_turns() -> None:
    fake = Fake()
    async with turns(fake) as one:
        assert await ask(one, *(asked(i, 3) for i in range(3))) == [text(3)] * 3
    assert fake.steps == [0, 1, 2] * 3


async def test_what_does_not_fit_waits_and_is_not_overtaken_for_ever() -> None:
    fake = Fake()
    async with turns(fake, room=20) as one:
        fake.gate.clear()
        first = asyncio.create_task(ask(one, asked(1, 9)))
        await until(fake.entered.is_set)
        large = asyncio.create_task(ask(one, asked(2, 14)))
        await until(lambda: len(one.queue) == 1)
        small = [asyncio.create_task(ask(one, asked(3, 2))) for _ in range(5)]
        await until(lambda: len(one.queue) == 6)
        fake.gate.set()
        await asyncio.gather(first, large, *small)
    assert fake.steps.index(3) > fake.steps.index(2) > 8  # the first one ended, then came the large one


async def test_an_answer_larger_than_all_room_goes_alone() -> None:
    fake = Fake()
    async with turns(fake, room=10) as one:
        assert await asyncio.gather(ask(one, asked(1, 50)), ask(one, asked(2, 50))) == [[text(50)], [text(50)]]
    assert fake.most == 1


async def test_the_urgent_goes_first() -> None:
    fake = Fake()
    async with turns(fake, together=1) as one:
        fake.gate.clear()
        waiting = [asyncio.create_task(ask(one, asked(1, 1)))]
        await until(fake.entered.is_set)
        for number, priority in ((2, Priority.LOW), (3, Priority.NORMAL), (4, Priority.HIGH)):
            waiting.append(asyncio.create_task(ask(one, asked(number, 1), priority=priority)))
        await until(lambda: len(one.queue) == 3)
        fake.gate.set()
        await asyncio.gather(*waiting)
    assert fake.steps == [1, 4, 3, 2]


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    fake = Fake()
    async with turns(fake, together=1, queue_tokens=10) as one:
        fake.gate.clear()
        running = asyncio.create_task(ask(one, asked(1, 5)))
        await until(fake.entered.is_set)
        waiting = asyncio.create_task(ask(one, asked(2, 7)))
        await until(lambda: one.queue.tokens == 8)
        with pytest.raises(ServiceError, match="8 tokens wait, this request has 3, 10 may wait") as refused:
            one.submit([asked(3, 2)], Priority.HIGH)
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        assert int(refused.value.headers()["retry-after"]) >= 1
        fake.gate.set()
        await asyncio.gather(running, waiting)


async def test_who_leaves_costs_no_further_step() -> None:
    fake = Fake()
    async with turns(fake) as one:
        fake.gate.clear()
        leaving = asyncio.create_task(ask(one, asked(1, 1000)))
        await until(fake.entered.is_set)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        fake.gate.set()
        await ask(one, asked(2, 20))
        assert fake.steps.count(1) == 1  # the one that had begun
        assert fake.open == 0


@pytest.mark.parametrize("bad", [POISON, BROKEN])
async def test_what_fails_fails_alone(bad: int) -> None:
    fake = Fake()
    async with turns(fake) as one:
        answers = await asyncio.gather(
            *(ask(one, asked(i, 5)) for i in (1, bad, 2)), ask(one, asked(3, 50), asked(bad, 5)), return_exceptions=True
        )
        failures = [answers.pop(1), answers.pop()]
        assert answers == [[text(5)], [text(5)]]
        assert all(isinstance(one, ServiceError) and one.code == "inference_failed" for one in failures)
        assert fake.steps.count(3) < 50  # nobody wants the rest of a request that failed
        assert await ask(one, asked(4, 2)) == [text(2)]


async def test_the_loop_is_free_during_a_step() -> None:
    fake = Fake()
    async with turns(fake) as one:
        fake.gate.clear()
        work = asyncio.create_task(ask(one, asked(1, 1)))
        await until(fake.entered.is_set)
        await asyncio.sleep(0)  # would never return if the loop ran the model
        assert not work.done()
        fake.gate.set()
        await work


async def test_closing_ends_what_waits_first() -> None:
    fake = Fake()
    made = Turns("it", fake, Watch(), room=5, together=1, queue_tokens=100)
    work = asyncio.create_task(ask(made, asked(1, 3), asked(2, 3)))
    await asyncio.sleep(0)
    await made.close()
    assert await work == [text(3), text(3)]
