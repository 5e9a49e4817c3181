"""The few facts that a recording names: the model asked for, and the usage that the answer reports."""

from collections.abc import Iterable
from typing import Any

import orjson

from sidecars.recording.events import data_of


def model_of(body: bytes) -> str:
    """The model that a request's body names; empty where it names none."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    model = data.get("model") if isinstance(data, dict) else None
    return model if isinstance(model, str) else ""


def usage_in(texts: Iterable[str]) -> dict[str, Any] | None:
    """The usage of an answer: of a body, or of events, where later counts come over earlier ones."""
    found: dict[str, Any] = {}
    for text in texts:
        if '"usage"' not in text:
            continue
        try:
            data = orjson.loads(text if text.startswith("{") else data_of(text))
        except orjson.JSONDecodeError:
            continue
        if not isinstance(data, dict):
            continue
        for holder in (data, data.get("response"), data.get("message")):
            usage = holder.get("usage") if isinstance(holder, dict) else None
            if isinstance(usage, dict):
                found |= {name: value for name, value in usage.items() if value is not None}
    return found or None
