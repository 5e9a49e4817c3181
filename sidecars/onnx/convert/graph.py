"""A graph under construction: each operator in a call, values known by their names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sidecars.onnx.convert.weights import Array

OPSET = 20  # the first with Gelu; LayerNormalization came with 17
_IR_VERSION = 10


class Graph:
    """Collects nodes and constants. A value is the name of a tensor."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str) -> str:
        """An input of token ids, or of what goes with them: int64 of shape (batch, sequence)."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]))
        return name

    def constant(self, name: str, value: Array | Sequence[float] | float) -> str:
        """A named constant; whole numbers become int64, others float32. The same name means the same value."""
        if name not in self._constants:
            array = np.asarray(value)
            array = array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32)
            self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The only output of one operator over `inputs`."""
        name = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def linear(self, value: str, name: str, weight: Array, bias: Array) -> str:
        """`value` times `weight` of shape (in, out), plus `bias`."""
        product = self.add("MatMul", value, self.constant(f"{name}.weight", weight))
        return self.add("Add", product, self.constant(f"{name}.bias", bias))

    def model(self, value: str, output: str, axes: Sequence[str | int]) -> onnx.ModelProto:
        """The finished model with `value` as its only output, a float tensor named `output`."""
        self._nodes.append(helper.make_node("Identity", [value], [output], name=output))
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, list(axes))
        graph = helper.make_graph(
            self._nodes, "encoder", self._inputs, [result], initializer=list(self._constants.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="headgate",
        )
