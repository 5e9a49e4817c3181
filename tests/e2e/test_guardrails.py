"""Webhooks that judge: a real service that allows, blocks, replaces, hangs, dies, and answers rubbish."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.test_webhooks import verified
from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider
from tests.support.wired import Answer, Asked, WiredProvider

_SECRET = "whsec_" + base64.b64encode(b"a signing secret of 32 bytes....").decode()
_OTHER = "whsec_" + base64.b64encode(b"another secret that has 32 bytes").decode()
_POLICY = """
providers: {{p: {{kind: openai, base_url: "{url}"}}}}
models: {{guarded: p, asked: p, lenient: p, strict: p, passing: p, both: p, plain: p}}
webhooks:
  guard: {{url: {{file: guard-url}}, secret: {{file: guard-secret}}}}
rules:
  - {{name: guarded, when: {{model: guarded}}, do: [{{webhook: guard}}]}}
  - {{name: asked, when: {{model: asked}}, do: [{{webhook: {{to: guard, on: request}}}}]}}
  - name: lenient
    when: {{model: lenient}}
    on_error: allow
    do: [{{webhook: {{to: guard, timeout: 300ms}}}}]
  - {{name: strict, when: {{model: strict}}, do: [{{webhook: {{to: guard, timeout: 2s, concurrent: 1}}}}]}}
  - {{name: passing, when: {{model: passing}}, do: [{{webhook: {{to: guard, on: answer, streams: pass}}}}]}}
  - name: both
    when: {{model: both}}
    do:
      - redact: [email]
      - webhook: {{to: guard, on: answer}}
      - remove_from_answer: [system_fingerprint]
"""
_HI: list[Any] = [{"role": "user", "content": "hi ada@example.com"}]


def _verdict(action: str, **more: object) -> Answer:
    return Answer(200, json.dumps({"action": action, **more}).encode())


def _allow(_: Asked) -> Answer:
    return _verdict("allow")


def _replacing(phase: str, text: str) -> Callable[[Asked], Answer]:
    """Replaces every text of a phase, and allows the other."""

    def answer(asked: Asked) -> Answer:
        told = asked.json()
        if told["phase"] != phase:
            return _verdict("allow")
        return _verdict("replace", texts=[{"path": each["path"], "text": text} for each in told["texts"]])

    return answer


def _blocking(phase: str) -> Callable[[Asked], Answer]:
    return lambda asked: _verdict("block", message="Not here.") if asked.json()["phase"] == phase else _verdict("allow")


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProvider]:
    with MockProvider() as running:
        yield running


@pytest.fixture(scope="module")
def guard() -> Iterator[WiredProvider]:
    with WiredProvider(_allow) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(mock: MockProvider, guard: WiredProvider) -> Iterator[Gateway]:
    files = {"guard-url": f"{guard.url}/judge-SECRETPATH", "guard-secret": _SECRET}
    with Gateway(_POLICY.format(url=mock.base_url), files=files) as running:
        yield running


@pytest.fixture(autouse=True)
def _anew(mock: MockProvider, guard: WiredProvider) -> None:
    mock.forget()
    guard.asked.clear()
    guard.answer = _allow


def _chat(gateway: Gateway, model: str, stream: bool = False) -> httpx.Response:
    body = {"model": model, "messages": _HI, "stream": stream}
    return gateway.http.post("/v1/chat/completions", json=body)


def _streamed(gateway: Gateway, model: str) -> tuple[str, list[Any]]:
    """The text of a streamed answer, and its chunks."""
    with gateway.client() as client:
        options: Any = {"include_usage": True}
        chunks = list(client.chat.completions.create(model=model, messages=_HI, stream=True, stream_options=options))
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks


def test_it_is_told_of_request_and_answer_and_can_verify_the_caller(gateway: Gateway, guard: WiredProvider) -> None:
    assert _chat(gateway, "guarded").status_code == 200
    first, second = (asked.json() for asked in guard.asked)
    about = {"version": 1, "endpoint": "chat", "model": "guarded", "key": "", "team": ""}
    assert first == about | {
        "phase": "request",
        "texts": [{"path": "messages[0].content", "text": "hi ada@example.com"}],
    }
    assert second == about | {
        "phase": "answer",
        "texts": [{"path": "choices[0].message.content", "text": "You said: hi ada@example.com"}],
    }
    for asked in guard.asked:
        assert asked.path == "/judge-SECRETPATH"
        assert verified(asked.headers, asked.body, _SECRET)
    assert len({asked.headers["webhook-id"] for asked in guard.asked}) == 2


def test_others_are_not_asked_about(gateway: Gateway, guard: WiredProvider) -> None:
    assert _chat(gateway, "plain").status_code == 200
    assert guard.asked == []
    assert _chat(gateway, "asked").status_code == 200
    assert [asked.json()["phase"] for asked in guard.asked] == ["request"]


def test_a_blocked_request_reaches_no_provider(gateway: Gateway, guard: WiredProvider, mock: MockProvider) -> None:
    guard.answer = _blocking("request")
    with gateway.client() as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="guarded", messages=_HI)
    assert (refused.value.code, refused.value.body["message"]) == ("content_policy_violation", "Not here.")  # type: ignore[index]
    assert mock.requests() == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_answer_is_not_seen(gateway: Gateway, guard: WiredProvider, mock: MockProvider, stream: bool) -> None:
    guard.answer = _blocking("answer")
    answer = _chat(gateway, "guarded", stream)
    assert answer.status_code == (200 if stream else 400)
    assert "content_policy_violation" in answer.text
    assert "You" not in answer.text
    assert len(mock.requests()) == 1


def test_a_request_is_changed(gateway: Gateway, guard: WiredProvider, mock: MockProvider) -> None:
    guard.answer = _replacing("request", "something else")
    assert _chat(gateway, "guarded").json()["choices"][0]["message"]["content"] == "You said: something else"
    assert mock.requests()[0].json()["messages"] == [{"role": "user", "content": "something else"}]


def test_an_answer_is_changed(gateway: Gateway, guard: WiredProvider) -> None:
    guard.answer = _replacing("answer", "nothing to see")
    assert _chat(gateway, "guarded").json()["choices"][0]["message"]["content"] == "nothing to see"
    text, chunks = _streamed(gateway, "guarded")
    assert text == "nothing to see"
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens > 0


def test_a_stream_that_may_pass_is_what_the_provider_said(gateway: Gateway, guard: WiredProvider) -> None:
    text, chunks = _streamed(gateway, "guarded")
    assert text == "You said: hi ada@example.com"
    assert len(chunks) > 3
    assert [asked.json()["phase"] for asked in guard.asked] == ["request", "answer"]


def test_a_stream_can_pass_unseen(gateway: Gateway, guard: WiredProvider) -> None:
    guard.answer = _blocking("answer")
    assert _streamed(gateway, "passing")[0] == "You said: hi ada@example.com"
    assert guard.asked == []
    assert _chat(gateway, "passing").status_code == 400


def test_it_stands_in_line_with_other_stages(gateway: Gateway, guard: WiredProvider) -> None:
    guard.answer = _replacing("answer", "bob@example.com said so")
    answer = _chat(gateway, "both").json()
    # Answers go back in reverse: what the webhook says is redacted too.
    assert answer["choices"][0]["message"]["content"] == "[EMAIL] said so"
    assert "system_fingerprint" not in answer
    text, chunks = _streamed(gateway, "both")
    assert text == "[EMAIL] said so"
    assert all(chunk.system_fingerprint is None for chunk in chunks)
    assert [asked.json()["texts"][0]["text"] for asked in guard.asked] == ["You said: hi [EMAIL]"] * 2


_RUBBISH = [
    Answer(200, b"<html>no</html>", "text/html"),
    Answer(200, b'{"action": "perhaps"}'),
    Answer(200, b'{"action": "replace", "texts": [{"path": "model", "text": "x"}]}'),
    Answer(200, b""),
    Answer(500, b'{"action": "allow"}'),
    Answer(302, b"", headers={"location": "/elsewhere"}),
    Answer(200, [b'{"action": '], breaks=True),
]


@pytest.mark.parametrize("rubbish", _RUBBISH, ids=range(len(_RUBBISH)))
def test_rubbish_is_no_verdict(gateway: Gateway, guard: WiredProvider, mock: MockProvider, rubbish: Answer) -> None:
    guard.answer = lambda _: rubbish
    refused = _chat(gateway, "guarded")
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "rule_failed")
    assert mock.requests() == []
    assert _chat(gateway, "lenient").status_code == 200


def test_rubbish_about_an_answer(gateway: Gateway, guard: WiredProvider) -> None:
    guard.answer = lambda asked: _allow(asked) if asked.json()["phase"] == "request" else Answer(200, b"[]")
    for stream in (False, True):
        refused = _chat(gateway, "guarded", stream)
        assert "rule_failed" in refused.text
        assert "You" not in refused.text
    assert _chat(gateway, "lenient").json()["choices"][0]["message"]["content"] == "You said: hi ada@example.com"
    assert _streamed(gateway, "lenient")[0] == "You said: hi ada@example.com"


def test_a_verdict_beyond_all_bounds_is_none(gateway: Gateway, guard: WiredProvider) -> None:
    guard.answer = lambda _: Answer(200, [b" " * (1 << 20)] * 17)
    assert _chat(gateway, "guarded").json()["error"]["code"] == "rule_failed"


def test_one_that_hangs_is_waited_for_in_its_time_and_holds_up_nobody_else(
    gateway: Gateway, guard: WiredProvider
) -> None:
    goes_on = threading.Event()

    def hangs(_: Asked) -> Answer:
        goes_on.wait(60)
        return _verdict("allow")

    guard.answer = hangs
    try:
        with ThreadPoolExecutor(8) as pool:
            begun = time.monotonic()
            waiting = [pool.submit(_chat, gateway, "strict") for _ in range(6)]
            waiting += [pool.submit(_chat, gateway, "lenient")]
            others = 0
            while not all(task.done() for task in waiting):
                assert _chat(gateway, "plain").status_code == 200
                others += 1
            took = time.monotonic() - begun
    finally:
        goes_on.set()
    assert [task.result().status_code for task in waiting] == [500] * 6 + [200]
    # All at once, though only one of each worker's may call at a time: time runs while they wait for room.
    assert took < 6
    assert others > 5


def test_one_that_is_away(gateway: Gateway, mock: MockProvider) -> None:
    closed = WiredProvider(_allow)
    url = closed.url
    closed._server.server_close()
    before = (gateway.folder / "guard-url").read_text()
    gateway.write("guard-url", f"{url}/x")
    try:
        eventually(lambda: _chat(gateway, "guarded").status_code == 500, "the edit is live")
        assert _chat(gateway, "lenient").status_code == 200
    finally:
        gateway.write("guard-url", before)
    eventually(lambda: _chat(gateway, "guarded").status_code == 200, "it is back")


def test_connections_stay(gateway: Gateway, guard: WiredProvider) -> None:
    ports: set[int] = set()
    handler = guard._server.RequestHandlerClass
    setup = handler.setup

    def counted(self: Any) -> None:
        ports.add(self.client_address[1])
        setup(self)

    handler.setup = counted  # type: ignore[method-assign]
    try:
        for _ in range(20):
            assert _chat(gateway, "asked").status_code == 200
    finally:
        handler.setup = setup  # type: ignore[method-assign]
    assert len(guard.asked) == 20
    assert len(ports) <= 2  # one for each worker


def test_a_new_secret_is_live_for_calls_that_begin(gateway: Gateway, guard: WiredProvider) -> None:
    def signed_with(secret: str) -> bool:
        guard.asked.clear()
        assert _chat(gateway, "asked").status_code == 200
        return bool(verified(guard.asked[0].headers, guard.asked[0].body, secret))

    gateway.write("guard-secret", _OTHER)
    eventually(lambda: signed_with(_OTHER), "the new secret is used")
    gateway.write("guard-secret", _SECRET)
    eventually(lambda: signed_with(_SECRET), "the old one is back")


def test_secrets_are_nowhere_to_be_seen(gateway: Gateway) -> None:
    _chat(gateway, "guarded")
    shown = [gateway.output(), gateway.admin.get("/rules").text, gateway.admin.get("/snapshot").text]
    files = gateway.files("run/headgate-*/*/*.log") | gateway.files("run/headgate-*/*/rules/*.json")
    shown += [content.decode(errors="replace") for content in files.values()]
    assert len(shown) > 5
    for text in shown:
        assert "SECRETPATH" not in text
        assert _SECRET.removeprefix("whsec_") not in text
    hooks = list(gateway.folder.glob("run/headgate-*/*/rules/*.hooks"))
    assert hooks and all(path.stat().st_mode & 0o077 == 0 for path in hooks)


def test_verdicts_are_counted(gateway: Gateway, guard: WiredProvider) -> None:
    def counted() -> dict[str, int]:
        found: dict[str, int] = gateway.admin.get("/rules").raise_for_status().json()["found"]
        return found

    before = counted()
    _chat(gateway, "guarded")
    guard.answer = _blocking("request")
    _chat(gateway, "guarded")
    after = counted()
    assert after["guarded.webhook.allow"] - before.get("guarded.webhook.allow", 0) == 2
    assert after["guarded.webhook.block"] - before.get("guarded.webhook.block", 0) == 1
