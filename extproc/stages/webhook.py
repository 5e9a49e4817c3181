"""The stage `webhook`: a guardrail of someone else's, behind a URL. Who runs the stage makes the call.

{"to": "guard", "on": "both", "timeout_ms": 2000, "concurrent": 64, "streams": "hold"}

It gets {"version": 1, "phase": "request", "endpoint", "model", "key", "team", "texts": [{"path", "text"}]} and answers
{"action": "allow" | "block" | "replace", "message": "why", "texts": [{"path", "text"}]}.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import orjson
from pydantic import ConfigDict

from extproc.json_splice import Document
from extproc.stages import paths, replay
from extproc.stages.around import Around
from extproc.stages.protocol import (
    NOTHING,
    Access,
    Holding,
    Needs,
    Outcome,
    Plain,
    Question,
    Refusal,
    Request,
)  # fmt: skip
from extproc.stages.settings import STRICT
from extproc.stages.texts import Steps, answer_texts, texts
from extproc.usage.webhooks import endpoints

VERSION = 1
MOST_ANSWER = 16 * 1024 * 1024  # bytes of a verdict
MOST_HELD = 16 * 1024 * 1024  # bytes of a stream
_MOST_MESSAGE = 500  # characters that reach the client

Phase = Literal["request", "answer"]
Listed = tuple[tuple[Steps, str], ...]


class VerdictError(ValueError):
    """There is no verdict. Whether the request goes on is for the rule to say."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`to`: the name of a webhook. `on`: what it is asked about. `timeout_ms`: for a verdict, with all that may fail.

    `concurrent`: calls at once, of each worker; others wait, within their time. `streams`: a streamed answer is held
    until it is whole, or passes unseen.
    """

    to: str
    on: Literal["request", "answer", "both"] = "both"
    timeout_ms: int = 2000
    concurrent: int = 64
    streams: Literal["hold", "pass"] = "hold"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 1 <= self.timeout_ms <= 600_000:
            raise ValueError(f"timeout_ms is {self.timeout_ms}: 1 to 600000 is expected")
        if not 1 <= self.concurrent <= 10_000:
            raise ValueError(f"concurrent is {self.concurrent}: 1 to 10000 is expected")


@dataclass(frozen=True, slots=True)
class Call:
    """Asks a webhook; to be answered by the body of its answer, bytes."""

    hook: endpoints.Endpoint
    body: bytes = field(repr=False)
    timeout_s: float
    concurrent: int
    patience_s: ClassVar[float | None] = None


class _Sent(NamedTuple):
    """The state while a webhook is asked: what its verdict is about."""

    body: bytes
    texts: Listed


class Webhook(Plain):
    """Raises ValueError for a webhook that is not there. Without what is around it can say its needs, and no more."""

    def __init__(self, settings: Settings, around: Around | None = None) -> None:
        self._hook = around.hooks.get(settings.to) if around is not None else None
        if around is not None and self._hook is None:
            raise ValueError(f"to: there is no webhook {settings.to!r}")
        self._settings = settings
        request = Access.NONE if settings.on == "answer" else Access.CHANGE
        answer = Access.NONE if settings.on == "request" else Access.CHANGE
        self.needs = Needs(request, answer, answer if settings.streams == "hold" else Access.NONE, closed=True)

    def request(self, request: Request) -> Outcome:
        if not self.needs.request:
            return NOTHING
        return self._asked(request, "request", request.raw, tuple(texts(request.endpoint, request.body)))

    def answer(self, request: Request, state: object, body: bytes) -> Outcome:
        """Raises VerdictError for an answer that cannot be shown."""
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise VerdictError("the answer is no JSON")
        return self._asked(request, "answer", body, tuple(answer_texts(value)))

    def told(self, request: Request, state: object, answer: object) -> Outcome:
        """Raises VerdictError."""
        if not isinstance(answer, bytes) or not isinstance(state, _Sent):
            raise VerdictError("no answer")
        return outcome(answer, state.body, state.texts)

    def stream(self, request: Request, state: object) -> "Holding | None":
        return _Held(self, request) if self.needs.stream else None

    def _asked(self, request: Request, phase: Phase, body: bytes, listed: Listed) -> Outcome:
        if not listed:
            return NOTHING
        if self._hook is None:
            raise VerdictError("nobody to ask")
        settings = self._settings
        call = Call(self._hook, payload(request, phase, listed), settings.timeout_ms / 1000, settings.concurrent)
        return Outcome(question=call, state=_Sent(body, listed))


class _Held(Holding):
    """A stream as one document, and told again if the verdict changes it."""

    def __init__(self, stage: Webhook, request: Request) -> None:
        super().__init__(MOST_HELD)
        self._stage = stage
        self._request = request
        self._state: object = None

    def judge(self) -> Question | None:
        held = self.held()
        whole = replay.to_answer(self._request.endpoint, held)
        if whole is None:
            raise VerdictError("the stream has no end, or tells of an error")
        made = self._stage.answer(self._request, None, whole)
        self._state = made.state
        return made.question

    def told(self, answer: object) -> bytes:
        endpoint = self._request.endpoint
        made = self._stage.told(self._request, self._state, answer)
        self.metadata = made.metadata
        if made.refusal is not None:
            self.closed = True
            return made.refusal.event(endpoint)
        if made.body is None:
            return self.held()
        changed = replay.to_stream(endpoint, made.body, usage=True)
        if changed is None:
            raise VerdictError("what the webhook made of the answer is no stream")
        return changed


def payload(request: Request, phase: Phase, texts: Iterable[tuple[Steps, str]]) -> bytes:
    """The body to POST."""
    listed = [{"path": paths.written(path), "text": text} for path, text in texts]
    about = {"endpoint": request.endpoint.value, "model": request.model, "key": request.key, "team": request.team}
    return orjson.dumps({"version": VERSION, "phase": phase, **about, "texts": listed})


def outcome(answer: bytes, body: bytes, texts: Iterable[tuple[Steps, str]]) -> Outcome:
    """What the verdict does to `body`. `texts`: those that were sent; no other can be replaced. Raises VerdictError."""
    verdict = _verdict(answer)
    action = verdict.get("action")
    if action == "allow":
        return Outcome(metadata=_counted("allow"))
    if action == "block":
        message = verdict.get("message")
        told = message[:_MOST_MESSAGE] if isinstance(message, str) and message else "A guardrail refused this."
        return Outcome(refusal=Refusal(400, "content_policy_violation", told), metadata=_counted("block"))
    if action != "replace":
        raise VerdictError("action: allow, block or replace is expected")
    known = {paths.written(path): path for path, _ in texts}
    document = Document(body)
    for path, text in _replacements(verdict.get("texts")):
        if path not in known:
            raise VerdictError(f"texts: {path[:100]!r} is not among those that were sent")
        document.set(known[path], text)
    return Outcome(body=document.render() if document.changed else None, metadata=_counted("replace"))


def _counted(action: str) -> dict[str, Any]:
    return {"webhook": {action: 1}}


def _verdict(answer: bytes) -> dict[str, Any]:
    if len(answer) > MOST_ANSWER:
        raise VerdictError(f"more than {MOST_ANSWER} bytes")
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
