"""When are two requests the same? A key of all that the answer depends on, whatever the JSON looks like."""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from extproc.stages.protocol import Endpoint, Request

VERSION = 2
# Who asks and how the answer is delivered does not change what it says.
_IRRELEVANT = frozenset(
    ("user", "stream", "stream_options", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
)
# Request headers that providers choose a version or a feature of their API by.
VARY = ("anthropic-beta", "anthropic-version", "openai-beta")
# What a parameter is when it is absent, by the API references: stating it changes nothing.
_DEFAULTS: Mapping[Endpoint, Mapping[str, Any]] = {
    Endpoint.CHAT: {
        "n": 1, "temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False,
        "parallel_tool_calls": True, "response_format": {"type": "text"},
    },
    Endpoint.COMPLETIONS: {
        "n": 1, "temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "echo": False,
    },
    Endpoint.EMBEDDINGS: {"encoding_format": "float"},
    Endpoint.RESPONSES: {"temperature": 1, "top_p": 1},
    Endpoint.MESSAGES: {"temperature": 1},
}  # fmt: skip
_EXACT = 2**53
_LARGE = 2**63  # integers from here on are read as floats, and two of them may look the same


def key(request: Request, scope: str, model: str) -> bytes:
    """32 bytes. `scope`: who shares answers. `model`: the name that is routed by, which stands for its targets."""
    body = request.body
    defaults = _DEFAULTS.get(request.endpoint, {})
    relevant = {
        name: value
        for name, value in body.items()
        if name not in _IRRELEVANT and name != "model" and value is not None and value != defaults.get(name, _NOTHING)
    }
    try:
        said: Any = _canonical(relevant)
    except _InexactError:
        said = hashlib.sha256(request.raw).hexdigest()
    varied = [request.headers.get(name, "") for name in VARY]
    about = [VERSION, request.endpoint.value, scope, model, said, varied]
    return hashlib.sha256(orjson.dumps(about, option=orjson.OPT_SORT_KEYS)).digest()


def is_deterministic(body: Mapping[str, Any], endpoint: Endpoint) -> bool:
    """Whether the same request is meant to give the same answer: temperature 0, or a seed; embeddings always."""
    return endpoint is Endpoint.EMBEDDINGS or body.get("temperature") == 0 or body.get("seed") is not None


def _canonical(value: Any) -> Any:
    """1.0 is 1; members are sorted when written. Raises _InexactError for a number that was too large to be read."""
    if isinstance(value, dict):
        return {name: _canonical(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    if isinstance(value, float):
        if abs(value) >= _LARGE:
            raise _InexactError
        return int(value) if value.is_integer() and abs(value) < _EXACT else value
    return value


class _InexactError(ValueError):
    pass


_NOTHING = object()
