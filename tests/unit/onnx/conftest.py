"""Model folders for the tests of the ONNX service: tiny ones made here, and the real one that `make models` makes."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sidecars.onnx.convert import convert
from tests.support.minilm import minilm_folder
from tests.support.tiny_decoder import make_decoder
from tests.support.tiny_models import MODELS, make


@pytest.fixture(scope="session")
def expected() -> dict[str, Any]:
    """What `reference.py` was told by Hugging Face's libraries."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("expected.json").read_text())
    return found


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model of `MODELS` as Hugging Face's libraries save it."""
    scratch = tmp_path_factory.mktemp("sources")
    return cache(lambda name: make(MODELS[name], scratch / name))


@pytest.fixture(scope="session")
def tiny(tiny_source: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The same, converted. Not to be changed: tests that change one copy it."""
    scratch = tmp_path_factory.mktemp("models")
    return cache(lambda name: convert(tiny_source(name), scratch / name).folder)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that generates. Not to be changed either."""
    return make_decoder(tmp_path_factory.mktemp("decoders") / "decoder")


@pytest.fixture(scope="session")
def expected_text() -> dict[str, Any]:
    """What `reference_generate.py` was told by transformers."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("expected_generate.json").read_text())
    return found


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real model; made where `make test` has not."""
    return minilm_folder()
