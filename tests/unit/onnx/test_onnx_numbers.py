"""What models give, held to what Hugging Face's own libraries give for the same weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecars.onnx.device import parse_device
from sidecars.onnx.loaded import Loaded, load, look
from sidecars.onnx.metrics import Metrics
from sidecars.onnx.scores import activate, roles_of, zero_shot
from sidecars.onnx.session import Session
from sidecars.onnx.settings import ModelSettings
from sidecars.onnx.tokens import Tokens
from tests.support.tiny_models import MODELS

COSINE, ABSOLUTE = 1e-4, 1e-3
TINY = 2e-5  # small models sum less
EMBEDDERS = [name for name, tiny in MODELS.items() if tiny.sentences]
RERANKERS = [name for name, tiny in MODELS.items() if len(tiny.labels) == 1]


def _loaded(path: Path) -> Loaded:
    settings = ModelSettings(path)
    return load("it", look(settings), settings, 1, Metrics().runs_of("it"))


def _run(path: Path, encode: Callable[[Loaded], list[Tokens]]) -> tuple[Loaded, Any]:
    """All at once, so that padding is part of the test."""
    loaded = _loaded(path)
    session = Session(loaded.card, parse_device("cpu"), 1)
    return loaded, session.run(encode(loaded))


def test_minilm_gives_what_sentence_transformers_gives(minilm: Path, expected: dict[str, Any]) -> None:
    _, vectors = _run(minilm, lambda loaded: loaded.encoder.texts(expected["texts"]))
    wanted = np.array(expected["models"]["all-minilm-l6-v2"])
    assert np.abs(vectors - wanted).max() < ABSOLUTE
    assert (1 - (vectors * wanted).sum(axis=1)).max() < COSINE


def test_minilm_is_cut_where_it_says(minilm: Path, expected: dict[str, Any]) -> None:
    loaded = _loaded(minilm)
    assert loaded.card.max_tokens == 256  # sentence_bert_config.json; its positions would reach to 512
    assert max(map(len, loaded.encoder.texts(expected["texts"]))) == 256
    assert loaded.width == 384


@pytest.mark.parametrize("name", EMBEDDERS)
def test_every_family_and_way_of_pooling(name: str, tiny: Callable[[str], Path], expected: dict[str, Any]) -> None:
    _, vectors = _run(
        tiny(name), lambda loaded: loaded.encoder.texts([loaded.card.prompt + text for text in expected["texts"]])
    )
    assert np.abs(vectors - np.array(expected["models"][name])).max() < TINY


@pytest.mark.parametrize("name", RERANKERS)
def test_rerankers(name: str, tiny: Callable[[str], Path], expected: dict[str, Any]) -> None:
    pairs = [(expected["query"], text) for text in expected["texts"]]
    loaded, logits = _run(tiny(name), lambda loaded: loaded.encoder.pairs(pairs))
    scores = activate(logits[:, 0], loaded.card.activation)
    assert np.abs(scores - np.array(expected["models"][name])).max() < TINY


@pytest.mark.parametrize("name", ["classifier", "topics"])
def test_classifiers(name: str, tiny: Callable[[str], Path], expected: dict[str, Any]) -> None:
    loaded, logits = _run(tiny(name), lambda loaded: loaded.encoder.texts(expected["texts"]))
    scores = activate(logits, loaded.card.activation)
    wanted = [[row[label] for label in loaded.card.labels] for row in expected["models"][name]]
    assert np.abs(scores - np.array(wanted)).max() < TINY


@pytest.mark.parametrize("name", ["nli", "nli-two"])
def test_natural_language_inference(name: str, tiny: Callable[[str], Path], expected: dict[str, Any]) -> None:
    pairs = list(zip(expected["premises"], expected["hypotheses"], strict=True))
    loaded, logits = _run(tiny(name), lambda loaded: loaded.encoder.pairs(pairs))
    wanted = [[row[label] for label in loaded.card.labels] for row in expected["models"][name]["nli"]]
    assert np.abs(activate(logits, "softmax") - np.array(wanted)).max() < TINY


@pytest.mark.parametrize("name", ["nli", "nli-two"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot(name: str, multi_label: bool, tiny: Callable[[str], Path], expected: dict[str, Any]) -> None:
    labels = expected["labels"]
    hypotheses = [expected["template"].replace("{}", label) for label in labels]
    pairs = [(premise, hypothesis) for premise in expected["premises"] for hypothesis in hypotheses]
    loaded, logits = _run(tiny(name), lambda loaded: loaded.encoder.pairs(pairs))
    roles = roles_of(loaded.card.labels)
    assert roles is not None
    scores = zero_shot(logits.reshape(len(expected["premises"]), len(labels), -1), roles, multi_label=multi_label)
    rows = expected["models"][name]["zero_shot_multi" if multi_label else "zero_shot"]
    assert np.abs(scores - np.array([[row[label] for label in labels] for row in rows])).max() < TINY
