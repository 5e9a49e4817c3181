"""Heads that classify a sequence by its first token, one for each way the families spell theirs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sidecars.onnx.convert.families import Shape
from sidecars.onnx.convert.graph import Graph
from sidecars.onnx.convert.weights import Array, ConvertError, Weights

# Architecture of config.json: the inner layer, its activation, the outer layer. `{}` is the encoder's prefix.
HEADS: Mapping[str, tuple[str, str, str]] = {
    "BertForSequenceClassification": ("{}pooler.dense", "Tanh", "classifier"),
    "RobertaForSequenceClassification": ("classifier.dense", "Tanh", "classifier.out_proj"),
    "XLMRobertaForSequenceClassification": ("classifier.dense", "Tanh", "classifier.out_proj"),
    "CamembertForSequenceClassification": ("classifier.dense", "Tanh", "classifier.out_proj"),
    "DistilBertForSequenceClassification": ("pre_classifier", "Relu", "classifier"),
}


def labels_of(config: Mapping[str, Any]) -> int:
    """How many logits a classifier has: transformers' default is two."""
    return len(config.get("id2label") or {}) or int(config.get("num_labels", 2))


def classifies(config: Mapping[str, Any]) -> bool:
    """Whether the model has a head that classifies. Raises ConvertError for any other head."""
    (architecture,) = config.get("architectures") or ("Model",)
    if architecture in HEADS:
        return True
    # Heads of pre-training are no part of what an encoder gives.
    if architecture.endswith(("Model", "ForMaskedLM", "ForPreTraining")):
        return False
    raise ConvertError(
        f"config.json has the architecture '{architecture}'; heads that can be converted: {', '.join(HEADS)}"
    )


def classify(graph: Graph, states: str, shape: Shape, config: Mapping[str, Any], weights: Weights) -> str:
    """The logits, (batch, labels), of the encoder's hidden states."""
    inner, activation, outer = HEADS[config["architectures"][0]]
    inner = inner.format(shape.family.prefix)
    first = graph.add("Gather", states, graph.constant("first", 0), axis=1)
    dense = graph.linear(first, inner, *_linear(weights, inner, shape.hidden, shape.hidden))
    active = graph.add(activation, dense)
    return graph.linear(active, outer, *_linear(weights, outer, shape.hidden, labels_of(config)))


def _linear(weights: Weights, name: str, inner: int, outer: int) -> tuple[Array, Array]:
    weight = weights.take(f"{name}.weight", outer, inner)
    return np.ascontiguousarray(weight.T), weights.take(f"{name}.bias", outer)
