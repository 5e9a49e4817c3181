"""Model folders with something wrong, each in its own way."""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from sidecars.onnx.convert import convert
from tests.support.tiny_decoder import graph, make_decoder, make_tokenizer, weights

WORD = "boring"  # in the vocabulary of tiny models


def with_nan(source: Path, folder: Path) -> Path:
    """Gives what is no number for every text with `WORD`."""
    changed = folder.with_name(folder.name + "-source")
    shutil.copytree(source, changed)
    weights = load_file(changed / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][_id(source)] = np.nan
    save_file(weights, changed / "model.safetensors", {"format": "pt"})
    return convert(changed, folder).folder


def without_memory(model: Path, folder: Path) -> Path:
    """Asks for a petabyte for every text with `WORD`, or with a word behind it in the vocabulary."""
    shutil.copytree(model, folder)
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    result = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", 1])
    values = {
        "limit": [_id(model) - 1],
        "one": [1],
        "zero": [0],
        "much": [10**15],
        "axis": [2],
        "to": [TensorProto.FLOAT],
    }
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [len(value)], value)
        for name, value in values.items()
        if name != "to"
    ]
    nodes = [
        helper.make_node("ReduceMax", ["input_ids"], ["largest"], keepdims=0),
        helper.make_node("Sub", ["largest", "limit"], ["beyond"]),
        helper.make_node("Clip", ["beyond", "", ""], ["free"]),
        helper.make_node("Max", ["free", "zero"], ["above"]),
        helper.make_node("Min", ["above", "one"], ["whether"]),
        helper.make_node("Mul", ["whether", "much"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["space"]),
        helper.make_node("ReduceSum", ["space"], ["nothing"], keepdims=0),
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["numbers", "nothing"], ["same"]),
        helper.make_node("Unsqueeze", ["same", "axis"], ["last_hidden_state"]),
    ]
    graph = helper.make_graph(nodes, "much", [ids], [result], initializer=constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(made, folder / "model.onnx")
    return folder


def _id(folder: Path) -> int:
    found = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(WORD)
    assert found is not None
    return found


def decoder_with_nan(folder: Path, token: int) -> Path:
    """Gives what is no number once it is fed `token`."""
    make_decoder(folder)
    changed = dict(weights(make_tokenizer().get_vocab_size(), 1))
    changed["model.embed_tokens.weight"][token] = np.nan
    onnx.save_model(graph(changed), folder / "model.onnx")
    return folder


def decoder_without_memory(folder: Path, token: int) -> Path:
    """Asks for a petabyte once it is fed `token`."""
    make_decoder(folder)
    model = onnx.load(folder / "model.onnx")
    made = model.graph
    output = next(node for node in made.node if node.output[0] == "logits")
    output.output[0] = "real"
    for name, value in {"bad": [token], "much": [10**15]}.items():
        made.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], value))
    made.node.extend([
        helper.make_node("Equal", ["input_ids", "bad"], ["same"]),
        helper.make_node("Cast", ["same"], ["numbers"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["numbers"], ["whether"], keepdims=0),
        helper.make_node("Mul", ["whether", "much"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["space"]),
        helper.make_node("ReduceSum", ["space"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["real", "nothing"], ["logits"]),
    ])  # fmt: skip
    onnx.save_model(model, folder / "model.onnx")
    return folder
