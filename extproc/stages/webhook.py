"""A guardrail of someone else's, behind a URL: what it is sent, and what its answer means. Who calls it does the I/O.

It gets {"version": 1, "phase": "request", "endpoint", "model", "key", "team", "texts": [{"path", "text"}]} and answers
{"action": "allow" | "block" | "replace", "message": "why", "texts": [{"path", "text"}]}.
"""

from collections.abc import Iterable
from typing import Any, Literal

import orjson

from extproc.json_splice import Document
from extproc.stages import paths
from extproc.stages.protocol import NOTHING, Outcome, Refusal, Request
from extproc.stages.texts import Steps

VERSION = 1
_MOST_ANSWER = 16 * 1024 * 1024
_MOST_MESSAGE = 500  # characters that reach the client


class VerdictError(ValueError):
    """The webhook's answer is none. Whether the request goes on is the rule's `failure_mode`."""


def payload(request: Request, phase: Literal["request", "answer"], texts: Iterable[tuple[Steps, str]]) -> bytes:
    """The body to POST."""
    listed = [{"path": paths.written(path), "text": text} for path, text in texts]
    about = {"endpoint": request.endpoint.value, "model": request.model, "key": request.key, "team": request.team}
    return orjson.dumps({"version": VERSION, "phase": phase, **about, "texts": listed})


def outcome(answer: bytes, body: bytes, texts: Iterable[tuple[Steps, str]]) -> Outcome:
    """What the verdict does to `body`. `texts`: those that were sent; no other can be replaced. Raises VerdictError."""
    verdict = _verdict(answer)
    action = verdict.get("action")
    if action == "allow":
        return NOTHING
    if action == "block":
        message = verdict.get("message")
        told = message[:_MOST_MESSAGE] if isinstance(message, str) and message else "A guardrail refused this."
        return Outcome(refusal=Refusal(400, "content_policy_violation", told), metadata={"webhook": "block"})
    if action != "replace":
        raise VerdictError("action: allow, block or replace is expected")
    known = {paths.written(path): path for path, _ in texts}
    document = Document(body)
    for path, text in _replacements(verdict.get("texts")):
        if path not in known:
            raise VerdictError(f"texts: {path[:100]!r} is not among those that were sent")
        document.set(known[path], text)
    return Outcome(body=document.render() if document.changed else None, metadata={"webhook": "replace"})


def _verdict(answer: bytes) -> dict[str, Any]:
    if len(answer) > _MOST_ANSWER:
        raise VerdictError(f"more than {_MOST_ANSWER} bytes")
    try:
        verdict = orjson.loads(answer)
    except orjson.JSONDecodeError:
        raise VerdictError("no JSON") from None
    if not isinstance(verdict, dict):
        raise VerdictError("an object is expected")
    return verdict


def _replacements(listed: Any) -> Iterable[tuple[str, str]]:
    for one in listed if isinstance(listed, list) else [None]:
        if not isinstance(one, dict) or not isinstance(one.get("path"), str) or not isinstance(one.get("text"), str):
            raise VerdictError('texts: a list of {"path", "text"} is expected')
        yield one["path"], one["text"]
