"""Nonsense from providers of every kind, and from clients of both APIs, where requests are translated.

Whatever comes, the client gets its answer or an error of its own API, never a part that looks whole, never a page or a
byte that was not meant for it; and the next request is served.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from extproc.translate import ProviderName
from tests.support.dialects import ENV, KINDS, answers, entry
from tests.support.gateway import Gateway
from tests.support.wired import Answer, WiredProvider, streamed
from tests.unit.translate.answers import STREAMS, Step, stream, whole
from tests.unit.translate.frames import frame

STEPS = [Step("text", "Hello")]
HI: list[Any] = [{"role": "user", "content": "hi"}]
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
SPOKEN = ("openai", "anthropic", "gemini", "cohere", "ollama", "bedrock")
PAIRS = [(client, kind) for client in PATHS for kind in SPOKEN if client != kind]
pairs = pytest.mark.parametrize(("client", "kind"), PAIRS, ids=["-to-".join(pair) for pair in PAIRS])
each_api = pytest.mark.parametrize(("client", "kind"), [*PAIRS[:5], ("anthropic", "openai")])
PAGE = b"<html>secret page</html>"
LONG = 10 << 20


@dataclass(frozen=True)
class Edge:
    gateway: Gateway
    providers: dict[str, WiredProvider]

    def ask(self, client: str, kind: str, answer: Callable[[ProviderName], Answer], **more: Any) -> httpx.Response:
        """Has the provider answer so. Its model has its kind's name."""
        provider = self.providers[kind]
        usual, provider.answer = provider.answer, lambda _: answer(KINDS[kind][0])
        try:
            return self.send(client, kind, json.dumps(body(kind) | more).encode())
        finally:
            provider.answer = usual

    def send(self, client: str, kind: str, raw: bytes, **headers: str) -> httpx.Response:
        self.providers[kind].asked.clear()
        told = {"content-type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        return self.gateway.http.post(PATHS[client], content=raw, headers=told)


def body(kind: str) -> dict[str, Any]:
    return {"model": kind, "max_tokens": 99, "messages": HI}


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with ExitStack() as stack:
        providers = {kind: stack.enter_context(answers(kind, STEPS)) for kind in SPOKEN}
        policy = "providers:\n" + "".join(f"  {entry(kind, providers[kind].url)}\n" for kind in SPOKEN)
        policy += "models:\n" + "".join(f"  {kind}: {{provider: {kind}, model: up, retries: 0}}\n" for kind in SPOKEN)
        yield Edge(stack.enter_context(Gateway(policy, settings="rule_timeout: 60s", env=ENV)), providers)


WHOLE: dict[str, Callable[[ProviderName], Answer]] = {
    "a page": lambda _: Answer(200, PAGE, "text/html"),
    "a page that is an error": lambda _: Answer(500, PAGE, "text/html"),
    "a page that says to wait": lambda _: Answer(503, PAGE, "text/html"),
    "no UTF-8": lambda api: Answer(200, whole(api, STEPS).replace(b"Hello", b"secret page \xff\xfe")),
    "compressed": lambda api: Answer(200, gzip.compress(whole(api, STEPS)), headers={"content-encoding": "gzip"}),
    "cut off": lambda api: Answer(200, whole(api, STEPS)[:-3]),
    "nested deeply": lambda _: Answer(200, b'{"a":' * 100_000),
    "an array": lambda _: Answer(200, b"[]"),
}


@pairs
@pytest.mark.parametrize("case", WHOLE)
def test_what_is_no_answer_is_an_error_of_the_clients_api(edge: Edge, client: str, kind: str, case: str) -> None:
    for streaming in (False, True):
        got = edge.ask(client, kind, WHOLE[case], stream=streaming)
        assert got.status_code in (500, 502, 503), got.text
        assert is_error(client, got.json())
        assert "secret" not in got.text
    assert fine(edge, client, kind)


def _framed(api: ProviderName, payload: bytes) -> bytes:
    """An event of a stream with this payload."""
    if api == "bedrock":
        return frame("contentBlockDelta", payload)
    return payload + b"\n" if api == "ollama" else b"data: " + payload + b"\n\n"


def _streamed(api: ProviderName, events: bytes, **headers: str) -> Answer:
    parts = [events[at : at + 4096] for at in range(0, len(events), 4096)]
    return Answer(200, parts, STREAMS[api], {name.replace("_", "-"): text for name, text in headers.items()})


BROKEN: dict[str, Callable[[ProviderName], Answer]] = {
    "cut off in an event": lambda api: _streamed(api, stream(api, STEPS)[: stream(api, STEPS).index(b'"H') + 3]),
    "no UTF-8": lambda api: _streamed(api, stream(api, STEPS).replace(b'"H', b'"secret\xff')),
    "a page": lambda api: _streamed(api, PAGE),
    "compressed": lambda api: _streamed(api, gzip.compress(stream(api, STEPS)), content_encoding="gzip"),
    "nested deeply": lambda api: _streamed(api, _framed(api, b'{"a":' * 50_000)),
    "not of objects": lambda api: _streamed(api, _framed(api, b'"secret"')),
    "empty": lambda api: _streamed(api, b"\n"),
}


@pairs
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_stream_ends_with_an_error_of_the_clients_api(edge: Edge, client: str, kind: str, case: str) -> None:
    got = edge.ask(client, kind, BROKEN[case], stream=True)
    assert got.status_code == 200
    assert is_error(client, events(got.text)[-1])
    assert "secret" not in got.text
    assert "[DONE]" not in got.text
    assert "message_stop" not in got.text
    assert len(got.content) < 4096
    assert fine(edge, client, kind)


@pairs
def test_an_answer_of_nothing_is_no_success(edge: Edge, client: str, kind: str) -> None:
    for streaming in (False, True):
        assert edge.ask(client, kind, lambda _: Answer(200, b""), stream=streaming).status_code == 502


@each_api
def test_an_answer_of_10_mib_passes(edge: Edge, client: str, kind: str) -> None:
    got = edge.ask(client, kind, lambda api: Answer(200, whole(api, [Step("text", "A" * LONG)])))
    assert got.status_code == 200
    assert got.text.count("A") >= LONG
    assert len(got.content) < LONG + 8192


@each_api
def test_a_line_of_10_mib_passes(edge: Edge, client: str, kind: str) -> None:
    got = edge.ask(client, kind, lambda api: _streamed(api, stream(api, [Step("text", "A" * LONG)])), stream=True)
    assert got.text.count("A") >= LONG
    assert len(got.content) < LONG + 8192
    assert not is_error(client, events(got.text)[-1])


REFUSED: dict[str, bytes] = {
    "no UTF-8": json.dumps(body("KIND")).encode().replace(b'"hi"', b'"\xff\xfe"'),
    "cut off": json.dumps(body("KIND")).encode()[:-2],
    "nested deeply": json.dumps(body("KIND")).encode()[:-1] + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "a lone surrogate": json.dumps(body("KIND")).encode().replace(b'"hi"', b'"\\ud800"'),
    "no messages": b'{"model":"KIND","max_tokens":9,"messages":{"role":{"role":[]}}}',
}


@pairs
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_request_is_refused_and_not_sent(edge: Edge, client: str, kind: str, case: str) -> None:
    got = edge.send(client, kind, REFUSED[case].replace(b"KIND", kind.encode()))
    assert got.status_code == 400, got.text
    assert is_error(client, got.json())
    assert not edge.providers[kind].asked


@pairs
def test_a_compressed_request_is_refused_and_not_sent(edge: Edge, client: str, kind: str) -> None:
    got = edge.send(client, kind, gzip.compress(json.dumps(body(kind)).encode()), content_encoding="gzip")
    assert got.status_code == 400, got.text
    assert is_error(client, got.json())
    assert not edge.providers[kind].asked


@each_api
def test_a_request_of_10_mib_in_one_line_passes(edge: Edge, client: str, kind: str) -> None:
    text = "A" * LONG
    got = edge.send(client, kind, json.dumps(body(kind) | {"messages": [{"role": "user", "content": text}]}).encode())
    assert got.status_code == 200, got.text
    (asked,) = edge.providers[kind].asked
    assert asked.body.count(b"A") >= LONG
    assert len(asked.body) < LONG + 4096


def test_a_stream_that_the_provider_breaks_off_is_broken_for_the_client(edge: Edge) -> None:
    def breaks(api: ProviderName) -> Answer:
        return streamed(stream(api, STEPS)[:-60], breaks=True, kind=STREAMS[api])

    for client, kind in PAIRS:
        try:
            got = edge.ask(client, kind, breaks, stream=True)
        except httpx.RemoteProtocolError:
            continue  # Envoy breaks the client's stream off, too
        assert "[DONE]" not in got.text
        assert "message_stop" not in got.text


def is_error(client: str, found: Any) -> bool:
    """Whether this is an error in the shape of the client's API."""
    if not isinstance(found, dict) or not isinstance(found.get("error"), dict):
        return False
    if client == "anthropic":
        return found["type"] == "error" and set(found["error"]) == {"type", "message"}
    return set(found) == {"error"} and set(found["error"]) == {"message", "type", "param", "code"}


def events(text: str) -> list[Any]:
    """The payloads of a stream's events."""
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def fine(edge: Edge, client: str, kind: str) -> bool:
    """Whether the next request is answered."""
    got = edge.send(client, kind, json.dumps(body(kind)).encode())
    return got.status_code == 200 and "Hello" in got.text
