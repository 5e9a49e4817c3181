"""Quantization: how little is lost, what is refused, what is left behind. Speed is for `make bench`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sidecars.onnx.device import parse_device
from sidecars.onnx.folder import read_card
from sidecars.onnx.quantize import Limits, PoorQualityError, QuantizeError, Report, quantize
from sidecars.onnx.quantize.quality import ScoreQuality, VectorQuality, compare_scores, compare_vectors
from sidecars.onnx.quantize.rewrite import activations, rewrite
from sidecars.onnx.session import Session
from sidecars.onnx.settings import ModelSettings, Task
from sidecars.onnx.tokens import Tokens
from tests.support.broken_models import with_nan
from tests.support.onnx_service import ROOT

Folder = Callable[[str], Path]
ANY = Limits(0, 0)


def _quantize(folder: Path, destination: Path, limits: Limits = ANY, **more: Any) -> Report:
    return quantize(folder, destination, limits, threads=1, **more)


def _session(folder: Path) -> Session:
    return Session(read_card(ModelSettings(folder)), parse_device("cpu"), 1)


@pytest.fixture(scope="module")
def minilm_int8(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("int8") / "minilm"
    return folder, _quantize(minilm, folder, Limits(0.99, 1))


def test_a_real_model_loses_little_and_is_a_quarter_of_its_size(minilm_int8: tuple[Path, Report]) -> None:
    folder, report = minilm_int8
    assert isinstance(report.quality, VectorQuality)
    assert report.quality.cosine_mean > 0.998
    assert report.quality.cosine_min > 0.995
    assert report.quality.nearest_kept > 0.95
    assert report.quality.rank_correlation > 0.995
    assert report.bytes.after < 0.27 * report.bytes.before
    assert (report.products, report.tables, report.left) == (24, 1, 0)
    assert json.loads((folder / "quantized.json").read_text()) == json.loads(json.dumps(report.view()))


def test_what_becomes_of_a_text_does_not_depend_on_its_neighbours(minilm_int8: tuple[Path, Report]) -> None:
    session = _session(minilm_int8[0])
    short, long = Tokens([101, 7592, 2088, 102], []), Tokens([101, *range(2000, 2060), 102], [])
    alone, together = session.run([short]), session.run([short, long, long])
    assert np.abs(alone[0] - together[0]).max() < 1e-5


@pytest.mark.parametrize("name", ["mean", "cls", "prompted", "reranker", "classifier", "topics", "nli"])
def test_every_family_and_task(name: str, tiny: Folder, tmp_path: Path) -> None:
    report = _quantize(tiny(name), tmp_path / "made")
    if report.task is Task.EMBED:
        assert isinstance(report.quality, VectorQuality)
        assert report.quality.cosine_min > 0.99
    else:
        assert isinstance(report.quality, ScoreQuality)
        assert report.quality.agreement > 0.9
        assert 0 < report.quality.difference_mean < report.quality.difference_max < 0.1
    before, after = (read_card(ModelSettings(folder)) for folder in (tiny(name), tmp_path / "made"))
    assert (before.task, before.pooling, before.labels) == (after.task, after.pooling, after.labels)


def test_seven_bits_lose_more_than_eight(tiny: Folder, tmp_path: Path) -> None:
    eight = _quantize(tiny("mean"), tmp_path / "eight").quality
    seven = _quantize(tiny("mean"), tmp_path / "seven", reduce_range=True).quality
    assert isinstance(eight, VectorQuality)
    assert isinstance(seven, VectorQuality)
    assert seven.cosine_mean < eight.cosine_mean
    (weights,) = (
        numpy_helper.to_array(each)
        for each in onnx.load(tmp_path / "seven" / "model.onnx").graph.initializer
        if each.name == "layer.0.qkv.weight.int8"
    )
    assert (weights.min(), weights.max()) == (-63, 63)


def test_too_great_a_loss_leaves_nothing(tiny: Folder, tmp_path: Path) -> None:
    with pytest.raises(PoorQualityError, match=r"the least cosine is 0\.99\d\d; 1.0 is asked for") as caught:
        _quantize(tiny("mean"), tmp_path / "made", Limits(1.0, 0))
    assert isinstance(caught.value.report.quality, VectorQuality)
    assert list(tmp_path.iterdir()) == []


def test_own_texts(tiny: Folder, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"the cat {i}\n" for i in range(30)))
    report = _quantize(tiny("mean"), tmp_path / "made", texts=texts)
    assert (report.texts, report.source) == (15, str(texts))
    texts.write_text("the cat\n" * 30)
    with pytest.raises(QuantizeError, match="has 1 different texts; expected 20 at least"):
        _quantize(tiny("mean"), tmp_path / "other", texts=texts)
    texts.write_text("".join(f"the cat {i}\n" for i in range(30)))
    with pytest.raises(QuantizeError, match="every line is two texts with a tab between; not 'the cat 0'"):
        _quantize(tiny("nli"), tmp_path / "other", texts=texts)


def test_a_model_that_generates_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "writer").mkdir()
    (tmp_path / "writer" / "genai_config.json").write_text("{}")
    with pytest.raises(QuantizeError, match="generates text"):
        _quantize(tmp_path / "writer", tmp_path / "made")


def test_what_exists_is_left_alone(tiny: Folder, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(QuantizeError, match="exists: remove it or choose another place"):
        _quantize(tiny("mean"), tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "model.onnx").unlink(), "has no ONNX file"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"no model"), "cannot be read"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_bad_folder(spoil: Callable[[Path], Any], words: str, tiny: Folder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("mean"), tmp_path / "bad"))
    spoil(folder)
    with pytest.raises(QuantizeError, match=words):
        _quantize(folder, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] in (["bad"], [])


def test_a_model_of_no_numbers(tiny_source: Folder, tmp_path: Path) -> None:
    folder = with_nan(tiny_source("mean"), tmp_path / "nan")
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"boring {i}\n" for i in range(30)))
    with pytest.raises(QuantizeError, match="no number"):
        _quantize(folder, tmp_path / "made", texts=texts)


def test_what_is_quantized_is_not_quantized_again(tiny: Folder, tmp_path: Path) -> None:
    _quantize(tiny("mean"), tmp_path / "once")
    with pytest.raises(QuantizeError, match="no products with float32 weights"):
        _quantize(tmp_path / "once", tmp_path / "twice")


def test_weights_beside_the_file(tiny: Folder, tmp_path: Path) -> None:
    _quantize(tiny("mean"), tmp_path / "whole")
    _quantize(tiny("mean"), tmp_path / "apart", inline_bytes=0)
    assert (tmp_path / "apart" / "model.onnx_data").stat().st_size > 0
    tokens = [Tokens([2, 30, 31, 3], [])]
    assert np.array_equal(_session(tmp_path / "whole").run(tokens), _session(tmp_path / "apart").run(tokens))
    shutil.move(tmp_path / "apart", tmp_path / "moved")
    _session(tmp_path / "moved")


def test_a_kill_leaves_no_folder(minilm: Path, tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGKILL)
    command = [sys.executable, "-c", "from controlplane.cli.main import run; run()", "models", "quantize", str(minilm)]
    places = [tmp_path / number.name for number in numbers]
    quiet = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([*command, str(place / "made")], **quiet) for place in places]
    try:
        deadline = time.monotonic() + 120
        left = list(zip(processes, places, numbers, strict=True))
        while left:
            for each in left:
                process, place, number = each
                assert process.poll() is None
                assert time.monotonic() < deadline
                if list(place.glob(".made-*/new/model.onnx")):
                    os.kill(process.pid, number)
                    left.remove(each)
                    break
            time.sleep(0.01)
        for process in processes:
            process.wait(60)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM, -signal.SIGKILL]
    assert list(places[0].iterdir()) == []
    assert not (places[1] / "made").exists()


def _product(opset: int, rows: Any) -> tuple[onnx.ModelProto, Any]:
    """A model of one product, and what it gives for `rows`."""
    weights = np.random.RandomState(1).standard_normal((rows.shape[1], 24)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", rows.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 24])],
        initializer=[numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model, rows @ weights


@pytest.mark.parametrize("opset", [11, 13, 18, 20])
def test_rows_keep_their_own_scale(opset: int) -> None:
    import onnxruntime as ort

    rows = np.random.RandomState(2).standard_normal((4, 64)).astype(np.float32)
    rows *= np.array([[1e-6], [1], [1e6], [0]], np.float32)
    model, expected = _product(opset, rows)
    (name,) = activations(model)
    made = rewrite(model, {name: np.ones(64, np.float32)}).model
    (found,) = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": rows})
    size = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(found - expected) <= 0.05 * size).all()
    assert (found[3] == 0).all()


def test_layers_may_share_their_weights() -> None:
    import onnxruntime as ort

    random = np.random.RandomState(5)
    rows = (random.standard_normal((6, 32)) * np.geomspace(0.1, 30, 32)).astype(np.float32)
    weights = random.standard_normal((32, 32)).astype(np.float32)
    model, _ = _product(20, rows)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    model.graph.node.insert(0, helper.make_node("MatMul", ["x", "w"], ["between"]))
    model.graph.node[1].input[0] = "between"
    peaks = {"x": np.abs(rows).max(axis=0), "between": np.abs(rows @ weights).max(axis=0)}
    assert activations(model) == list(peaks)
    made = rewrite(model, peaks).model
    assert [each.name for each in made.graph.initializer if each.name.endswith(".int8")] == ["w.int8"]
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = rows @ weights @ weights
    assert np.abs(session.run(None, {"x": rows})[0] - expected).max() < 0.03 * np.abs(expected).max()


def test_constants_may_be_nodes() -> None:
    model, _ = _product(20, np.ones((1, 32), np.float32))
    weights = model.graph.initializer.pop()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weights))
    assert activations(model) == ["x"]
    made = rewrite(model, {"x": np.ones(32, np.float32)})
    assert (made.products, [node.op_type for node in made.model.graph.node].count("MatMulIntegerToFloat")) == (1, 1)


def test_weights_of_no_numbers_are_refused() -> None:
    model, _ = _product(20, np.ones((1, 32), np.float32))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((32, 24), np.nan, np.float32), "w"))
    with pytest.raises(QuantizeError, match="'w' hold what is no number"):
        rewrite(model, {"x": np.ones(32, np.float32)})


def test_an_old_graph_is_refused() -> None:
    with pytest.raises(QuantizeError, match="opset 10; expected 11 or newer"):
        activations(_product(10, np.ones((1, 32), np.float32))[0])


def test_quality_of_the_same_and_of_the_opposite() -> None:
    random = np.random.RandomState(3)
    rows = random.standard_normal((30, 8)).astype(np.float32)
    same = compare_vectors(rows, 2 * rows)
    assert same == VectorQuality(pytest.approx(1), pytest.approx(1), 1, pytest.approx(1))
    other = compare_vectors(rows, np.concatenate([rows[:-1], -rows[-1:]]))
    assert other.cosine_min == pytest.approx(-1)
    assert other.cosine_mean == pytest.approx(28 / 30)
    assert other.nearest_kept < 1
    assert other.rank_correlation < 1
    logits = np.array([[2, 0], [0, 2]], np.float32)
    assert compare_scores(logits, logits, Task.CLASSIFY, "softmax") == ScoreQuality(0, 0, 1)
    assert compare_scores(logits, logits[::-1], Task.CLASSIFY, "softmax").agreement == 0
    scores = np.array([[0], [1], [2]], np.float32)
    assert compare_scores(scores, scores[[0, 2, 1]], Task.RERANK, "identity").agreement == pytest.approx(2 / 3)
