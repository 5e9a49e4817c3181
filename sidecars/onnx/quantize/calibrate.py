"""How large the numbers are that flow through a model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from sidecars.onnx.device import Device
from sidecars.onnx.folder import Card
from sidecars.onnx.quantize.rewrite import Array, QuantizeError
from sidecars.onnx.session import Session
from sidecars.onnx.tokens import Tokens


def peaks(
    model: onnx.ModelProto, card: Card, names: Sequence[str], texts: Sequence[Tokens], scratch: Path, threads: int
) -> dict[str, Array]:
    """The largest absolute number of each channel of the tensors, over all tokens of all texts.

    Raises QuantizeError for what is no number; LoadError and RunError as a session does.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    given = {output.name for output in shown.graph.output}
    shown.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in given
    )
    watched = scratch / "watched.onnx"
    onnx.save_model(shown, watched, save_as_external_data=True, location="watched.onnx_data")
    session = Session(replace(card, onnx=watched), Device("cpu"), threads)
    found: dict[str, Array] = {name: np.zeros((), np.float32) for name in names}
    for text in texts:
        for name, values in zip(names, session.tensors(names, text), strict=True):
            found[name] = np.maximum(found[name], np.abs(values).reshape(-1, values.shape[-1]).max(axis=0))
    if not all(np.isfinite(peak).all() for peak in found.values()):
        raise QuantizeError("the model itself gives what is no number (NaN or infinite)")
    return found
