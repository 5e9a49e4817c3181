"""How fast two models are, measured in turns, for the machine has other work too."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from sidecars.onnx.session import Session
from sidecars.onnx.tokens import Tokens

_ROUNDS = 3
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Pace:
    """Milliseconds that a text takes, the least of some rounds, and how many times faster it has become."""

    before_ms: float
    after_ms: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Paces:
    """`single`: texts one at a time. `batched`: sixteen texts of like length at once."""

    single: Pace
    batched: Pace


def measure(before: Session, after: Session, texts: Sequence[Tokens]) -> Paces:
    """Raises RunError."""
    ordered = sorted(texts, key=len)
    return Paces(_pace(before, after, ordered, 1), _pace(before, after, ordered, _BATCH))


def _pace(before: Session, after: Session, texts: Sequence[Tokens], size: int) -> Pace:
    turns = [(_turn(before, texts, size), _turn(after, texts, size)) for _ in range(_ROUNDS)]
    old, new = (min(times) for times in zip(*turns, strict=True))
    return Pace(1000 * old, 1000 * new, old / new)


def _turn(session: Session, texts: Sequence[Tokens], size: int) -> float:
    """Seconds of a text."""
    began = perf_counter()
    for first in range(0, len(texts), size):
        session.run(texts[first : first + size])
    return (perf_counter() - began) / len(texts)
