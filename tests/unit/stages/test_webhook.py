import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stages.protocol import Outcome
from extproc.stages.texts import texts
from extproc.stages.webhook import VerdictError, outcome, payload
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
    assert judged({"action": "allow"}).body is None
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
