"""A system prompt is put before, behind or in the place of the client's own, in the shape of each API.

The client's own text keeps its bytes: what is added is joined to the string as it was written.
"""

from typing import Any, Literal

import orjson

from extproc.json_splice import Document
from extproc.stages.protocol import Endpoint, Request

Mode = Literal["prepend", "append", "replace"]
BETWEEN = "\n\n"
ROLES = ("system", "developer")


def put(document: Document, request: Request, text: str, mode: Mode, role: str = "system") -> bool:
    """False where the request has no place for a system prompt: embeddings, completions, a body of another shape."""
    if request.endpoint is Endpoint.CHAT:
        return _chat(document, request.body.get("messages"), text, mode, role)
    if request.endpoint.anthropic:
        return _member(document, "system", request.body.get("system"), text, mode)
    if request.endpoint is Endpoint.RESPONSES:
        if mode == "replace":
            _drop(document, ("input",), request.body.get("input"))
        return _member(document, "instructions", request.body.get("instructions"), text, mode)
    return False


def _chat(document: Document, messages: Any, text: str, mode: Mode, role: str) -> bool:
    if not isinstance(messages, list):
        return False
    message = {"role": role, "content": text}
    if mode == "replace":
        _drop(document, ("messages",), messages)
        return document.insert(("messages",), 0, message)
    leading = 0
    while leading < len(messages) and _role(messages[leading]) in ROLES:
        leading += 1
    at = 0 if mode == "prepend" else leading - 1
    if leading and _joined(document, ("messages", at, "content"), messages[at].get("content"), text, mode):
        return True
    return document.insert(("messages",), 0 if mode == "prepend" else leading, message)


def _member(document: Document, name: str, present: Any, text: str, mode: Mode) -> bool:
    """Anthropic's `system`, a string or text blocks; `instructions` of the Responses API, a string."""
    if mode != "replace" and present and _joined(document, (name,), present, text, mode):
        return True
    return document.set((name,), text)


def _joined(document: Document, path: tuple[str | int, ...], present: Any, text: str, mode: Mode) -> bool:
    """Adds to a string, or to a list of text parts."""
    if isinstance(present, str):
        raw = document.raw(path) or b'""'
        added = orjson.dumps(text + BETWEEN if mode == "prepend" else BETWEEN + text)[1:-1]
        return document.set(path, b'"' + added + raw[1:] if mode == "prepend" else raw[:-1] + added + b'"')
    if isinstance(present, list):
        return document.insert(path, 0 if mode == "prepend" else len(present), {"type": "text", "text": text})
    return False


def _drop(document: Document, path: tuple[str | int, ...], messages: Any) -> None:
    """Takes out every system message, wherever it stands: a prompt that replaces is the only one."""
    if isinstance(messages, list):
        document.remove_elements(path, {at for at, message in enumerate(messages) if _role(message) in ROLES})


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None
