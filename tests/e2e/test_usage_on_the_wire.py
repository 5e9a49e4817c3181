"""The usage that Envoy reads from answers, and that asking for it changes nothing that a client or provider sees."""

import json
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from extproc.usage.entries import Entry, parse
from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider, SeenRequest

_SPENT = "mock+usage=19%2C10+cached-tokens=8"
_POLICY = """
providers:
  one: {{kind: openai, base_url: "{mock}/v1", api_key: {{env: ONE}}}}
  deep: {{kind: openai, base_url: "{mock}/openai/v1"}}
  plain: {{kind: openai, base_url: "{mock}/v1", stream_usage: false}}
models:
  "mock*": one
  renamed: {{provider: one, model: "vendor/upstream-name"}}
  never: plain
  never-renamed: {{provider: plain, model: x}}
  lanes:
    try:
      - {{provider: one, model: mock+status=503}}
      - {{provider: one, model: last-resort}}
keys:
  alice: {{secret: {{env: ALICE}}}}
"""
_ENV = {"ALICE": "sk-alice-0123456789abcdef", "ONE": "provider-one-secret"}
_MESSAGES: Any = [{"role": "user", "content": "one two three"}]
_ON = '"stream_options":{"include_usage":true}'


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProvider]:
    with MockProvider() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(mock: MockProvider) -> Iterator[Gateway]:
    with Gateway(_POLICY.format(mock=f"http://{mock.address}"), env=_ENV, key=_ENV["ALICE"]) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.client() as made:
        yield made


class Wire:
    """Requests by id: every request gets one of its own, by which its log entry is found."""

    def __init__(self, gateway: Gateway, mock: MockProvider) -> None:
        self.id = uuid.uuid4().hex
        self.headers = {"x-request-id": self.id}
        self._gateway, self._mock = gateway, mock

    def entry(self) -> Entry:
        """The one entry of the access log, once it is written."""
        path = self._gateway.folder / "state" / "usage" / "requests.log"

        def look() -> list[Entry]:
            lines = path.read_bytes().split(b"\n")[:-1]
            return [found for found in map(parse, lines) if found.id == self.id]

        (found,) = eventually(look, f"an entry for {self.id}")
        return found

    def usage(self) -> dict[str, Any]:
        (text,) = self.entry().usage
        found: dict[str, Any] = json.loads(text)
        return found

    def seen(self) -> SeenRequest:
        """What the provider received last."""
        return self._mock.requests(last=1)[0]

    def post(self, body: str | bytes, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
        sent = {"authorization": f"Bearer {self._gateway.key}", "content-type": "application/json", **self.headers}
        return self._gateway.http.post(
            path, content=body, headers=sent | {name.replace("_", "-"): value for name, value in headers.items()}
        )


@pytest.fixture
def wire(gateway: Gateway, mock: MockProvider) -> Wire:
    mock.forget()
    return Wire(gateway, mock)


def stream(client: openai.OpenAI, wire: Wire, model: str, **more: Any) -> list[ChatCompletionChunk]:
    return list(
        client.chat.completions.create(model=model, messages=_MESSAGES, stream=True, extra_headers=wire.headers, **more)
    )


def direct(mock: MockProvider, body: str, path: str = "/chat/completions", **headers: str) -> bytes:
    """What the provider answers to these bytes when it is asked without a gateway."""
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.post(f"{mock.base_url}{path}", content=body, headers=sent).content


def test_a_stream_has_usage_that_its_client_does_not_see(client: openai.OpenAI, wire: Wire) -> None:
    chunks = stream(client, wire, _SPENT)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said: one two three"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert wire.seen().json()["stream_options"] == {"include_usage": True}
    entry = wire.entry()
    assert (entry.names.client, entry.names.model, entry.names.answered) == ("alice", _SPENT, _SPENT)
    assert (entry.course.streamed, entry.course.complete, entry.course.status, entry.course.surface) == (
        True,
        True,
        200,
        "chat/completions",
    )
    usage = wire.usage()
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (19, 10, 29)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 8


@pytest.mark.parametrize("model", ["mock", "mock+chunks=400", "mock+chunk-delay=1ms+chunks=20"])
def test_the_stream_is_the_one_of_a_provider_that_was_not_asked(wire: Wire, mock: MockProvider, model: str) -> None:
    """All bytes but the ids, which the mock makes from the request."""
    body = json.dumps({"model": model, "messages": _MESSAGES, "stream": True})
    asked = body.replace(f'"{model}"', f'"{model}",{_ON}')
    answer = wire.post(body)
    assert wire.seen().body.decode() == asked
    events = direct(mock, asked).split(b"\n\n")
    assert answer.content.split(b"\n\n") == [event for event in events if b'"choices":[]' not in event]
    assert "content-length" not in answer.headers
    assert wire.entry().course.complete


def test_a_client_that_asked_sees_the_usage(client: openai.OpenAI, wire: Wire) -> None:
    chunks = stream(client, wire, _SPENT, stream_options={"include_usage": True})
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert wire.usage() == last.usage.model_dump(exclude_unset=True)
    assert last.usage.total_tokens == 29


def test_a_client_that_asked_for_none_sees_none(client: openai.OpenAI, wire: Wire) -> None:
    chunks = stream(client, wire, _SPENT, stream_options={"include_usage": False})
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert wire.usage()["total_tokens"] == 29


def test_a_plain_answer(client: openai.OpenAI, wire: Wire) -> None:
    answer = client.chat.completions.create(model=_SPENT, messages=_MESSAGES, extra_headers=wire.headers)
    assert answer.usage is not None
    assert wire.usage() == answer.usage.model_dump(exclude_unset=True)
    assert "stream_options" not in wire.seen().json()
    assert (wire.entry().course.streamed, wire.entry().course.complete) == (False, True)


def test_text_completions(client: openai.OpenAI, wire: Wire) -> None:
    chunks = list(client.completions.create(model=_SPENT, prompt="one two", stream=True, extra_headers=wire.headers))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert wire.usage()["total_tokens"] == 29
    assert wire.entry().course.surface == "completions"


def test_embeddings_of_more_than_a_mebibyte(client: openai.OpenAI, wire: Wire) -> None:
    answer = client.embeddings.create(
        model="mock", input=["one two three"] * 64, dimensions=1536, encoding_format="float", extra_headers=wire.headers
    )
    assert len(answer.data) == 64
    entry = wire.entry()
    assert entry.bytes_out > 1 << 20
    assert (entry.names.answered, wire.usage()["prompt_tokens"]) == ("mock", answer.usage.prompt_tokens)


def test_a_streamed_response(client: openai.OpenAI, wire: Wire) -> None:
    events = list(client.responses.create(model=_SPENT, input="one two", stream=True, extra_headers=wire.headers))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.usage is not None
    assert "stream_options" not in wire.seen().json()
    usage = wire.usage()
    assert usage == last.response.usage.model_dump(exclude_unset=True)
    assert (usage["input_tokens"], usage["output_tokens"]) == (19, 10)


def test_a_streamed_response_longer_than_what_is_looked_at(client: openai.OpenAI, wire: Wire) -> None:
    model = "mock+usage=19%2C10+size=256KiB+chunks=4"
    events = list(client.responses.create(model=model, input="one", stream=True, extra_headers=wire.headers))
    assert events[-1].type == "response.completed"
    assert (wire.usage()["input_tokens"], wire.usage()["output_tokens"]) == (19, 10)


def test_an_abandoned_stream(client: openai.OpenAI, wire: Wire) -> None:
    model = "mock+chunks=500+chunk-delay=100ms"
    with client.chat.completions.create(
        model=model, messages=_MESSAGES, stream=True, extra_headers=wire.headers
    ) as chunks:
        for _ in range(2):
            next(chunks)
    entry = wire.entry()
    assert (entry.course.complete, entry.usage, entry.names.model, entry.course.status) == (False, (), model, 200)
    assert 0 < entry.bytes_out < 50_000  # of three times as many


def test_a_stream_that_the_provider_breaks_off(client: openai.OpenAI, wire: Wire) -> None:
    with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
        stream(client, wire, "mock+fail-after=3")
    assert (wire.entry().course.complete, wire.entry().usage) == (False, ())


def test_a_stream_without_usage(client: openai.OpenAI, wire: Wire) -> None:
    assert stream(client, wire, "mock+no-usage=1")
    assert (wire.entry().course.complete, wire.entry().usage) == (True, ())


def test_an_error_of_the_provider(client: openai.OpenAI, wire: Wire) -> None:
    with pytest.raises(openai.RateLimitError):
        stream(client, wire, "mock+status=429")
    assert (wire.entry().course.status, wire.entry().usage) == (429, ())


@pytest.mark.parametrize(("model", "upstream"), [("never", "never"), ("never-renamed", "x")])
def test_a_provider_that_refuses_the_option_is_not_asked(
    client: openai.OpenAI, wire: Wire, model: str, upstream: str
) -> None:
    assert stream(client, wire, model)
    assert "stream_options" not in wire.seen().json()
    assert wire.seen().json()["model"] == upstream
    assert (wire.entry().course.complete, wire.entry().usage) == (True, ())


_START = '{ "z" : 1E+2 , "model" :  "NAME"'
_REST = ' , "messages":[{"role":"user","content":"\\u00e9 \\"stream\\":true"}],"y":9007199254740993, "stream" : true'
_BODIES = {
    "none": (_START + _REST + "}", _START + "," + _ON + _REST + "}"),
    "empty": (
        _START + _REST + ',"stream_options": { } }',
        _START + _REST + ',"stream_options": {"include_usage":true } }',
    ),
    "null": ('{"stream_options":null,' + _START[1:] + _REST + "}", "{" + _ON + "," + _START[1:] + _REST + "}"),
    "asked": (_START + _REST + "," + _ON + "}", _START + _REST + "," + _ON + "}"),
}


@pytest.mark.parametrize("case", _BODIES)
def test_only_the_name_and_the_option_change(wire: Wire, case: str) -> None:
    body, expected = _BODIES[case]
    answer = wire.post(body.replace("NAME", "renamed").encode())
    assert answer.status_code == 200, answer.text
    assert wire.seen().body.decode() == expected.replace("NAME", "vendor/upstream-name")
    assert wire.seen().header("content-length") == str(len(wire.seen().body))
    assert wire.entry().names.model == "renamed"
    assert wire.entry().names.answered == "vendor/upstream-name"


def test_every_attempt_of_a_chain_is_asked(client: openai.OpenAI, wire: Wire, mock: MockProvider) -> None:
    chunks = stream(client, wire, "lanes")
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    first, second = mock.requests()
    for seen, model in ((first, "mock+status=503"), (second, "last-resort")):
        assert seen.json()["stream_options"] == {"include_usage": True}
        assert seen.json()["model"] == model
        assert seen.header("content-length") == str(len(seen.body))
    entry = wire.entry()
    assert (entry.course.attempts, entry.names.model, entry.names.answered) == (2, "lanes", "last-resort")
    assert wire.usage()["completion_tokens"] > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_a_compressed_answer_arrives_intact(wire: Wire, mock: MockProvider, streamed: bool) -> None:
    body = json.dumps({"model": "mock+gzip=1", "messages": _MESSAGES, "stream": streamed})
    answer = wire.post(body)
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.content == direct(mock, wire.seen().body.decode())
    assert (wire.entry().course.complete, wire.entry().usage) == (True, ())


def test_a_provider_is_not_offered_compression(wire: Wire) -> None:
    wire.post(json.dumps({"model": "mock", "messages": _MESSAGES}), accept_encoding="gzip, br")
    assert wire.seen().header("accept-encoding") is None
    assert wire.usage()["completion_tokens"] > 0


def answered(wire: Wire, body: bytes, content_type: str) -> httpx.Response:
    """The answer to a streamed request whose usage the client did not ask for, where the provider sends `body`."""
    sent = json.dumps({"model": "mock", "messages": _MESSAGES, "stream": True})
    return wire.post(sent, x_mock_body=quote(body), x_mock_content_type=content_type)


@pytest.mark.parametrize("indent", [None, 2])
def test_an_answer_in_lines(wire: Wire, indent: int | None) -> None:
    usage = {"prompt_tokens": 3, "details": {"a": [1, 2]}, "completion_tokens": 4}
    body = json.dumps({"model": "m", "usage": usage, "x": "é"}, indent=indent).encode()
    assert answered(wire, body, "application/json").content == body
    assert (wire.entry().names.answered, wire.usage()) == ("m", usage)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\r\n"])
def test_a_stream_with_other_line_ends(wire: Wire, end: bytes) -> None:
    before = b': ping\r\n\r\ndata: {"model":"m","choices":[{}]}\r\n\r\n'
    hidden = b'data: {"model":"m","choices":[],"usage":{"total_tokens":3}}\r\n\r\n'
    answer = answered(wire, before + hidden + b"data: [DONE]" + end, "text/event-stream")
    assert answer.content == before + b"data: [DONE]" + end
    assert (wire.entry().names.answered, wire.usage()) == ("m", {"total_tokens": 3})


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "text/html"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"\xff\xfe","usage":{"x":"\xc3\x28 \x00\x01"}}',
        b'data: {"model":"\\u0000","choices":[{}],"usage":{"a":"' + b"x" * 5000 + b'"}}',
        b'"usage":{' * 1000,
        bytes(range(256)) * 20,
        b"\n\n\n",
    ],
)
def test_strange_answers_arrive_and_have_an_entry(wire: Wire, body: bytes, content_type: str) -> None:
    answer = answered(wire, body, content_type)
    assert (answer.status_code, answer.content) == (200, body)
    assert wire.entry().course.complete


@pytest.mark.parametrize("name", [b"mock-\xff\xfe", b"mock-\xc3\xa9", b"mock-\\u00e9", b"mock-'\\\\"])
def test_strange_names_have_an_entry(wire: Wire, name: bytes) -> None:
    wire.post(b'{"model":"' + name + b'","messages":[]}')
    assert wire.entry().names.model.startswith("mock-")
