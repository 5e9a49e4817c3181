"""Takes the steps of a passage as who runs the stages would: with an answer to each question."""

from collections.abc import Generator
from typing import TypeVar

from extproc.server.chain import Asking

T = TypeVar("T")


def done(steps: Generator[Asking, object, T], *answers: object) -> T:
    """What the steps come to. There is one answer for each question, no more and no fewer."""
    left, told = list(answers), None
    while True:
        try:
            steps.send(told)
        except StopIteration as end:
            assert not left, f"not asked for: {left}"
            found: T = end.value
            return found
        assert left, "a question that nobody expected"
        told = left.pop(0)
