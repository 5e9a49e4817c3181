"""From the vectors of tokens to one vector of a text, as sentence-transformers defines it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sidecars.onnx.settings import Pool

Floats = np.ndarray[Any, np.dtype[np.float32]]
Mask = np.ndarray[Any, np.dtype[np.int64]]

_FLAGS = {
    "pooling_mode_cls_token": Pool.CLS,
    "pooling_mode_max_tokens": Pool.MAX,
    "pooling_mode_mean_tokens": Pool.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": Pool.MEAN_SQRT_LENGTH,
    "pooling_mode_lasttoken": Pool.LAST,
}
_EPSILON = 1e-12  # of torch.nn.functional.normalize


class PoolingError(Exception):
    """A way of pooling that is not served."""


def read_pooling(folder: Path | None) -> tuple[Pool, ...]:
    """The ways that the folder of the Pooling module states, joined in this order; the mean without such a folder.

    Raises PoolingError.
    """
    if folder is None:
        return (Pool.MEAN,)
    name = f"{folder.name}/config.json"
    try:
        config = orjson.loads((folder / "config.json").read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise PoolingError(f"{name} cannot be read: {getattr(error, 'strerror', error)}") from None
    if config.get("include_prompt", True) is not True:
        raise PoolingError(f"{name}: leaving the prompt out of the pooling is not served")
    stated = config.get("pooling_mode", [key for key, on in config.items() if key.startswith("pooling_mode_") and on])
    names = [stated] if isinstance(stated, str) else stated
    known = {**_FLAGS, **{str(way): way for way in Pool}}
    unknown = [way for way in names if way not in known]
    if unknown or not names:
        shown = ", ".join(map(str, unknown)) or "nothing"
        raise PoolingError(f"{name}: pooling by {shown} is not served; expected some of {', '.join(Pool)}")
    order = list(_FLAGS.values())
    return tuple(sorted((known[way] for way in names), key=order.index))


def pool(states: Floats, mask: Mask, ways: Sequence[Pool]) -> Floats:
    """(batch, tokens, hidden) and the mask of what is no padding, to (batch, hidden times the number of ways)."""
    found = [_pool(states, mask, way) for way in ways]
    return found[0] if len(found) == 1 else np.concatenate(found, axis=1)


def _pool(states: Floats, mask: Mask, way: Pool) -> Floats:
    counts = mask.sum(axis=1)
    found: Floats
    if way is Pool.CLS:
        found = states[:, 0]
    elif way is Pool.LAST:
        found = states[np.arange(len(states)), counts - 1]
    elif way is Pool.MAX:
        found = np.where(mask[:, :, None] == 1, states, np.float32(-np.inf)).max(axis=1)
    else:
        total = np.matmul(mask[:, None, :].astype(np.float32), states)[:, 0]
        divisor = counts if way is Pool.MEAN else np.sqrt(counts)
        found = total / divisor[:, None].astype(np.float32)
    return found


def normalize(vectors: Floats) -> Floats:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Floats = vectors / np.maximum(lengths, np.float32(_EPSILON))
    return unit
