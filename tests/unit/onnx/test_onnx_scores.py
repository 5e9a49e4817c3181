"""From logits to scores, and from tokens to vectors, on any numbers."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecars.onnx.pooling import PoolingError, normalize, pool, read_pooling
from sidecars.onnx.scores import activate, ranked, roles_of, zero_shot
from sidecars.onnx.settings import Pool

logits = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=6)


@given(logits)
def test_softmax_shares_one(row: list[float]) -> None:
    shares = activate([row], "softmax")[0]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) >= 0
    assert shares[int(np.argmax(row))] == max(shares)


@given(st.floats(-1e4, 1e4))
def test_sigmoid_never_overflows(value: float) -> None:
    (score,) = activate([value], "sigmoid")
    assert score == pytest.approx(1 / (1 + math.exp(-value)) if value > -700 else 0, abs=1e-12)


def test_identity_is_the_logit() -> None:
    assert activate([-3.5], "identity").tolist() == [-3.5]


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1), min_size=1, max_size=8))
def test_ranking_keeps_every_label(scores: dict[str, float]) -> None:
    found = ranked(list(scores), list(scores.values()))
    assert found == scores
    assert list(found.values()) == sorted(scores.values(), reverse=True)


@pytest.mark.parametrize(
    ("labels", "names", "entailment", "against"),
    [
        (("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), ("contradiction", "neutral", "entailment"), 2, 0),
        (("entailment", "not_entailment"), ("entailment", "not_entailment"), 0, 1),
        (("Entails", "Not-Entailment", "contra"), ("entailment", "not_entailment", "contradiction"), 0, 2),
        (("entailment", "other"), ("entailment", "other"), 0, None),
    ],
)
def test_roles(labels: tuple[str, ...], names: tuple[str, ...], entailment: int, against: int | None) -> None:
    roles = roles_of(labels)
    assert roles is not None
    assert (roles.names, roles.entailment, roles.against) == (names, entailment, against)


def test_labels_without_entailment_have_no_roles() -> None:
    assert roles_of(("LABEL_0", "LABEL_1")) is None


@given(st.lists(st.lists(st.tuples(*[st.floats(-20, 20)] * 3), min_size=3, max_size=3), min_size=1, max_size=3))
def test_zero_shot_candidates_share_one_or_stand_alone(values: list[list[tuple[float, ...]]]) -> None:
    roles = roles_of(("contradiction", "neutral", "entailment"))
    assert roles is not None
    assert zero_shot(values, roles, multi_label=False).sum(axis=1) == pytest.approx(1)
    alone = zero_shot([row[:1] for row in values], roles, multi_label=False)
    assert zero_shot(values, roles, multi_label=True)[:, 0] == pytest.approx(alone[:, 0])


def _states(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    longest = max(lengths)
    states = np.random.default_rng(1).standard_normal((len(lengths), longest, 4)).astype(np.float32)
    mask = np.array([[int(at < length) for at in range(longest)] for length in lengths])
    return states, mask


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from(Pool))
def test_padding_never_counts(lengths: list[int], way: Pool) -> None:
    states, mask = _states(lengths)
    other = np.where(mask[:, :, None] == 1, states, 1e6).astype(np.float32)
    assert pool(states, mask, [way]) == pytest.approx(pool(other, mask, [way]), rel=1e-6)


def test_ways_of_pooling_by_hand() -> None:
    states = np.array([[[1, 2], [3, 6], [9, 9]]], dtype=np.float32)
    mask = np.array([[1, 1, 0]])
    found = {way: pool(states, mask, [way])[0].tolist() for way in Pool}
    assert found[Pool.MEAN] == [2, 4]
    assert found[Pool.MEAN_SQRT_LENGTH] == pytest.approx([4 / math.sqrt(2), 8 / math.sqrt(2)])
    assert found[Pool.MAX] == [3, 6]
    assert found[Pool.CLS] == [1, 2]
    assert found[Pool.LAST] == [3, 6]
    assert pool(states, mask, [Pool.CLS, Pool.MEAN])[0].tolist() == [1, 2, 2, 4]


def test_a_row_of_zeros_stays_one() -> None:
    rows = normalize(np.array([[0, 0], [3, 4]], dtype=np.float32))
    assert rows.tolist() == [[0, 0], pytest.approx([0.6, 0.8])]


@pytest.mark.parametrize(
    ("config", "ways"),
    [
        ('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}', (Pool.CLS,)),
        ('{"pooling_mode_lasttoken": true, "pooling_mode_cls_token": true}', (Pool.CLS, Pool.LAST)),
        ('{"pooling_mode": "mean"}', (Pool.MEAN,)),
        ('{"pooling_mode": ["max", "cls"]}', (Pool.CLS, Pool.MAX)),
    ],
)
def test_the_config_of_pooling(tmp_path: Path, config: str, ways: tuple[Pool, ...]) -> None:
    (tmp_path / "config.json").write_text(config)
    assert read_pooling(tmp_path) == ways


@pytest.mark.parametrize("config", ["{", "{}", '{"pooling_mode": "attention"}', '{"include_prompt": false}'])
def test_pooling_that_is_not_served(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(PoolingError):
        read_pooling(tmp_path)
    assert read_pooling(None) == (Pool.MEAN,)
