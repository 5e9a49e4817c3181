"""OpenAI's own client, plain HTTP clients and browsers in front of a running gateway."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import Gateway
from tests.support.mock import MockProvider

_POLICY = """
providers:
  up: {{kind: openai, base_url: "{base_url}"}}
models:
  chat-a: up
  chat-b: up
  "family-*": up
  whisper: {{provider: up, model: whisper-large-v3-turbo}}
keys:
  all: {{secret: {{env: KEY_ALL}}}}
  some: {{secret: {{env: KEY_SOME}}, models: [chat-a, "fam*"]}}
"""
_ENV = {"KEY_ALL": "sk-all-0123456789abcdef", "KEY_SOME": "sk-some-0123456789abcdef"}
_CORS = 'cors: {origins: ["https://app.example.com"]}'


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockProvider]:
    with MockProvider() as mock:
        yield mock


@pytest.fixture(scope="module")
def gateway(upstream: MockProvider) -> Iterator[Gateway]:
    policy = _POLICY.format(base_url=upstream.base_url)
    with Gateway(policy, settings=_CORS, env=_ENV, key=_ENV["KEY_ALL"]) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.client() as made:
        yield made


def _hello(text: str = "hello there") -> list[Any]:
    return [{"role": "user", "content": text}]


def test_chat_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="chat-a", messages=_hello())
    assert answer.model == "chat-a"
    assert answer.choices[0].message.content == "You said: hello there"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 6


def test_a_streamed_chat_comes_whole_and_with_its_usage(client: openai.OpenAI) -> None:
    events = list(
        client.chat.completions.create(
            model="chat-a", messages=_hello(), stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == "You said: hello there"
    assert [e.usage.total_tokens for e in events if e.usage] == [6]


def test_completions_answer(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="chat-a", prompt="one two")
    assert answer.choices[0].text == "You said: one two"


def test_embeddings_answer(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="family-small", input=["a", "b"], dimensions=8)
    assert [len(row.embedding) for row in answer.data] == [8, 8]
    assert answer.model == "family-small"


def test_responses_answer(client: openai.OpenAI) -> None:
    assert client.responses.create(model="chat-a", input="hi").output_text == "You said: hi"


def test_streamed_responses_end_with_the_whole_answer(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="chat-a", input="hi", stream=True))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "You said: hi"


def test_images_are_generated(client: openai.OpenAI) -> None:
    answer = client.images.generate(model="chat-b", prompt="a cat", response_format="b64_json")
    assert answer.data
    assert answer.data[0].b64_json


def test_moderations_answer(client: openai.OpenAI) -> None:
    assert client.moderations.create(model="chat-b", input="violence").results[0].flagged


def test_rerank_answers(gateway: Gateway) -> None:
    body = {"model": "chat-b", "query": "red", "documents": ["blue", "red"], "top_n": 1}
    answer = gateway.http.post("/v1/rerank", json=body, headers={"authorization": f"Bearer {gateway.key}"})
    assert answer.status_code == 200
    assert answer.json()["results"][0]["index"] == 1


def test_an_upload_reaches_the_provider_unchanged_but_for_the_model(
    client: openai.OpenAI, upstream: MockProvider
) -> None:
    sound = bytes(range(256)) * 300 + b'\r\n--fake\r\nname="model"\r\n\r\nwhisper'
    answer = client.audio.transcriptions.create(model="whisper", file=("a.wav", sound), language="en")
    assert answer.text
    seen = upstream.requests()[-1]
    assert seen.path == "/v1/audio/transcriptions"
    assert sound in seen.body
    rest = seen.body.replace(sound, b"")
    assert b"\r\n\r\nwhisper-large-v3-turbo\r\n" in rest
    assert b"\r\n\r\nwhisper\r\n" not in rest
    assert b"\r\n\r\nen\r\n" in rest


def test_the_listing_shows_what_the_key_may_use(gateway: Gateway) -> None:
    with gateway.client(_ENV["KEY_SOME"]) as some, gateway.client() as everything:
        assert {m.id for m in some.models.list()} == {"chat-a"}
        assert {"chat-a", "chat-b", "whisper"} <= {m.id for m in everything.models.list()}


def test_one_model_can_be_looked_up(gateway: Gateway) -> None:
    with gateway.client(_ENV["KEY_SOME"]) as some:
        assert some.models.retrieve("chat-a").id == "chat-a"
        for hidden in ("chat-b", "nope"):
            with pytest.raises(openai.NotFoundError) as raised:
                some.models.retrieve(hidden)
            assert raised.value.code == "model_not_found"


def test_an_api_key_header_serves_as_well(gateway: Gateway) -> None:
    answer = gateway.http.post(
        "/v1/chat/completions", json={"model": "chat-a", "messages": _hello()}, headers={"x-api-key": gateway.key}
    )
    assert answer.status_code == 200


def test_http2_with_prior_knowledge(gateway: Gateway) -> None:
    with httpx.Client(http1=False, http2=True, base_url=gateway.url, timeout=60) as http2:
        answer = http2.post(
            "/v1/chat/completions",
            json={"model": "whisper", "messages": _hello()},
            headers={"authorization": f"Bearer {gateway.key}"},
        )
    assert answer.http_version == "HTTP/2"
    assert answer.json()["model"] == "whisper-large-v3-turbo"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/health", 200), ("GET", "/v1/models", 200), ("GET", "/nowhere", 404), ("POST", "/v1/embeddings", 400)],
)
def test_every_answer_has_a_request_id(gateway: Gateway, method: str, path: str, status: int) -> None:
    headers = {"authorization": f"Bearer {gateway.key}"}
    first, second = (gateway.http.request(method, path, headers=headers) for _ in range(2))
    assert first.status_code == status
    assert len(first.headers.get_list("x-request-id")) == 1
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_a_refused_key_gets_a_request_id_too(gateway: Gateway) -> None:
    answer = gateway.chat("chat-a", key="sk-wrong")
    assert answer.status_code == 401
    assert answer.headers["x-request-id"]


def test_the_clients_request_id_stays_and_reaches_the_provider(gateway: Gateway, upstream: MockProvider) -> None:
    answer = gateway.chat("chat-a", x_request_id="trace-me-42")
    assert answer.headers.get_list("x-request-id") == ["trace-me-42"]
    assert upstream.requests(1)[0].header("x-request-id") == "trace-me-42"


def test_a_browser_may_ask_first_without_a_key(gateway: Gateway) -> None:
    asked = {
        "origin": "https://app.example.com",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    answer = gateway.http.options("/v1/chat/completions", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]


def test_only_pages_of_the_origins_named_may_read_answers(gateway: Gateway) -> None:
    ours = gateway.chat("chat-a", origin="https://app.example.com")
    assert ours.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "x-ratelimit-remaining-tokens" in ours.headers["access-control-expose-headers"]
    foreign = gateway.chat("chat-a", origin="https://evil.example.com")
    assert "access-control-allow-origin" not in foreign.headers
    asked = {"origin": "https://evil.example.com", "access-control-request-method": "POST"}
    for path in ("chat/completions", "models"):
        refused = gateway.http.options(f"/v1/{path}", headers=asked)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")
