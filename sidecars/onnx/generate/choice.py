"""How the next token is chosen, and how likely it was. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from zlib import crc32

import numpy as np

from sidecars.onnx.pooling import Floats

# The runtime looks for the nucleus of `top_p` exactly among so many of the likeliest tokens; among all of them it takes
# more than were asked for.
_NUCLEUS = 1024
_SEED = 0x7FFF_FFFF


@dataclass(frozen=True, slots=True)
class Choice:
    """How tokens are chosen. `top_k`: 0 for all. `presence`, `frequency`: taken from the logit of what the answer has,
    once, and for each time. `repetition`: divides the logits of what prompt and answer have. `bias`: added to logits,
    by token. `seed`: None for another every time."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def numbered(self, number: int) -> "Choice":
        """For one of several answers: the seed of each is its own, and that of no other request's first."""
        if self.seed is None or number == 0:
            return self
        return replace(self, seed=crc32(b"%d/%d" % (self.seed, number)))

    @property
    def changes_logits(self) -> bool:
        return bool(self.presence or self.frequency or self.bias)

    def search(self, vocabulary: int) -> dict[str, float]:
        """The runtime's options."""
        found: dict[str, float] = {"repetition_penalty": self.repetition}
        if self.temperature == 0 or self.top_k == 1 or self.top_p == 0:
            return found | {"do_sample": False}
        top_k = self.top_k or (_NUCLEUS if self.top_p < 1 else 0)
        found |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}
        found |= {"top_k": min(top_k, vocabulary), "random_seed": -1 if self.seed is None else self.seed & _SEED}
        return found

    def changed(self, logits: Floats, counts: Mapping[int, int]) -> Floats:
        """The logits of the next token; `counts`: how often the answer has each token."""
        found = logits.copy()
        if counts and (self.presence or self.frequency):
            ids = np.fromiter(counts.keys(), np.int64, len(counts))
            times = np.fromiter(counts.values(), np.float32, len(counts))
            found[ids] -= np.float32(self.presence) + np.float32(self.frequency) * times
        for token, bias in self.bias.items():
            found[token] += np.float32(bias)
        return found


class Scored(NamedTuple):
    """A token, the logarithm of its probability, and those of the likeliest ones, the best first.

    They are the model's own: of the logits before anything was done to them."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def score(logits: Floats, token: int, count: int) -> Scored:
    """`count`: how many of the likeliest."""
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    best = np.argpartition(values, -count)[-count:] if count else np.empty(0, np.int64)
    best = best[np.lexsort((best, -values[best]))]
    return Scored(token, float(values[token]), tuple((int(i), float(values[i])) for i in best))
