"""From logits to what they mean. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Doubles = np.ndarray[Any, np.dtype[np.float64]]


def activate(logits: Any, activation: str) -> Doubles:
    """Scores of logits, (…, labels): `softmax` over the last axis, `sigmoid` of each, or as they are (`identity`)."""
    values = np.asarray(logits, dtype=np.float64)
    if activation == "softmax":
        return softmax(values)
    if activation == "sigmoid":
        # The same as 1 / (1 + exp(-x)), and never too large for a float.
        halves: Doubles = 0.5 * (1 + np.tanh(0.5 * values))
        return halves
    return values


def softmax(values: Doubles) -> Doubles:
    """Over the last axis."""
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Doubles = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def ranked(labels: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """The scores by label, the highest first."""
    order = sorted(range(len(labels)), key=lambda i: -scores[i])
    return {labels[i]: scores[i] for i in order}


@dataclass(frozen=True, slots=True)
class Roles:
    """What the labels of an NLI model mean. `names`: in the order of the logits; `against`: contradiction, or what a
    model of two labels has instead of it; None where there is no such label."""

    names: tuple[str, ...]
    entailment: int
    against: int | None


def roles_of(labels: Sequence[str]) -> Roles | None:
    """Reads the labels as models of this kind spell them; None where none of them means entailment."""
    names = tuple(map(_role, labels))
    if "entailment" not in names:
        return None
    against = next((names.index(name) for name in ("contradiction", "not_entailment") if name in names), None)
    return Roles(names, names.index("entailment"), against)


def _role(label: str) -> str:
    plain = label.lower().replace("-", "_").replace(" ", "_")
    for start, role in (("entail", "entailment"), ("contra", "contradiction"), ("neutral", "neutral")):
        if plain.startswith(start):
            return role
    return "not_entailment" if plain.startswith("not_entail") else plain


def zero_shot(logits: Any, roles: Roles, *, multi_label: bool) -> Doubles:
    """Scores of candidates, (texts, candidates), of logits (texts, candidates, labels of the model).

    Candidates exclude each other: the share of each entailment among all. Otherwise, and where there is only one:
    entailment against contradiction, each by itself. (Yin, Hay and Roth 2019, as in transformers' pipeline.)
    """
    values = np.asarray(logits, dtype=np.float64)
    entailed: Doubles = values[..., roles.entailment]
    if not multi_label and values.shape[1] > 1:
        return softmax(entailed)
    if roles.against is None:
        return activate(entailed, "sigmoid")
    return softmax(np.stack([values[..., roles.against], entailed], axis=-1))[..., 1]
