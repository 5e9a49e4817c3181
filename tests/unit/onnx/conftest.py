"""Model folders for the tests of the ONNX service: tiny ones made here, and the real one that `make models` makes."""

import fcntl
import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sidecars.onnx.convert import convert
from tests.support.tiny_models import MODELS, make

ROOT = Path(__file__).resolve().parents[3]
MINILM = "all-minilm-l6-v2"


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
def minilm() -> Path:
    """The real model; made where `make test` has not."""
    folder = ROOT / "models" / MINILM
    if not (folder / "converted.json").is_file():
        (ROOT / "build").mkdir(exist_ok=True)
        with (ROOT / "build" / "models.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one of the processes that test makes it
            subprocess.run(["make", "models"], cwd=ROOT, check=True, capture_output=True)
    return folder
