"""Requests with anything in any place, and embeddings both ways: translated, or refused in one way; never a crash.

What is sent grows by a small factor only, and so does what is told of it.
"""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.translate import PROVIDERS, ClientAPI, Options, ProviderName, Refused, Stamp, Upstream, refusal, request
from tests.unit.translate.test_answers import VALUES, places

STAMP = Stamp("id-1", 1)
MODEL = "amazon.titan-embed-text-v2:0"  # the one that embeds on Bedrock; others take any name
IMAGE = "data:image/png;base64,aW1n"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
OPENAI: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "t"},
                {"type": "image_url", "image_url": {"url": IMAGE, "detail": "high"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
            ],
        },
        {
            "role": "assistant",
            "content": "x",
            "reasoning_details": [{"type": "reasoning.text", "text": "t", "signature": "s", "index": 0}],
            "tool_calls": [CALL | {"extra_content": {"google": {"thought_signature": "g"}}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "r"},
        {"role": "user", "content": "u"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}}
    ],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
    "stream": True,
    "stream_options": {"include_usage": True},
    "stop": ["x"],
    "max_tokens": 4000,
    "temperature": 0.5,
    "reasoning_effort": "low",
    "parallel_tool_calls": False,
    "user": "u",
}
SOURCE = {"type": "base64", "media_type": "image/png", "data": "aW1n"}
ANTHROPIC: dict[str, Any] = {
    "model": "m",
    "max_tokens": 4000,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image", "source": SOURCE},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}, "title": "t"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "r", "is_error": True}]},
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA, "strict": True}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "stop_sequences": ["x"],
    "metadata": {"user_id": "u"},
    "stream": True,
}
EMBEDDINGS: dict[str, Any] = {"model": "m", "input": ["a"], "dimensions": 256, "encoding_format": "base64", "user": "u"}
VALID: dict[ClientAPI, dict[str, Any]] = {
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
    "openai_embeddings": EMBEDDINGS,
}
POLICIES = st.sampled_from([Options(), Options(unsupported="drop")])
every = pytest.mark.parametrize(
    ("client", "provider"), [(client, provider) for client in VALID for provider in PROVIDERS]
)


def valid(client: ClientAPI, provider: ProviderName) -> dict[str, Any]:
    """A request that the provider can be sent."""
    body = copy.deepcopy(VALID[client])
    if client == "openai" and provider in ("cohere", "ollama"):  # they take no files
        del body["messages"][1]["content"][2]
    return body


@every
def test_without_anything_wrong_they_are_sent(client: ClientAPI, provider: ProviderName) -> None:
    made = request(client, provider, json.dumps(valid(client, provider)).encode(), MODEL, STAMP, Options("drop"))
    assert isinstance(made, Refused) is (client == "openai_embeddings" and provider == "anthropic"), made


@every
@settings(max_examples=40)
@given(data=st.data(), options=POLICIES)
def test_any_value_in_any_place_is_translated_or_refused(
    client: ClientAPI, provider: ProviderName, data: st.DataObject, options: Options
) -> None:
    body = valid(client, provider)
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = data.draw(st.sampled_from(places(body)))
        holder[key] = data.draw(VALUES)
    judged(client, provider, json.dumps(body).encode(), options)


@every
@settings(max_examples=40)
@given(data=st.data(), options=POLICIES)
def test_any_bytes_in_a_request_are_translated_or_refused(
    client: ClientAPI, provider: ProviderName, data: st.DataObject, options: Options
) -> None:
    body = bytearray(json.dumps(valid(client, provider)).encode())
    for place, noise in data.draw(st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=8)), max_size=4)):
        at = place % (len(body) + 1)
        body[at : at + data.draw(st.integers(0, 8))] = noise
    judged(client, provider, bytes(body), options)


def judged(client: ClientAPI, provider: ProviderName, body: bytes, options: Options) -> None:
    """What comes out is one of two things, and not much more than what went in."""
    result = request(client, provider, body, MODEL, STAMP, options)
    if isinstance(result, Refused):
        answer = refusal(result, client)
        assert answer.status == 400
        assert json.loads(answer.body)["error"]["message"]
        assert len(answer.body) < 8192
        return
    assert isinstance(json.loads(result.body), dict)
    assert len(result.body) <= 4 * len(body) + 4096
    told = ", ".join([*result.dropped, *result.warnings])
    assert told.isascii()
    assert len(told) < 8192


ANSWERS: dict[ProviderName, dict[str, Any]] = {
    "gemini": {"embeddings": [{"values": [0.5, 1]}]},
    "cohere": {"embeddings": {"float": [[0.5, 1]]}, "meta": {"billed_units": {"input_tokens": 3}}},
    "ollama": {"embeddings": [[0.5, 1]], "prompt_eval_count": 3},
    "bedrock": {"embedding": [0.5, 1], "inputTextTokenCount": 3},
}


@pytest.mark.parametrize("provider", ANSWERS)
@settings(max_examples=100)
@given(data=st.data())
def test_any_value_in_an_answer_of_embeddings_is_read_or_an_error(provider: ProviderName, data: st.DataObject) -> None:
    made = request("openai_embeddings", provider, json.dumps(EMBEDDINGS).encode(), MODEL, STAMP, Options("drop"))
    assert isinstance(made, Upstream)
    answer = copy.deepcopy(ANSWERS[provider])
    assert made.exchange.whole(200, {}, json.dumps(answer).encode()).status == 200
    for _ in range(data.draw(st.integers(1, 2))):
        holder, key = data.draw(st.sampled_from(places(answer)))
        holder[key] = data.draw(VALUES)
    found = made.exchange.whole(200, {}, json.dumps(answer).encode())
    assert found.status == 200 or json.loads(found.body)["error"]["message"]
