"""A provider of local models -> the document that its service follows (docs/onnx.md has the fields)."""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import PurePath
from typing import Any

import orjson

from controlplane.policy.onnx import OnnxModel, OnnxProvider

# Fields that mean the same in the policy and in the document.
_SAME = (
    "file", "task", "device", "threads", "max_tokens", "pooling", "normalize", "labels", "batch_tokens", "queue_tokens",
    "max_requests", "max_output_tokens", "generations", "preload",
)  # fmt: skip


def lower(told: OnnxProvider, base: PurePath, *, max_body: int, drain_ms: int) -> dict[str, Any]:
    """The document as plain data. What the policy leaves out is absent: the service has defaults.

    `base`: the folder of the policy. `max_body`: bytes. `drain_ms`: how long requests may take at the end.
    """
    found = {
        "version": 1,
        "models": {name: _model(model, base) for name, model in told.models.items()},
        "memory_bytes": told.memory,
        "threads": told.threads,
        "tokenizer_threads": told.tokenizer_threads,
        "max_body_bytes": max_body,
        "max_inputs": told.max_inputs,
        "retry_failed_s": told.retry_failed / 1000,
        "drain_s": max(1.0, drain_ms / 1000),
    }
    return _stated(found)


def both(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Also the models of the document before: while an edit is on its way, requests may go by either policy."""
    return {**wanted, "models": {**before["models"], **wanted["models"]}}


def dump(document: Mapping[str, Any]) -> tuple[bytes, str]:
    """Its JSON, and the tag by which the service says that it is in force."""
    tag = blake2b(orjson.dumps(document, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()
    return orjson.dumps({**document, "tag": tag}, option=orjson.OPT_INDENT_2), tag


def _model(model: OnnxModel, base: PurePath) -> dict[str, Any]:
    idle = model.idle_unload
    own = {"memory_bytes": model.memory, "idle_unload_s": None if idle is None else idle / 1000}
    return _stated({"path": str(base / model.path), **{name: getattr(model, name) for name in _SAME}, **own})


def _stated(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
