"""Weights as they lie in a folder: `model.safetensors`, or several files with an index."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import safetensors

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Array = np.ndarray[Any, np.dtype[Any]]

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


class ConvertError(Exception):
    """A folder that cannot be converted; the text says which, why, and what would be accepted."""


class Weights:
    """The floating point tensors of a folder by name, read as float32; remembers which were asked for."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._tensors = tensors
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def take(self, name: str, *shape: int) -> Array:
        """A tensor, whose shape must be the one given. Raises ConvertError."""
        found = self._tensors.get(name)
        if found is None:
            raise ConvertError(f"the weights have no '{name}'; expected a tensor of shape {list(shape)}")
        if found.shape != shape:
            raise ConvertError(f"'{name}' has the shape {list(found.shape)}; expected {list(shape)} by config.json")
        self._taken.add(name)
        return np.ascontiguousarray(found, dtype=np.float32)

    def look(self, name: str, rows: Sequence[int] | None = None) -> Array:
        """A tensor that was taken before, or some rows of it, in float64."""
        found = self._tensors[name]
        return np.asarray(found if rows is None else found[list(rows)], dtype=np.float64)

    @property
    def parameters(self) -> int:
        """How many numbers were asked for."""
        return sum(self._tensors[name].size for name in self._taken)

    def left(self) -> list[str]:
        """What nobody asked for."""
        return sorted(set(self._tensors) - self._taken)


def files_of(folder: Path) -> list[Path]:
    """The files that hold the weights. Raises ConvertError."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = set(orjson.loads((folder / INDEX).read_bytes())["weight_map"].values())
        return [folder / name for name in sorted(shards)]
    raise ConvertError(f"{folder} has no {WEIGHTS} and no {INDEX}; weights in other formats are not read")


def read(folder: Path) -> Weights:
    """All floating point tensors; whole numbers (stored positions) are no weights. Raises ConvertError, OSError."""
    found: dict[str, Array] = {}
    for file in files_of(folder):
        try:
            tensors = safetensors.deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
        except safetensors.SafetensorError as error:
            raise ConvertError(f"{file} cannot be read: {error}") from None
        for name, tensor in tensors:
            dtype = _DTYPES.get(tensor["dtype"])
            if dtype is not None:
                found[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return Weights(found)
