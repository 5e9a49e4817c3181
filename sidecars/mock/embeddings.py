"""POST /v1/embeddings: unit vectors that are a function of the text, in float32 like the real ones."""

import base64
import hashlib
import math
import sys
from array import array
from functools import lru_cache
from typing import Any

import orjson

from sidecars.mock.answer import Plain, input_usage, json_answer, measure, with_usage
from sidecars.mock.call import Call
from sidecars.mock.inputs import inputs

_DIMENSIONS = 1536


def answer(call: Call) -> Plain:
    texts = inputs(call, "input")
    dimensions = call.integer("dimensions", 1, 1 << 16) or _DIMENSIONS
    as_base64 = call.choice("encoding_format", ("float", "base64")) == "base64"
    render = _as_base64 if as_base64 else _as_floats
    usage = measure(call, sum(text.tokens for text in texts))
    found: dict[str, Any] = {
        "object": "list",
        "model": call.model(),
        "data": [
            {"object": "embedding", "index": i, "embedding": render(text.text, dimensions)}
            for i, text in enumerate(texts)
        ],
    }
    return json_answer(with_usage(call, found, input_usage(usage)), usage)


def unit_vector(text: str, dimensions: int) -> "array[float]":
    """A vector of length 1 whose direction is the SHAKE-256 of the text."""
    raw = array("h", hashlib.shake_256(text.encode()).digest(2 * dimensions))
    if sys.byteorder == "big":
        raw.byteswap()
    length = math.sqrt(sum(value * value for value in raw))
    if length == 0.0:  # one dimension can hash to nothing
        return array("f", [1.0] + [0.0] * (dimensions - 1))
    return array("f", [value / length for value in raw])


@lru_cache(maxsize=256)
def _as_floats(text: str, dimensions: int) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(unit_vector(text, dimensions).tolist()))


@lru_cache(maxsize=256)
def _as_base64(text: str, dimensions: int) -> str:
    vector = unit_vector(text, dimensions)
    if sys.byteorder == "big":
        vector.byteswap()  # little-endian on the wire
    return base64.b64encode(vector).decode()
