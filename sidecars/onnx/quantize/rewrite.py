"""The rewritten graph: int8 in place of float32 where the work is, the rest as it was.

A product of activations with weights, `x W`, becomes a product of whole numbers:

- The columns of W have a scale each, their largest number over 127.
- The rows of x, which are tokens, have a scale each, found while the model runs. So what becomes of a text does not
  depend on what it is batched with, and nothing is ever cut off.
- The channels of x are evened out before, and W takes up the difference: x diag(1/s) diag(s) W (SmoothQuant, Xiao
  2022). In most encoders a few channels are many times larger than the others, and would take all the digits.

Tables of embeddings become int8 with a scale for each row, which is for size alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]

_OLDEST_OPSET = 11
_AXES_INPUT = 18  # the first opset in which ReduceMax takes its axes as an input
_MICROSOFT = "com.microsoft"
_NARROWEST = 16  # columns: narrower products cost nothing, and decide much, as those that make the labels
_SHORTEST_TABLE = 1024  # rows: smaller tables are not worth it
_ZERO = 128  # of activations: the CPU multiplies unsigned by signed numbers
_LARGEST, _LARGEST_REDUCED = 127, 63
_SMOOTHING = 0.5  # how much of the unevenness goes from the activations to the weights
_TINY = 1e-30  # what stands for a peak of zero


class QuantizeError(Exception):
    """A model that cannot be quantized; the text says why, and what would be accepted."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """`products`, `tables`: how many were made int8. `left`: how many products with weights were not."""

    model: onnx.ModelProto
    products: int
    tables: int
    left: int


def activations(model: onnx.ModelProto) -> list[str]:
    """The tensors that are multiplied with weights that can be made int8. Raises QuantizeError.

    Constants that the graph makes by a node are moved to its initializers.
    """
    _gather_constants(model.graph)
    opset = _opset(model)
    if opset < _OLDEST_OPSET:
        raise QuantizeError(f"the graph is of opset {opset}; expected {_OLDEST_OPSET} or newer: export the model again")
    found = dict.fromkeys(node.input[0] for node in _products(model))
    if not found:
        raise QuantizeError(
            "the graph has no products with float32 weights (MatMul); expected a model as exporters make it, in "
            "float32, neither quantized nor fused for a GPU"
        )
    return list(found)


def rewrite(model: onnx.ModelProto, peaks: Mapping[str, Array], *, reduce_range: bool = False) -> Rewritten:
    """The model in int8. Takes `model` apart. Raises QuantizeError for weights that are no numbers.

    `peaks`: the largest absolute number of each channel of every tensor that `activations` names. `reduce_range`: the
    weights take seven bits, for CPUs whose int8 instructions overflow (x86 without VNNI).
    """
    products = _products(model)
    constants = {each.name for each in model.graph.initializer}
    weighted = sum(node.op_type == "MatMul" and node.input[1] in constants for node in model.graph.node)
    made = _Rewriter(model, _all_factors(model, products, peaks), _LARGEST_REDUCED if reduce_range else _LARGEST)
    made.run({node.output[0] for node in products})
    return Rewritten(made.finish(), len(products), made.tables, weighted - len(products))


class _Rewriter:
    """One graph under reconstruction."""

    def __init__(self, model: onnx.ModelProto, factors: "Mapping[str, _Factors]", largest: int) -> None:
        self._model = model
        self._factors = factors
        self._largest = largest
        self._constants = {each.name: each for each in model.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        self._fed: dict[str, _Fed] = {}
        self._replaced: set[str] = set()
        self.tables = 0

    def run(self, products: set[str]) -> None:
        for node in self._model.graph.node:
            if node.op_type == "MatMul" and node.output[0] in products:
                self._multiply(node)
            elif node.op_type == "Gather" and self._is_table(node):
                self._look_up(node)
            else:
                self._nodes.append(node)

    def finish(self) -> onnx.ModelProto:
        graph = self._model.graph
        used = {name for node in self._nodes for name in node.input}
        kept = [each for name, each in self._constants.items() if name in used or name not in self._replaced]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(kept)
        if all(each.domain != _MICROSOFT for each in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
        return self._model

    def _multiply(self, node: onnx.NodeProto) -> None:
        value, weight = node.input
        if value not in self._fed:
            self._fed[value] = self._feed(value)
        fed = self._fed[value]
        wide = self._array(weight) * fed.smoothing[:, None]
        self._replaced.add(weight)
        scales = np.maximum(np.abs(wide).max(axis=0), _TINY) / self._largest
        numbers = np.rint(wide / scales).astype(np.int8)
        product = self._add(
            "MatMulIntegerToFloat", fed.numbers, self._constant(f"{weight}.int8", numbers), fed.unit,
            self._constant(f"{weight}.scale", scales.astype(np.float32)), fed.zero,
            self._constant(f"{weight}.zero", np.zeros(len(scales), np.int8)), domain=_MICROSOFT,
        )  # fmt: skip
        self._nodes.append(helper.make_node("Mul", [product, fed.peak], [node.output[0]], name=node.name))

    def _feed(self, value: str) -> "_Fed":
        """Activations as whole numbers, each row by its own scale; shared by all products of them."""
        factors = self._factors[value]
        even = self._add("Mul", value, self._constant(f"{factors.name}.smoothing", 1 / factors.values))
        size = self._add("Abs", even)
        if _opset(self._model) >= _AXES_INPUT:
            peak = self._add("ReduceMax", size, self._constant("int8.last_axis", np.array([-1])), keepdims=1)
        else:
            peak = self._add("ReduceMax", size, axes=[-1], keepdims=1)
        # A row of zeros is divided by zero; whatever number comes of it is multiplied with zero in the end.
        unit = self._constant("int8.unit", np.float32(1 / _LARGEST))
        zero = self._constant("int8.middle", np.uint8(_ZERO))
        numbers = self._add("QuantizeLinear", self._add("Div", even, peak), unit, zero)
        return _Fed(numbers, peak, unit, zero, factors.values)

    def _is_table(self, node: onnx.NodeProto) -> bool:
        table = self._constants.get(node.input[0])
        axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
        return axis == 0 and table is not None and _is_matrix(table) and table.dims[0] >= _SHORTEST_TABLE

    def _look_up(self, node: onnx.NodeProto) -> None:
        name, rows = node.input
        table = self._array(name)
        self._replaced.add(name)
        scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), _TINY) / _LARGEST
        numbers = self._constant(f"{name}.int8", np.rint(table / scales).astype(np.int8))
        found = self._add("Cast", self._add("Gather", numbers, rows), to=TensorProto.FLOAT)
        scale = self._add("Gather", self._constant(f"{name}.scale", scales.astype(np.float32)), rows)
        self._nodes.append(helper.make_node("Mul", [found, scale], [node.output[0]], name=node.name))
        self.tables += 1

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"int8.{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, name: str, value: Array | np.generic) -> str:
        """A named constant. The same name means the same value."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _array(self, name: str) -> Array:
        return _numbers(self._constants[name])


@dataclass(frozen=True, slots=True)
class _Fed:
    """Activations in whole numbers: they, less `zero`, times `unit`, `peak` of the row, `smoothing` of the channel."""

    numbers: str
    peak: str
    unit: str
    zero: str
    smoothing: Array


@dataclass(frozen=True, slots=True)
class _Factors:
    """What the channels of activations are divided by."""

    name: str
    values: Array


def _all_factors(
    model: onnx.ModelProto, products: Sequence[onnx.NodeProto], peaks: Mapping[str, Array]
) -> dict[str, _Factors]:
    """By activations. Those that meet the same weights share them, as layers may that share theirs."""
    constants = {each.name: each for each in model.graph.initializer}
    groups: list[tuple[list[str], list[str]]] = []
    for node in products:
        met = [group for group in groups if node.input[0] in group[0] or node.input[1] in group[1]]
        groups = [group for group in groups if group not in met]
        joined = [[name for group in met for name in group[side]] + [node.input[side]] for side in (0, 1)]
        groups.append((joined[0], joined[1]))
    found = {}
    for values, weights in groups:
        peak = np.max([peaks[value] for value in values], axis=0)
        factors = _Factors(values[0], smoothing(peak, [_numbers(constants[name]) for name in dict.fromkeys(weights)]))
        found.update(dict.fromkeys(values, factors))
    return found


def smoothing(peaks: Array, weights: Sequence[Array]) -> Array:
    """What each channel of the activations is divided by, and its row of the weights multiplied with.

    The geometric middle between evening out the activations and leaving them; around 1 in the whole.
    """
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    logs = _SMOOTHING * np.log(np.maximum(peaks, 1e-5)) - (1 - _SMOOTHING) * np.log(np.maximum(rows, 1e-5))
    found: Array = np.exp(logs - logs.mean()).astype(np.float32)
    return found


def _gather_constants(graph: onnx.GraphProto) -> None:
    made = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in made:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _numbers(tensor: onnx.TensorProto) -> Array:
    found = numpy_helper.to_array(tensor)
    if not np.isfinite(found).all():
        raise QuantizeError(f"the weights '{tensor.name}' hold what is no number (NaN or infinite)")
    return found


def _products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    constants = {each.name: each for each in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "MatMul" and _is_wide(constants.get(node.input[1]))]


def _is_wide(weight: onnx.TensorProto | None) -> bool:
    return weight is not None and _is_matrix(weight) and weight.dims[1] >= _NARROWEST


def _is_matrix(tensor: onnx.TensorProto) -> bool:
    return len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT


def _opset(model: onnx.ModelProto) -> int:
    return next((int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
