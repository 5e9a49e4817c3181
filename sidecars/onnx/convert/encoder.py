"""The encoder's graph: from token ids to the hidden states of the last layer."""

import math

import numpy as np

from sidecars.onnx.convert.families import ACTIVATIONS, Shape
from sidecars.onnx.convert.graph import Graph
from sidecars.onnx.convert.weights import Array, Weights


class Encoder:
    """Adds an encoder of a shape to a graph, with the weights under `prefix`."""

    def __init__(self, graph: Graph, shape: Shape, weights: Weights, prefix: str) -> None:
        self._graph = graph
        self._shape = shape
        self._weights = weights
        self._prefix = prefix

    def build(self) -> str:
        """The hidden states: (batch, sequence, hidden)."""
        graph, shape = self._graph, self._shape
        ids, mask = graph.input("input_ids"), graph.input("attention_mask")
        types = graph.input("token_type_ids") if shape.types > 1 else None
        states = self._embed(ids, types)
        bias = self._bias(mask)
        for layer in range(shape.layers):
            states = self._attend(states, bias, layer)
            states = self._feed(states, layer)
        return states

    def _embed(self, ids: str, types: str | None) -> str:
        graph, shape, base = self._graph, self._shape, self._shape.family.embeddings
        words = self._table(base + "word_embeddings.weight", shape.vocabulary)
        states = graph.add("Gather", words, ids)
        states = graph.add("Add", states, self._positions(ids))
        if shape.types:
            table = self._table(base + "token_type_embeddings.weight", shape.types)
            rows = graph.add("Gather", table, types or graph.constant("first_type", [0]))
            states = graph.add("Add", states, rows)
        return self._norm(states, base + "LayerNorm")

    def _positions(self, ids: str) -> str:
        """Their embeddings: (sequence, hidden), or (batch, sequence, hidden) where padding is not counted."""
        graph, shape = self._graph, self._shape
        table = self._table(shape.family.embeddings + "position_embeddings.weight", shape.positions)
        if not shape.family.counts_positions:
            zero = graph.constant("zero", [0])
            length = graph.add("Shape", ids, start=1, end=2)
            return graph.add("Slice", table, zero, length, zero)
        padding = graph.constant("padding", [shape.padding])
        real = graph.add("Cast", graph.add("Not", graph.add("Equal", ids, padding)), to=7)  # 7: int64
        count = graph.add("CumSum", real, graph.constant("axis", 1))
        return graph.add("Gather", table, graph.add("Add", graph.add("Mul", count, real), padding), axis=0)

    def _bias(self, mask: str) -> str:
        """What is added to attention scores, (batch, 1, 1, sequence): 0 where a token is, else the lowest float."""
        graph = self._graph
        wide = graph.add("Unsqueeze", mask, graph.constant("middle", [1, 2]))
        absent = graph.add("Sub", graph.constant("full", [1.0]), graph.add("Cast", wide, to=1))  # 1: float
        return graph.add("Mul", absent, graph.constant("lowest", [float(np.finfo(np.float32).min)]))

    def _attend(self, states: str, bias: str, layer: int) -> str:
        graph, shape, family = self._graph, self._shape, self._shape.family
        size = shape.hidden // shape.heads
        # One multiplication for all three, the scale of the scores folded into the queries.
        parts = [self._linear(name.format(layer), shape.hidden, shape.hidden) for name in _projections(shape)]
        scale = np.float32(1 / math.sqrt(size))
        parts[0] = (parts[0][0] * scale, parts[0][1] * scale)
        weight, offset = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        packed = graph.linear(states, f"layer.{layer}.qkv", weight, offset)
        apart = graph.add("Reshape", packed, graph.constant("heads", [0, 0, 3, shape.heads, size]))
        query, key, value = (
            graph.add("Gather", apart, graph.constant(f"part_{i}", i), axis=2) for i in range(3)
        )  # each (batch, sequence, heads, size)
        query = graph.add("Transpose", query, perm=[0, 2, 1, 3])
        key = graph.add("Transpose", key, perm=[0, 2, 3, 1])
        value = graph.add("Transpose", value, perm=[0, 2, 1, 3])
        scores = graph.add("Softmax", graph.add("Add", graph.add("MatMul", query, key), bias), axis=-1)
        heads = graph.add("Transpose", graph.add("MatMul", scores, value), perm=[0, 2, 1, 3])
        joined = graph.add("Reshape", heads, graph.constant("joined", [0, 0, shape.hidden]))
        name = family.attention_out.format(layer)
        out = graph.linear(joined, name, *self._linear(name, shape.hidden, shape.hidden))
        return self._norm(graph.add("Add", out, states), family.attention_norm.format(layer))

    def _feed(self, states: str, layer: int) -> str:
        graph, shape, family = self._graph, self._shape, self._shape.family
        operator, attributes = ACTIVATIONS[shape.activation]
        widen, narrow = family.widen.format(layer), family.narrow.format(layer)
        wide = graph.linear(states, widen, *self._linear(widen, shape.hidden, shape.wide))
        out = graph.linear(
            graph.add(operator, wide, **attributes), narrow, *self._linear(narrow, shape.wide, shape.hidden)
        )
        return self._norm(graph.add("Add", out, states), family.norm.format(layer))

    def _table(self, name: str, rows: int) -> str:
        return self._graph.constant(name, self._weights.take(self._prefix + name, rows, self._shape.hidden))

    def _linear(self, name: str, inner: int, outer: int) -> tuple[Array, Array]:
        """Weight and bias; the weight is stored (out, in) and used (in, out)."""
        weight = self._weights.take(f"{self._prefix}{name}.weight", outer, inner)
        return np.ascontiguousarray(weight.T), self._weights.take(f"{self._prefix}{name}.bias", outer)

    def _norm(self, states: str, name: str) -> str:
        weight, bias = (
            self._graph.constant(
                f"{name}.{part}", self._weights.take(f"{self._prefix}{name}.{part}", self._shape.hidden)
            )
            for part in ("weight", "bias")
        )
        return self._graph.add("LayerNormalization", states, weight, bias, epsilon=self._shape.epsilon)


def _projections(shape: Shape) -> tuple[str, str, str]:
    return shape.family.query, shape.family.key, shape.family.value
