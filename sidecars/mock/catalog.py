"""GET /v1/models and /v1/models/{id}: a few names to list; every other name exists as well when asked for."""

from typing import Any

from sidecars.mock.answer import Plain, json_answer
from sidecars.mock.call import Call

MODELS = ("mock", "mock-embedding", "mock-image", "mock-audio")
_CREATED = 1_700_000_000


def listing(_call: Call) -> Plain:
    return json_answer({"object": "list", "data": [_entry(name) for name in MODELS]})


def entry(call: Call) -> Plain:
    return json_answer(_entry(call.path_id))


def health(_call: Call) -> Plain:
    return json_answer({"status": "ok"})


def _entry(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "mock"}
