import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stages import settings
from extproc.stages.around import Around
from extproc.stages.book import NO_BOOK
from extproc.stages.protocol import Access, Endpoint, Outcome
from extproc.stages.settings import SettingsError
from extproc.stages.texts import texts
from extproc.stages.webhook import Call, Settings, VerdictError, Webhook, outcome, payload
from extproc.usage.webhooks.endpoints import Endpoint as Hook
from tests.unit.stages.given import CHAT, asked

REQUEST = asked(CHAT)
TEXTS = list(texts(REQUEST.endpoint, REQUEST.body))


def judged(verdict: Any) -> Outcome:
    return outcome(verdict if isinstance(verdict, bytes) else json.dumps(verdict).encode(), REQUEST.raw, TEXTS)


def test_it_is_told_every_text_and_its_path() -> None:
    assert json.loads(payload(REQUEST, "request", TEXTS)) == {
        "version": 1,
        "phase": "request",
        "endpoint": "chat",
        "model": "m",
        "key": "alice",
        "team": "red",
        "texts": [
            {"path": "messages[0].content", "text": "You are terse."},
            {"path": "messages[1].content", "text": "Why is the sea blue?"},
        ],
    }


def test_verdicts() -> None:
    allowed = judged({"action": "allow"})
    assert (allowed.body, allowed.refusal, allowed.metadata) == (None, None, {"webhook": {"allow": 1}})
    refusal = judged({"action": "block", "message": "no" * 1000}).refusal
    assert refusal is not None and refusal.code == "content_policy_violation" and len(refusal.message) == 500
    replaced = judged({"action": "replace", "texts": [{"path": "messages[1].content", "text": "?"}]}).body
    assert replaced == REQUEST.raw.replace(b"Why is the sea blue?", b"?")


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (b"<html>", "no JSON"),
        ([], "an object"),
        ({}, "allow, block or replace"),
        ({"action": "replace"}, "a list of"),
        ({"action": "replace", "texts": [{"path": "model", "text": "x"}]}, "'model' is not among those"),
        ({"action": "replace", "texts": [{"path": "messages[1].content", "text": 7}]}, "a list of"),
    ],
)
def test_what_is_no_verdict(verdict: Any, told: str) -> None:
    with pytest.raises(VerdictError, match=told):
        judged(verdict)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_verdict_or_an_error(answer: bytes) -> None:
    with pytest.raises(VerdictError):
        judged(answer)


HOOK = Hook("guard", "http://127.0.0.1:9/SECRETPATH", "whsec_" + "A" * 32)
AROUND = Around(NO_BOOK, {"guard": HOOK})
ALLOW = b'{"action": "allow"}'
ANSWER = b'{"choices": [{"message": {"role": "assistant", "content": "Because."}}]}'


def stage(**document: Any) -> Webhook:
    return Webhook(settings.parse(Settings, json.dumps({"to": "guard"} | document).encode(), "test"), AROUND)


def test_it_asks_and_is_told() -> None:
    one = stage(timeout_ms=300)
    asked_ = one.request(REQUEST)
    assert isinstance(asked_.question, Call)
    assert (asked_.question.hook, asked_.question.timeout_s) == (HOOK, 0.3)
    assert asked_.question.body == payload(REQUEST, "request", TEXTS)
    assert one.told(REQUEST, asked_.state, ALLOW).body is None
    with pytest.raises(VerdictError, match="no answer"):
        one.told(REQUEST, asked_.state, None)


def test_nothing_that_prints_shows_where_it_is() -> None:
    question = stage().request(REQUEST).question
    assert "SECRETPATH" not in f"{question!r} {AROUND!r} {question}"
    assert "Why is the sea" not in repr(question)


@pytest.mark.parametrize(
    ("document", "access"),
    [
        ({}, (Access.CHANGE, Access.CHANGE, Access.CHANGE)),
        ({"on": "request"}, (Access.CHANGE, Access.NONE, Access.NONE)),
        ({"on": "answer"}, (Access.NONE, Access.CHANGE, Access.CHANGE)),
        ({"on": "answer", "streams": "pass"}, (Access.NONE, Access.CHANGE, Access.NONE)),
    ],
)
def test_it_is_shown_what_it_asks_about(document: dict[str, Any], access: tuple[Access, Access, Access]) -> None:
    needs = stage(**document).needs
    assert (needs.request, needs.answer, needs.stream) == access
    assert needs.closed
    assert (stage(**document).request(REQUEST).question is not None) is (access[0] is Access.CHANGE)
    assert (stage(**document).stream(REQUEST, None) is not None) is (access[2] is Access.CHANGE)


def test_what_has_no_text_is_not_asked_about() -> None:
    assert stage().request(asked({"input": [[1, 2]]}, Endpoint.EMBEDDINGS)).question is None
    assert stage().answer(REQUEST, None, b'{"data": []}').question is None
    for answer in (b"<html>", b"[]", b""):
        with pytest.raises(VerdictError, match="no JSON"):
            stage().answer(REQUEST, None, answer)


def _stream(*texts_: str, end: str = "data: [DONE]\n\n") -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts_]
    return ("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end).encode()


def test_a_stream_is_judged_as_a_whole() -> None:
    came = _stream("Be", "cause")
    held = stage().stream(REQUEST, None)
    assert held is not None
    assert held.feed(came[:20]) + held.feed(came[20:]) + held.end() == b""
    question = held.judge()
    assert isinstance(question, Call)
    told = json.loads(question.body)
    assert (told["phase"], told["texts"]) == ("answer", [{"path": "choices[0].message.content", "text": "Because"}])
    assert held.told(ALLOW) == came
    texts_ = [{"path": "choices[0].message.content", "text": "No."}]
    changed = held.told(json.dumps({"action": "replace", "texts": texts_}).encode())
    assert b'"No."' in changed and changed.endswith(b"data: [DONE]\n\n")
    assert not held.closed
    assert b"content_policy_violation" in held.told(b'{"action": "block"}')
    assert held.closed


@pytest.mark.parametrize("came", [_stream("cut", end=""), _stream("x", end='data: {"error": {}}\n\n'), b"rubbish"])
def test_a_stream_that_is_not_whole_has_no_verdict(came: bytes) -> None:
    held = stage().stream(REQUEST, None)
    assert held is not None
    held.feed(came)
    with pytest.raises(VerdictError):
        held.judge()


@pytest.mark.parametrize(
    ("document", "told"),
    [({"timeout_ms": 0}, "timeout_ms is 0"), ({"concurrent": 0}, "concurrent is 0"), ({"on": "never"}, "on: Input")],
)
def test_settings_that_cannot_be(document: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        stage(**document)
