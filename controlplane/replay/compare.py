"""Two outcomes of one request -> how they differ. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from operator import mul

from controlplane.replay.outcome import Outcome
from controlplane.replay.said import Vector

# Beyond so many words the order is not looked at: matching takes time by the square of it.
_MOST_WORDS = 2000
_SAME_VECTOR = 1 - 1e-6  # cosine: floats go through texts and back


@dataclass(frozen=True, slots=True)
class Difference:
    """How the second outcome differs from the first. `similarity` of the texts, 0 to 1; `kinds` are what counts as a
    difference: status, calls, finish, text; none where the outcomes are equal."""

    similarity: float
    kinds: tuple[str, ...]

    @property
    def weight(self) -> tuple[int, float]:
        """What sorts the worst last: what fails differently, then what does something else, then what says it."""
        grave = ("status", "calls", "finish", "text")
        rank = min((grave.index(kind) for kind in self.kinds), default=len(grave))
        return len(grave) - rank, 1 - self.similarity


def compare(before: Outcome, after: Outcome, min_similarity: float = 1.0) -> Difference:
    """Texts at least so similar count as equal."""
    likeness = similarity(before, after)
    kinds = []
    if before.status != after.status or bool(before.error) != bool(after.error):
        kinds.append("status")
    if before.said.calls != after.said.calls:
        kinds.append("calls")
    if before.said.finish != after.said.finish:
        kinds.append("finish")
    if likeness < min_similarity:
        kinds.append("text")
    return Difference(likeness, tuple(kinds))


def similarity(before: Outcome, after: Outcome) -> float:
    """1 for equal answers. Of texts the share of their words, in order, that both have; of embeddings the smallest
    cosine."""
    one, other = before.said, after.said
    if one.vectors or other.vectors:
        if len(one.vectors) != len(other.vectors):
            return 0.0
        least = min(map(_cosine, one.vectors, other.vectors))
        return 1.0 if least >= _SAME_VECTOR else max(least, 0.0)
    return text_similarity(one.text, other.text)


def text_similarity(one: str, other: str) -> float:
    if one == other:
        return 1.0
    ours, theirs = one.split(), other.split()
    if ours == theirs:
        return 0.999  # white space alone is a difference, too
    if len(ours) + len(theirs) > _MOST_WORDS:
        common = (Counter(ours) & Counter(theirs)).total()
        found = 2 * common / (len(ours) + len(theirs))
    else:
        found = SequenceMatcher(None, ours, theirs, autojunk=False).ratio()
    return min(found, 0.999)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values do not exceed; None of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _cosine(one: Vector, other: Vector) -> float:
    if len(one) != len(other):
        return 0.0
    lengths = math.hypot(*one) * math.hypot(*other)
    return math.fsum(map(mul, one, other)) / lengths if lengths else float(one == other)
