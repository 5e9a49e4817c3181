"""Clients of OpenAI's and Anthropic's APIs at providers of every kind, by the official clients through a real Envoy."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest

from tests.support.dialects import ENV, KINDS, answers, entry
from tests.support.gateway import Gateway
from tests.support.sigv4 import is_signed
from tests.support.usage import new_id, only_record
from tests.support.wired import Answer, Asked, WiredProvider
from tests.unit.translate.answers import Step

STEPS = [
    Step("text", "Hello "),
    Step("text", "wörld"),
    Step("call", "Bern", "weather"),
    Step("call", "Rome", "weather"),
]
HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
}
# Path of a chat, of a streamed one, and the header with the credential.
WIRE = {
    "openai": ("/v1/chat/completions", "/v1/chat/completions", "authorization"),
    "azure": ("/openai/v1/chat/completions", "/openai/v1/chat/completions", "api-key"),
    "deployments": (
        "/openai/deployments/up-1/chat/completions?api-version=2024-10-21",
        "/openai/deployments/up-1/chat/completions?api-version=2024-10-21",
        "api-key",
    ),
    "huggingface": ("/v1/chat/completions", "/v1/chat/completions", "authorization"),
    "openrouter": ("/api/v1/chat/completions", "/api/v1/chat/completions", "authorization"),
    "vllm": ("/v1/chat/completions", "/v1/chat/completions", "authorization"),
    "anthropic": ("/v1/messages", "/v1/messages", "x-api-key"),
    "gemini": (
        "/v1beta/models/up-1:generateContent",
        "/v1beta/models/up-1:streamGenerateContent?alt=sse",
        "x-goog-api-key",
    ),
    "cohere": ("/v2/chat", "/v2/chat", "authorization"),
    "ollama": ("/api/chat", "/api/chat", "authorization"),
    "bedrock": ("/model/up-1/converse", "/model/up-1/converse-stream", "authorization"),
}


@dataclass(frozen=True)
class Edge:
    gateway: Gateway
    providers: dict[str, WiredProvider]
    clients: ExitStack

    def anthropic(self, key: str = ENV["ALICE"]) -> anthropic.Anthropic:
        made = anthropic.Anthropic(base_url=self.gateway.url, api_key=key, max_retries=0, timeout=60)
        return self.clients.enter_context(made)

    def openai(self) -> openai.OpenAI:
        return self.clients.enter_context(self.gateway.client())

    def asked(self, kind: str) -> Asked:
        return self.providers[kind].asked[-1]


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with ExitStack() as stack:
        providers = {kind: stack.enter_context(answers(kind, STEPS)) for kind in KINDS}
        entries = [entry(kind, provider.url) for kind, provider in providers.items()]
        drops = entry("anthropic", providers["anthropic"].url, "unsupported: drop").replace("anthropic:", "drops:", 1)
        models = "\n".join(f"  at-{kind}: {{provider: {kind}, model: up-1}}" for kind in KINDS)
        policy = "providers:\n" + "\n".join(f"  {each}" for each in [*entries, drops])
        policy += f"\nmodels:\n{models}\n  at-drops: {{provider: drops, model: up-1}}\n"
        policy += '  nova: {provider: bedrock, model: "amazon.nova-pro-v1:0"}\n'
        policy += "keys:\n  alice: {secret: {env: ALICE}}\n  bob: {secret: {env: BOB}, models: [at-openai]}\n"
        env = {**ENV, "BOB": "bob-secret"}
        gateway = stack.enter_context(Gateway(policy, env=env, key=ENV["ALICE"]))
        yield Edge(gateway, providers, stack.enter_context(ExitStack()))


def _checked(asked: Asked, kind: str, *, stream: bool) -> None:
    """The wire: path, credential, length, and nothing of the client's."""
    path, streaming, header = WIRE[kind]
    assert asked.path == (streaming if stream else path)
    assert ("provider-secret" in asked.headers[header]) is (kind != "bedrock")
    assert "alice-secret" not in str(asked)
    assert not [name for name in asked.headers if name.startswith("x-headgate-") and name != "x-envoy-original-path"]
    if kind == "bedrock":
        signature = asked.headers["authorization"]
        assert signature.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
        assert "/eu-west-1/bedrock/aws4_request" in signature
        assert "aws-secret" not in str(asked)
        assert is_signed(asked, "AKIDEXAMPLE", "aws-secret")


@pytest.mark.parametrize("kind", KINDS)
def test_an_openai_client_at_every_kind(edge: Edge, kind: str) -> None:
    made = edge.openai().chat.completions.create(model=f"at-{kind}", messages=HI, tools=[TOOL])
    _checked(edge.asked(kind), kind, stream=False)
    (choice,) = made.choices
    assert (choice.message.content, choice.finish_reason) == ("Hello wörld", "tool_calls")
    calls: Any = choice.message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("weather", {"a": "Bern"}), ("weather", {"a": "Rome"}),
    ]  # fmt: skip
    assert made.usage is not None
    assert made.usage.completion_tokens == 30


@pytest.mark.parametrize("kind", KINDS)
def test_an_openai_client_streams_from_every_kind(edge: Edge, kind: str) -> None:
    text, calls, reasons, usages = "", "", [], []
    stream = edge.openai().chat.completions.create(
        model=f"at-{kind}", messages=HI, tools=[TOOL], stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        usages += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            text += choice.delta.content or ""
            calls += "".join(call.function.arguments or "" for call in choice.delta.tool_calls or () if call.function)
            reasons += [choice.finish_reason] if choice.finish_reason else []
    _checked(edge.asked(kind), kind, stream=True)
    assert (text, reasons) == ("Hello wörld", ["tool_calls"])
    assert calls.replace(" ", "") == '{"a":"Bern"}{"a":"Rome"}'
    assert [usage.completion_tokens for usage in usages] == [30]


@pytest.mark.parametrize("kind", KINDS)
def test_an_anthropic_client_at_every_kind(edge: Edge, kind: str) -> None:
    made = edge.anthropic().messages.create(model=f"at-{kind}", max_tokens=99, messages=HI)
    _checked(edge.asked(kind), kind, stream=False)
    texts = "".join(block.text for block in made.content if block.type == "text")
    calls = [(block.name, block.input) for block in made.content if block.type == "tool_use"]
    assert (texts, made.stop_reason) == ("Hello wörld", "tool_use")
    assert calls == [("weather", {"a": "Bern"}), ("weather", {"a": "Rome"})]
    assert made.usage.output_tokens == 30


@pytest.mark.parametrize("kind", KINDS)
def test_an_anthropic_client_streams_from_every_kind(edge: Edge, kind: str) -> None:
    with edge.anthropic().messages.stream(model=f"at-{kind}", max_tokens=99, messages=HI) as stream:
        made = stream.get_final_message()
    _checked(edge.asked(kind), kind, stream=True)
    texts = "".join(block.text for block in made.content if block.type == "text")
    calls = [(block.name, block.input) for block in made.content if block.type == "tool_use"]
    assert (texts, calls) == ("Hello wörld", [("weather", {"a": "Bern"}), ("weather", {"a": "Rome"})])
    assert made.usage.output_tokens == 30


def test_a_name_with_a_colon_is_signed_as_aws_reads_it(edge: Edge) -> None:
    edge.openai().chat.completions.create(model="nova", messages=HI)
    asked = edge.asked("bedrock")
    assert asked.path == "/model/amazon.nova-pro-v1%3A0/converse"
    assert is_signed(asked, "AKIDEXAMPLE", "aws-secret")


def test_the_same_dialect_stays_byte_for_byte(edge: Edge) -> None:
    odd = b'{"model" : "at-anthropic","max_tokens":9 , "thinking":{"new":1e400},"messages":[ ],"stream":false}'
    headers = {"x-api-key": ENV["ALICE"], "content-type": "application/json", "anthropic-beta": "new-1"}
    answer = edge.gateway.http.post("/v1/messages?beta=true", content=odd, headers=headers)
    asked = edge.asked("anthropic")
    assert asked.body == odd.replace(b"at-anthropic", b"up-1")
    assert asked.path == "/v1/messages?beta=true"
    assert (asked.headers["anthropic-version"], asked.headers["anthropic-beta"]) == ("2023-06-01", "new-1")
    assert answer.content == edge.providers["anthropic"].answer(asked).body


def test_what_a_provider_says_of_the_gateways_account_stays_inside(edge: Edge) -> None:
    provider = edge.providers["anthropic"]
    said = {"anthropic-organization-id": "org-1", "anthropic-ratelimit-tokens-remaining": "5", "request-id": "req-1"}
    usual, provider.answer = provider.answer, lambda _: Answer(200, b"{}", headers=said)
    try:
        headers = {"x-api-key": ENV["ALICE"], "content-type": "application/json"}
        answer = edge.gateway.http.post("/v1/messages", json={"model": "at-anthropic"}, headers=headers)
    finally:
        provider.answer = usual
    assert {name for name in said if name in answer.headers} == {"request-id"}


def test_tokens_are_counted_where_a_provider_counts_them(edge: Edge) -> None:
    provider = edge.providers["anthropic"]
    usual, provider.answer = provider.answer, lambda _: Answer(200, b'{"input_tokens": 7}')
    try:
        counted = edge.anthropic().messages.count_tokens(model="at-anthropic", messages=HI)
    finally:
        provider.answer = usual
    assert counted.input_tokens == 7
    assert edge.asked("anthropic").path == "/v1/messages/count_tokens"
    # The gateway counts for the others.
    asked = len(edge.providers["gemini"].asked)
    assert edge.anthropic().messages.count_tokens(model="at-gemini", messages=HI).input_tokens == 8
    assert len(edge.providers["gemini"].asked) == asked


@pytest.mark.parametrize("path", ["images/generations", "responses", "audio/speech"])
def test_an_endpoint_that_no_provider_of_the_model_has(edge: Edge, path: str) -> None:
    headers = {"authorization": f"Bearer {ENV['ALICE']}"}
    answer = edge.gateway.http.post(f"/v1/{path}", json={"model": "at-anthropic", "input": "x"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_endpoint")


def test_what_cannot_be_said_is_refused_by_name_or_dropped_by_name(edge: Edge) -> None:
    create = edge.openai().chat.completions.with_raw_response.create
    with pytest.raises(openai.BadRequestError) as caught:
        create(model="at-anthropic", messages=HI, seed=1)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "seed")
    made = create(model="at-drops", messages=HI, seed=1, user="u")
    assert made.headers["x-headgate-dropped"] == "seed"
    assert "seed" not in edge.asked("anthropic").json()
    with pytest.raises(anthropic.BadRequestError, match="'top_k' is not supported"):
        edge.anthropic().messages.create(model="at-openai", max_tokens=9, extra_body={"top_k": 3}, messages=HI)


def test_large_bodies_pass_whole(edge: Edge) -> None:
    picture = "data:image/png;base64," + "iVBORw0KGgo" + "A" * (6 << 20)
    content: Any = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "what is it?"}]
    edge.openai().chat.completions.create(model="at-anthropic", messages=[{"role": "user", "content": content}])
    source = edge.asked("anthropic").json()["messages"][0]["content"][0]["source"]
    assert source["data"] == picture.partition(",")[2]


def test_errors_of_the_edge_have_the_shape_of_the_api(edge: Edge) -> None:
    with pytest.raises(anthropic.AuthenticationError, match="x-api-key: <key>"):
        edge.anthropic("wrong").messages.create(model="at-openai", max_tokens=9, messages=HI)
    with pytest.raises(anthropic.NotFoundError, match="model 'absent' does not exist"):
        edge.anthropic().messages.create(model="absent", max_tokens=9, messages=HI)
    with pytest.raises(anthropic.PermissionDeniedError, match="may not use the model 'at-cohere'"):
        edge.anthropic("bob-secret").messages.create(model="at-cohere", max_tokens=9, messages=HI)
    answer = edge.gateway.http.post("/v1/messages", content=b"{}", headers={"x-api-key": ENV["ALICE"]})
    assert (answer.status_code, answer.json()["type"]) == (400, "error")
    assert answer.json()["error"]["type"] == "invalid_request_error"
    answer = edge.gateway.http.get("/v1/messages", headers={"x-api-key": ENV["ALICE"]})
    assert (answer.status_code, answer.json()["type"]) == (405, "error")


@pytest.mark.parametrize(("kind", "stream"), [("anthropic", False), ("anthropic", True), ("gemini", True)])
def test_records_tell_provider_model_and_usage(edge: Edge, kind: str, stream: bool) -> None:
    name = new_id()
    body = {"model": f"at-{kind}", "messages": HI, "stream": stream}
    headers = {"authorization": f"Bearer {ENV['ALICE']}", "x-request-id": name}
    answer = edge.gateway.http.post("/v1/chat/completions", json=body, headers=headers)
    assert "usage" not in answer.text or not stream  # it was not asked for
    record = only_record(edge.gateway, name)
    assert (record["provider"], record["surface"]) == (kind, "chat/completions")
    assert (record["model"], record["served_model"]) == (f"at-{kind}", "m")  # as the provider calls it
    assert (record["input"], record["output"], record["cached"]) == (70, 30, 40)


def test_an_openai_policy_says_how_to_speak_anthropics() -> None:
    with Gateway("providers: {p: {kind: mock}}\nmodels: {m: p}") as gateway:
        answer = gateway.http.post("/v1/messages", json={"model": "m"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
        assert "gateway.messages" in answer.json()["error"]["message"]
        gateway.apply_edit("providers: {p: {kind: mock}}\nmodels: {m: p}", "messages: true")
        with anthropic.Anthropic(base_url=gateway.url, api_key="x", max_retries=0) as client:
            made = client.messages.create(model="m", max_tokens=99, messages=HI)
        assert [block.type for block in made.content] == ["text"]
