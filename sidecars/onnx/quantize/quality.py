"""How far the answers of two models are apart. Pure."""

from dataclasses import dataclass

import numpy as np

from sidecars.onnx.pooling import Floats, normalize
from sidecars.onnx.scores import Doubles, activate
from sidecars.onnx.settings import Task

_NEAREST = 10


@dataclass(frozen=True, slots=True)
class VectorQuality:
    """Of embeddings. `cosine_mean`, `cosine_min`: between the two vectors of a text.

    `nearest_kept`: of the ten nearest neighbours of a text, how many are so still, as a share. `rank_correlation`: of
    the similarities of all pairs of texts (Spearman).
    """

    cosine_mean: float
    cosine_min: float
    nearest_kept: float
    rank_correlation: float


@dataclass(frozen=True, slots=True)
class ScoreQuality:
    """Of scores between 0 and 1, or of raw ones. `agreement`: how many inputs have the same label still, as a share;
    of a reranker, how many pairs of inputs are in the same order still.
    """

    difference_mean: float
    difference_max: float
    agreement: float


def compare_vectors(before: Floats, after: Floats) -> VectorQuality:
    """Rows are texts, three at least."""
    old, new = normalize(before), normalize(after)
    cosines = (old * new).sum(axis=1)
    old_pairs, new_pairs = old @ old.T, new @ new.T
    above = np.triu_indices(len(old), 1)
    return VectorQuality(
        float(cosines.mean()),
        float(cosines.min()),
        _nearest_kept(old_pairs, new_pairs),
        float(np.corrcoef(_ranks(old_pairs[above]), _ranks(new_pairs[above]))[0, 1]),
    )


def compare_scores(before: Floats, after: Floats, task: Task, activation: str) -> ScoreQuality:
    """Rows are the logits of an input."""
    wanted = "softmax" if task is Task.NLI else activation
    old, new = activate(before, wanted), activate(after, wanted)
    apart = np.abs(old - new)
    agreement = _same_order(old[:, 0], new[:, 0]) if task is Task.RERANK else _same_label(old, new)
    return ScoreQuality(float(apart.mean()), float(apart.max()), agreement)


def _nearest_kept(old: Floats, new: Floats) -> float:
    count = min(_NEAREST, len(old) - 1)
    shares = []
    for row in range(len(old)):
        kept = set(_nearest(old[row], row, count)) & set(_nearest(new[row], row, count))
        shares.append(len(kept) / count)
    return float(np.mean(shares))


def _nearest(similarities: Floats, own: int, count: int) -> list[int]:
    order = [int(i) for i in np.argsort(-similarities, kind="stable") if i != own]
    return order[:count]


def _ranks(values: Floats) -> Floats:
    ranks = np.empty(len(values), np.float32)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def _same_label(old: Doubles, new: Doubles) -> float:
    return float((old.argmax(axis=1) == new.argmax(axis=1)).mean())


def _same_order(old: Doubles, new: Doubles) -> float:
    above = np.triu_indices(len(old), 1)
    signs = [np.sign(scores[:, None] - scores[None, :])[above] for scores in (old, new)]
    return float((signs[0] == signs[1]).mean())
