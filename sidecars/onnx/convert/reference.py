"""The same encoders without a graph: what a converted model is held to. Plain, slow, one sequence at a time."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sidecars.onnx.convert.families import Shape, shape_of
from sidecars.onnx.convert.heads import HEADS, classifies
from sidecars.onnx.convert.weights import Array, Weights

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(values: Array) -> Array:
    found: Array = 0.5 * values * (1 + _erf(values / math.sqrt(2)))
    return found


def _gelu_by_tanh(values: Array) -> Array:
    inner = math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)
    found: Array = 0.5 * values * (1 + np.tanh(inner))
    return found


def _relu(values: Array) -> Array:
    found: Array = np.maximum(values, 0)
    return found


_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_by_tanh,
    "gelu_pytorch_tanh": _gelu_by_tanh,
    "relu": _relu,
}


def forward(config: Mapping[str, Any], weights: Weights, ids: Sequence[int], types: Sequence[int]) -> Array:
    """What the model gives for one sequence: hidden states (tokens, hidden), or logits (labels,)."""
    shape = shape_of(config)
    family = shape.family
    bare = family.prefix + family.embeddings + "word_embeddings.weight" not in weights
    model = _Reference(shape, weights, "" if bare else family.prefix)
    states = model.states(ids, types)
    if not classifies(config):
        return states
    inner, activation, outer = HEADS[config["architectures"][0]]
    wide = _linear(weights, inner.format(family.prefix), states[0])
    return _linear(weights, outer, np.tanh(wide) if activation == "Tanh" else _relu(wide))


class _Reference:
    def __init__(self, shape: Shape, weights: Weights, prefix: str) -> None:
        self._shape = shape
        self._weights = weights
        self._prefix = prefix

    def states(self, ids: Sequence[int], types: Sequence[int]) -> Array:
        shape, base = self._shape, self._prefix + self._shape.family.embeddings
        first = shape.padding + 1 if shape.family.counts_positions else 0
        states = self._weights.look(base + "word_embeddings.weight", ids)
        states = states + self._weights.look(base + "position_embeddings.weight", range(first, first + len(ids)))
        if shape.types:
            rows = types if shape.types > 1 and types else [0] * len(ids)
            states = states + self._weights.look(base + "token_type_embeddings.weight", rows)
        states = self._norm(shape.family.embeddings + "LayerNorm", states)
        for layer in range(shape.layers):
            states = self._layer(states, layer)
        return states

    def _layer(self, states: Array, layer: int) -> Array:
        family, heads = self._shape.family, self._shape.heads
        size = self._shape.hidden // heads
        query, key, value = (
            self._part(name.format(layer), states).reshape(-1, heads, size).transpose(1, 0, 2)
            for name in (family.query, family.key, family.value)
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(size)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        joined = (shares @ value).transpose(1, 0, 2).reshape(len(states), -1)
        attended = self._part(family.attention_out.format(layer), joined) + states
        attended = self._norm(family.attention_norm.format(layer), attended)
        wide = _ACTIVATIONS[self._shape.activation](self._part(family.widen.format(layer), attended))
        return self._norm(family.norm.format(layer), self._part(family.narrow.format(layer), wide) + attended)

    def _part(self, name: str, values: Array) -> Array:
        return _linear(self._weights, self._prefix + name, values)

    def _norm(self, name: str, values: Array) -> Array:
        centred = values - values.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._shape.epsilon)
        look = self._weights.look
        found: Array = centred / spread * look(f"{self._prefix}{name}.weight") + look(f"{self._prefix}{name}.bias")
        return found


def _linear(weights: Weights, name: str, values: Array) -> Array:
    found: Array = values @ weights.look(f"{name}.weight").T + weights.look(f"{name}.bias")
    return found
