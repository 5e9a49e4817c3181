"""Graphs as different exporters make them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sidecars.onnx.device import Device, parse_device
from sidecars.onnx.folder import Card
from sidecars.onnx.session import LoadError, Session
from sidecars.onnx.settings import Pool, Task
from sidecars.onnx.tokens import Tokens

BATCH = [Tokens([4, 5, 6], []), Tokens([7], [])]


def _card(path: Path, task: Task = Task.EMBED) -> Card:
    return Card(path, path, task, 8, 9, (Pool.MEAN,), False, (), "softmax", "", {}, 1, 1)


def _graph(path: Path, inputs: dict[str, int], outputs: dict[str, int]) -> Path:
    """Each output, by its name and rank: the sum of all inputs as floats, with an axis more or a sum over tokens."""
    nodes, total = [], ""
    for name in inputs:
        nodes.append(helper.make_node("Cast", [name], [f"{name}.float"], to=TensorProto.FLOAT))
        if total:
            nodes.append(helper.make_node("Add", [total, f"{name}.float"], [f"{name}.sum"]))
        total = f"{name}.sum" if total else f"{name}.float"
    for name, rank in outputs.items():
        operator = {1: "ReduceSum", 2: "Identity", 3: "Unsqueeze"}[rank]
        axes = [] if rank == 2 else ["axis"]
        nodes.append(helper.make_node(operator, [total, *axes], [name], **({"keepdims": 0} if rank == 1 else {})))
    shapes = {1: ["batch"], 2: ["batch", "sequence"], 3: ["batch", "sequence", 1]}
    graph = helper.make_graph(
        nodes, "made",
        [helper.make_tensor_value_info(name, kind, ["batch", "sequence"]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[rank]) for name, rank in outputs.items()],
        initializer=[helper.make_tensor("axis", TensorProto.INT64, [1], [2 if 3 in outputs.values() else 1])],
    )  # fmt: skip
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def _run(path: Path, task: Task = Task.EMBED) -> Sequence[Sequence[float]]:
    rows: Sequence[Sequence[float]] = Session(_card(path, task), Device("cpu"), 1).run(BATCH).tolist()
    return rows


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_hidden_states_are_pooled_whatever_the_width_of_the_ids(tmp_path: Path, kind: int) -> None:
    path = _graph(tmp_path / "m", {"input_ids": kind, "attention_mask": kind}, {"last_hidden_state": 3})
    assert _run(path) == [[(5 + 6 + 7) / 3], [8]]


def test_positions_are_fed_to_those_who_want_them(tmp_path: Path) -> None:
    inputs = dict.fromkeys(["input_ids", "position_ids", "token_type_ids"], TensorProto.INT64)
    assert _run(_graph(tmp_path / "m", inputs, {"token_embeddings": 3})) == [[(4 + 6 + 8) / 3], [7]]


def test_the_types_of_pairs_are_fed(tmp_path: Path) -> None:
    inputs = dict.fromkeys(["input_ids", "token_type_ids"], TensorProto.INT64)
    session = Session(_card(_graph(tmp_path / "m", inputs, {"logits": 2}), Task.CLASSIFY), Device("cpu"), 1)
    assert session.run([Tokens([1, 1, 1], [0, 1, 1])]).tolist() == [[1, 2, 2]]


def test_vectors_of_texts_are_taken_as_they_are(tmp_path: Path) -> None:
    """The second text is padded with the padding id of the model."""
    path = _graph(tmp_path / "m", {"input_ids": TensorProto.INT64}, {"sentence_embedding": 2})
    assert _run(path) == [[4, 5, 6], [7, 9, 9]]


def test_hidden_states_win_over_other_outputs(tmp_path: Path) -> None:
    inputs = dict.fromkeys(["input_ids"], TensorProto.INT64)
    path = _graph(tmp_path / "m", inputs, {"pooler_output": 2, "last_hidden_state": 3})
    assert _run(path) == [[5], [7]]


@pytest.mark.parametrize(
    ("inputs", "outputs", "task", "says"),
    [
        (["input_ids", "pixel_values"], {"logits": 2}, Task.CLASSIFY, "takes input_ids, pixel_values; expected"),
        (["attention_mask"], {"logits": 2}, Task.CLASSIFY, "takes attention_mask; expected input_ids"),
        (["input_ids"], {"last_hidden_state": 3}, Task.NLI, r"gives last_hidden_state \(3 axes\); expected logits"),
        (["input_ids"], {"loss": 1}, Task.EMBED, r"gives loss \(1 axes\); expected hidden states"),
    ],
)
def test_graphs_that_do_not_fit(
    tmp_path: Path, inputs: list[str], outputs: dict[str, int], task: Task, says: str
) -> None:
    path = _graph(tmp_path / "m", dict.fromkeys(inputs, TensorProto.INT64), outputs)
    with pytest.raises(LoadError, match=says):
        Session(_card(path, task), Device("cpu"), 1)


def test_ids_that_are_no_whole_numbers(tmp_path: Path) -> None:
    path = _graph(tmp_path / "m", {"input_ids": TensorProto.FLOAT}, {"logits": 2})
    with pytest.raises(LoadError, match=r"input_ids \(tensor\(float\)\)"):
        Session(_card(path, Task.CLASSIFY), Device("cpu"), 1)


@pytest.mark.parametrize(("text", "device"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:3", "cuda:3")])
def test_devices(text: str, device: str) -> None:
    assert str(parse_device(text)) == device


@pytest.mark.parametrize("text", ["", "cpu:0", "tpu", "cuda:", "cuda:x", "CUDA", "cuda:-1", "cuda:²"])
def test_devices_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected cpu, cuda or cuda:N"):
        parse_device(text)


def test_a_lone_row_is_what_it_is_among_others(tmp_path: Path) -> None:
    inputs = dict.fromkeys(["input_ids", "attention_mask"], TensorProto.INT64)
    session = Session(_card(_graph(tmp_path / "m", inputs, {"last_hidden_state": 3})), Device("cpu"), 1)
    assert np.array_equal(session.run(BATCH)[1], session.run(BATCH[1:])[0])
