"""Translation when something is wrong: providers that fail, clients that leave, a dead service.

For those that talk nonsense, see test_bad_input.py.
"""

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.support.dialects import ENV, answers, entry, error
from tests.support.gateway import Gateway, eventually
from tests.support.wired import Answer, Asked, streamed
from tests.unit.translate.answers import Step, stream

HI: list[Any] = [{"role": "user", "content": "hi"}]
STEPS = [Step("text", "Hello")]
BODY = {"model": "m", "messages": HI}


def kill_workers(edge: "Edge") -> None:
    for name, pid in edge.gateway.processes().items():
        if name.startswith("rules-"):
            with suppress(ProcessLookupError):  # not started again yet
                os.kill(pid, signal.SIGKILL)


class Edge:
    """A gateway with an Anthropic and an OpenAI provider whose answers a test may replace."""

    def __init__(self, stack: ExitStack) -> None:
        self.claude = stack.enter_context(answers("anthropic", STEPS))
        self.gpt = stack.enter_context(answers("openai", STEPS))
        entries = (entry("anthropic", self.claude.url), entry("openai", self.gpt.url))
        policy = "providers:\n" + "".join(f"  {each}\n" for each in entries)
        policy += (
            "models:\n"
            "  only-claude: {provider: anthropic, model: claude, retries: 0}\n"
            "  only-gpt: {provider: openai, model: gpt, retries: 0}\n"
            "  claude-first: {try: [{provider: anthropic, model: claude}, {provider: openai, model: gpt}]}\n"
            "  gpt-first: {try: [{provider: openai, model: gpt}, {provider: anthropic, model: claude}]}\n"
            "  slow: {provider: anthropic, retries: 0, timeouts: {first_byte: 1s, idle: 2s}}\n"
        )
        self.gateway = stack.enter_context(Gateway(policy, env=ENV, settings="rule_timeout: 15s"))
        self.openai = stack.enter_context(self.gateway.client())
        self.anthropic = stack.enter_context(
            anthropic.Anthropic(base_url=self.gateway.url, api_key="none", max_retries=0, timeout=60)
        )
        self._usual = (self.claude.answer, self.gpt.answer)

    def reset(self) -> None:
        self.claude.answer, self.gpt.answer = self._usual
        self.claude.asked.clear()
        self.gpt.asked.clear()


@pytest.fixture(scope="module")
def started() -> Iterator[Edge]:
    with ExitStack() as stack:
        yield Edge(stack)


@pytest.fixture
def edge(started: Edge) -> Edge:
    started.reset()
    return started


def test_a_providers_error_reaches_the_client_in_its_dialect(edge: Edge) -> None:
    edge.claude.answer = lambda _: error("anthropic", 429, "Slow down.", retry_after="7")
    with pytest.raises(openai.RateLimitError, match="Slow down") as caught:
        edge.openai.chat.completions.create(model="only-claude", messages=HI)
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.code == "rate_limit_exceeded"
    edge.gpt.answer = lambda _: error("openai", 400, "No such thing.")
    with pytest.raises(anthropic.BadRequestError, match="No such thing") as refused:
        edge.anthropic.messages.create(model="only-gpt", max_tokens=9, messages=HI)
    assert refused.value.body == {
        "type": "error", "error": {"type": "invalid_request_error", "message": "No such thing."}
    }  # fmt: skip


@pytest.mark.parametrize("status", [429, 500, 503, 529])
@pytest.mark.parametrize("streaming", [False, True])
def test_failover_crosses_dialects_from_the_original_body(edge: Edge, status: int, streaming: bool) -> None:
    edge.claude.answer = lambda _: error("anthropic", status, "Overloaded.")
    sent = {"model": "claude-first", "messages": [{"role": "system", "content": "Be kind."}, *HI], "new": 1}
    sent = {"seed": 1, **sent} if streaming else sent
    edge.claude.asked.clear()
    body = {key: value for key, value in sent.items() if key not in ("new", "seed")}
    answer = edge.gateway.http.post("/v1/chat/completions", json=body | ({"stream": True} if streaming else {}))
    assert answer.status_code == 200, answer.text
    assert "Hello" in answer.text or "lo" in answer.text
    (first,), (second,) = edge.claude.asked, edge.gpt.asked
    assert (first.path, first.json()["model"]) == ("/v1/messages", "claude")
    assert first.json()["system"] == [{"type": "text", "text": "Be kind."}]
    assert (second.path, second.json()["model"]) == ("/v1/chat/completions", "gpt")
    assert second.json()["messages"] == body["messages"]
    assert second.headers["authorization"] == "Bearer provider-secret"
    assert "x-api-key" not in second.headers
    assert first.headers["x-api-key"] == "provider-secret"
    assert "authorization" not in first.headers
    assert len(second.body) == int(second.headers["content-length"])


@pytest.mark.parametrize("model", ["gpt-first", "claude-first"])
def test_failover_crosses_dialects_for_anthropics_clients(edge: Edge, model: str) -> None:
    failing, other = (edge.gpt, edge.claude) if model == "gpt-first" else (edge.claude, edge.gpt)
    failing.answer = lambda _: error("openai", 500, "Broken.")
    made = edge.anthropic.messages.create(model=model, max_tokens=9, messages=HI)
    assert [block.text for block in made.content if block.type == "text"] == ["Hello"]
    (asked,) = other.asked
    assert asked.json()["messages"][0]["content"] in ("hi", [{"type": "text", "text": "hi"}])
    assert len(failing.asked) == 1


def test_a_refused_request_is_not_sent_anywhere(edge: Edge) -> None:
    with pytest.raises(openai.BadRequestError, match="'seed' is not supported"):
        edge.openai.chat.completions.create(model="claude-first", messages=HI, seed=1)
    assert not edge.claude.asked
    assert not edge.gpt.asked


def test_a_line_beyond_all_bounds_ends_the_stream(edge: Edge) -> None:
    edge.claude.answer = lambda _: streamed(b"data: ", *(b"A" * (1 << 20) for _ in range(20)))
    answer = edge.gateway.http.post("/v1/chat/completions", json=BODY | {"model": "only-claude", "stream": True})
    assert '"error"' in answer.text
    assert len(answer.content) < 2000


def test_a_client_that_leaves_ends_the_providers_stream(edge: Edge) -> None:
    one = stream("anthropic", [Step("text", "Hello")]).partition(b'data: {"type": "content_block_stop"')[0]
    delta = b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}\n\n'

    def endless() -> Iterator[bytes]:
        yield one
        while True:
            time.sleep(0.01)
            yield delta

    edge.claude.gone.clear()
    edge.claude.answer = lambda _: Answer(200, endless(), "text/event-stream")
    made = edge.openai.chat.completions.create(model="only-claude", messages=HI, stream=True)
    assert next(iter(made)).choices
    made.close()
    assert edge.claude.gone.wait(60)


def test_a_slow_provider_is_an_error_in_the_clients_dialect(edge: Edge) -> None:
    wait = threading.Event()

    def late(_: Asked) -> Answer:
        wait.wait(60)
        return Answer(200, b"{}")

    edge.claude.answer = late
    try:
        with pytest.raises(openai.InternalServerError) as caught:
            edge.openai.chat.completions.create(model="slow", messages=HI)
        assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
    finally:
        wait.set()


def test_requests_wait_for_workers_that_are_started_again(edge: Edge) -> None:
    kill_workers(edge)
    made = edge.openai.chat.completions.create(model="claude-first", messages=HI)
    assert made.choices[0].message.content == "Hello"
    assert not edge.gpt.asked


@pytest.mark.slow
def test_workers_killed_under_load_let_nothing_untranslated_pass(edge: Edge) -> None:
    stop, found = threading.Event(), list[tuple[int, str]]()

    def ask(number: int) -> None:
        with httpx.Client(base_url=edge.gateway.url, timeout=60) as client:
            for turn in itertools.count(number):
                if stop.is_set():
                    return
                body = BODY | {"model": ("only-claude", "claude-first")[turn % 2], "stream": turn % 3 == 0}
                try:
                    answer = client.post("/v1/chat/completions", json=body)
                    found.append((answer.status_code, answer.text))
                except httpx.TransportError:
                    found.append((0, ""))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            count = len(found)
            eventually(lambda count=count: len(found) > count + 20, "load", 60)  # type: ignore[misc]
            kill_workers(edge)
        count = len(found)
        eventually(lambda: sum(status == 200 for status, _ in found[count:]) > 20, "answers after the last death", 60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in found} <= {0, 200, 502, 503}
    for status, text in found:
        if status == 200:
            assert "message_start" not in text
            assert '"type": "message"' not in text
        elif status:
            assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
