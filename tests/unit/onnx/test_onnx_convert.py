"""Conversion: what it refuses, what it keeps, when it does nothing. The numbers are in `test_onnx_numbers.py`."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sidecars.onnx.convert import ConvertError, convert
from sidecars.onnx.convert.verify import Verified, verify
from sidecars.onnx.convert.weights import read
from sidecars.onnx.device import parse_device
from sidecars.onnx.folder import read_card
from sidecars.onnx.session import Session
from sidecars.onnx.settings import ModelSettings
from sidecars.onnx.tokens import Tokens
from tests.support.onnx_service import ROOT
from tests.support.tiny_models import HIDDEN, MODELS

Folder = Callable[[str], Path]


@pytest.fixture
def source(tiny_source: Folder, tmp_path: Path) -> Path:
    """A folder that the test may change."""
    return Path(shutil.copytree(tiny_source("mean"), tmp_path / "source"))


def _edit(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def _vector(folder: Path) -> Any:
    card = read_card(ModelSettings(folder))
    return Session(card, parse_device("cpu"), 1).run([Tokens([2, 30, 31, 3], [])])


def test_the_same_source_is_converted_once(source: Path, tmp_path: Path) -> None:
    first = convert(source, tmp_path / "made")
    stamp = (tmp_path / "made" / "model.onnx").stat().st_mtime_ns
    again = convert(source, tmp_path / "made")
    assert (first.cached, again.cached) == (False, True)
    assert (tmp_path / "made" / "model.onnx").stat().st_mtime_ns == stamp
    assert first.unused == again.unused == ("pooler.dense.bias", "pooler.dense.weight")
    stored = sum(tensor.size for tensor in load_file(source / "model.safetensors").values())
    assert first.parameters == again.parameters == stored - HIDDEN * (HIDDEN + 1)


@pytest.mark.parametrize("changed", ["model.safetensors", "tokenizer.json", "1_Pooling/config.json"])
def test_a_changed_source_is_converted_again(source: Path, tmp_path: Path, changed: str) -> None:
    convert(source, tmp_path / "made")
    if changed == "model.safetensors":
        weights = load_file(source / changed)
        weights["embeddings.LayerNorm.bias"] += 1
        save_file(weights, source / changed)
    else:
        (source / changed).write_text((source / changed).read_text() + "\n")
    assert not convert(source, tmp_path / "made").cached
    assert convert(source, tmp_path / "made").cached
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_was_not_made_by_a_conversion_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("mine")
    with pytest.raises(ConvertError, match="was not made by a conversion"):
        convert(source, tmp_path / "made")
    assert (tmp_path / "made" / "mine.txt").read_text() == "mine"


def test_a_failure_leaves_what_was_there(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "made")
    before = (tmp_path / "made" / "model.onnx").read_bytes()
    _edit(source, hidden_size=40)
    with pytest.raises(ConvertError):
        convert(source, tmp_path / "made")
    assert (tmp_path / "made" / "model.onnx").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source"]


def test_large_weights_lie_beside_the_graph(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "inside")
    convert(source, tmp_path / "outside", inline_bytes=1000)
    assert (tmp_path / "outside" / "model.onnx_data").stat().st_size > 50_000
    assert (tmp_path / "outside" / "model.onnx").stat().st_size < 50_000
    assert _vector(tmp_path / "outside").tolist() == _vector(tmp_path / "inside").tolist()
    inside, outside = (read_card(ModelSettings(tmp_path / name)).weight_bytes for name in ("inside", "outside"))
    assert outside == pytest.approx(inside, rel=0.2)


def test_weights_in_several_files(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "one")
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    halves = {"a.safetensors": list(weights)[::2], "b.safetensors": list(weights)[1::2]}
    for file, names in halves.items():
        save_file({name: weights[name] for name in names}, source / file)
    index = {name: file for file, names in halves.items() for name in names}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    convert(source, tmp_path / "two")
    assert _vector(tmp_path / "two").tolist() == _vector(tmp_path / "one").tolist()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_are_widened(source: Path, tmp_path: Path, dtype: Any) -> None:
    convert(source, tmp_path / "whole")
    weights = load_file(source / "model.safetensors")
    save_file({name: value.astype(dtype) for name, value in weights.items()}, source / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    assert read(source).take(name, *weights[name].shape).dtype == np.float32
    convert(source, tmp_path / "half")
    assert _vector(tmp_path / "half") == pytest.approx(_vector(tmp_path / "whole"), abs=0.05)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model_type": "t5"}, "has the model_type 't5'; can be converted: bert, roberta"),
        ({"hidden_act": "silu"}, "activation 'silu' is not known; known: gelu"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' are not built"),
        ({"is_decoder": True}, "decoder"),
        ({"num_attention_heads": 5}, "does not divide by 5 heads"),
        ({"intermediate_size": None}, "has no 'intermediate_size'"),
        ({"vocab_size": 9}, "'embeddings.word_embeddings.weight' has the shape"),
        ({"num_hidden_layers": 3}, "have no 'encoder.layer.2.attention.self.query.weight'"),
        ({"architectures": ["BertForQuestionAnswering"]}, "heads that can be converted: Bert"),
    ],
)
def test_what_it_cannot_build_it_refuses(source: Path, tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    _edit(source, **fields)
    with pytest.raises(ConvertError, match=says):
        convert(source, tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_agrees_with_the_plain_computation(name: str, tiny_source: Folder, tmp_path: Path) -> None:
    seen: list[Verified] = []
    convert(tiny_source(name), tmp_path / "made", check=lambda *new: seen.append(verify(*new)))
    assert 0 < seen[0].difference < 1e-5


def test_halves_agree_with_the_plain_computation(source: Path, tmp_path: Path) -> None:
    weights = load_file(source / "model.safetensors")
    halves = {name: value.astype(ml_dtypes.bfloat16) for name, value in weights.items()}
    save_file(halves, source / "model.safetensors")
    seen: list[Verified] = []
    convert(source, tmp_path / "made", check=lambda *new: seen.append(verify(*new)))
    assert seen[0].difference < 1e-5


def test_what_could_not_be_served_is_not_kept(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").unlink()
    with pytest.raises(ConvertError, match=r"cannot be served: its folder has no tokenizer\.json"):
        convert(source, tmp_path / "made", check=verify)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_folders_that_hold_no_model(source: Path, tmp_path: Path) -> None:
    (source / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConvertError, match="cannot be read"):
        convert(source, tmp_path / "made")
    (source / "model.safetensors").unlink()
    with pytest.raises(ConvertError, match=r"no model\.safetensors"):
        convert(source, tmp_path / "made")
    with pytest.raises(ConvertError, match=r"no config\.json"):
        convert(tmp_path, tmp_path / "made")


def test_the_command(source: Path, tmp_path: Path) -> None:
    def call(*arguments: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sidecars.onnx.convert", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    first, second = call(source, tmp_path / "made"), call(source, tmp_path / "made")
    assert (first.returncode, second.returncode) == (0, 0)
    assert (first.stdout.split(":")[0], second.stdout.split(":")[0]) == ("converted", "unchanged")
    assert "pooler.dense.weight" in first.stderr
    failed = call(tmp_path, tmp_path / "other")
    assert failed.returncode == 1
    assert failed.stderr.startswith("convert: ")
