"""Requests between dialects: what is kept, what is named, what is refused."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.translate import PROVIDERS, Options, ProviderName, Refused, Stamp, Upstream, refusal, request
from extproc.translate.clients import anthropic as anthropic_client
from extproc.translate.clients import openai as openai_client
from extproc.translate.losses import Losses
from extproc.translate.neutral import Chat, Text, ToolResult
from extproc.translate.providers import anthropic, openai
from tests.unit.translate.requests import chats

STAMP = Stamp("id-1", 1)
DROP = Options(unsupported="drop")
FOREIGN: tuple[ProviderName, ...] = ("anthropic", "gemini", "cohere", "ollama", "bedrock")


def sent(body: dict[str, Any], provider: ProviderName, options: Options = DROP, model: str = "m-1") -> Upstream:
    result = request("openai", provider, json.dumps(body).encode(), model, STAMP, options)
    assert isinstance(result, Upstream), result
    return result


def texts(value: Any, at: str = "") -> list[tuple[str, str]]:
    """Each text that a client made up, and where it stands."""
    if isinstance(value, str):
        return [(at, value)]
    if isinstance(value, list):
        return [found for i, inner in enumerate(value) for found in texts(inner, f"{at}[{i}]")]
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in texts(inner, f"{at}.{name}" if at else name)]
    return []


@pytest.mark.parametrize("provider", FOREIGN)
@settings(max_examples=50)
@given(body=chats())
def test_every_text_is_sent_or_named_as_dropped(provider: ProviderName, body: dict[str, Any]) -> None:
    upstream = sent(body, provider)
    found = [text for _, text in texts(json.loads(upstream.body))]
    found += [text for outer in found if outer.startswith("{") for _, text in texts(json.loads(outer))]
    everything = "\n".join(found)  # Ollama's messages are one text
    dropped = upstream.dropped
    if "tool_choice became a request without tools" in upstream.warnings:
        dropped = (*dropped, "tools")
    for at, text in texts(body):
        if "text-" in text and not at.startswith(dropped):
            wanted = json.loads(text)["z"] if at.endswith("arguments") else text
            assert wanted in everything, at


@pytest.mark.parametrize("provider", FOREIGN)
@settings(max_examples=50)
@given(body=chats())
def test_every_parameter_is_sent_or_named_or_asks_for_nothing(provider: ProviderName, body: dict[str, Any]) -> None:
    """A parameter that is neither named as dropped nor warned of makes a difference in what is sent."""
    upstream = sent(body, provider)
    spoken_of = " ".join((*upstream.dropped, *upstream.warnings))
    for name in set(body) - {"model", "messages", "tools"}:
        if name in spoken_of or asks_for_nothing(name, body):
            continue
        without = sent({key: value for key, value in body.items() if key != name}, provider)
        assert (without.body, without.path) != (upstream.body, upstream.path), name


def asks_for_nothing(name: str, body: dict[str, Any]) -> bool:
    value = body[name]
    if name in ("tool_choice", "parallel_tool_calls"):  # nothing to choose from, or what happens anyway
        return "tools" not in body or value in ("auto", True) or body.get("tool_choice") == "none"
    default = {"n": 1, "logit_bias": {}, "service_tier": "auto", "response_format": {"type": "text"}}
    return value == default.get(name) or value in (False, 0)


@given(body=chats())
def test_to_anthropic_and_back_the_conversation_is_the_same(body: dict[str, Any]) -> None:
    there = openai_client.read(body, Losses())
    call = anthropic.write(there, "m", Options())
    back = anthropic_client.read(json.loads(json.dumps(call.body)), Losses())
    assert conversation(back) == conversation(there)
    assert [(tool.name, tool.description, tool.schema) for tool in back.tools] == [
        (tool.name, tool.description, tool.schema) for tool in there.tools
    ]
    again = openai.write(openai.OPENAI, back, "m", Options())
    assert conversation(openai_client.read(again.body, Losses())) == conversation(there)


def conversation(chat: Chat) -> list[tuple[str, Any]]:
    """What was said by whom, without where it stood; arguments as values, results in one piece."""
    said: list[tuple[str, Any]] = []
    for turn in chat.turns:
        for part in turn.parts:
            plain = dataclasses.asdict(dataclasses.replace(part, at=""))
            if isinstance(part, ToolResult):
                plain["parts"] = part.text
            if "arguments" in plain:
                plain["arguments"] = part.arguments_object
            if not isinstance(part, Text) or part.text:
                said.append((turn.role, plain))
    return said


@pytest.mark.parametrize("provider", ["openai", "openrouter", "gemini", "cohere", "ollama", "bedrock"])
@settings(max_examples=50)
@given(body=chats())
def test_every_text_of_anthropics_clients_is_sent_or_named(provider: ProviderName, body: dict[str, Any]) -> None:
    """Their requests are made from OpenAI's, which is known by now to lose nothing."""
    call = anthropic.write(openai_client.read(body, Losses()), "claude-sonnet-5", Options())
    result = request("anthropic", provider, json.dumps(call.body).encode(), "m", STAMP, DROP)
    assert isinstance(result, Upstream)
    found = [text for _, text in texts(json.loads(result.body))]
    found += [text for outer in found if outer.startswith("{") for _, text in texts(json.loads(outer))]
    dropped = result.dropped
    if "tool_choice became a request without tools" in result.warnings:
        dropped = (*dropped, "tools")
    for at, text in texts(call.body):
        assert "text-" not in text or at.startswith(dropped) or text in "\n".join(found), at


@given(body=chats(), provider=st.sampled_from(FOREIGN), policy=st.sampled_from(["refuse", "drop"]))
def test_names_and_warnings_fit_into_headers(body: dict[str, Any], provider: ProviderName, policy: Any) -> None:
    result = request("openai", provider, json.dumps(body).encode(), "m", STAMP, Options(unsupported=policy))
    named = [result.param] if isinstance(result, Refused) else [*result.dropped, *result.warnings]
    assert all(text.isascii() and text.isprintable() and len(text) < 200 for text in named)
    if isinstance(result, Refused):
        assert result.code == "unsupported_parameter"
        assert policy == "refuse"


def test_hints_are_dropped_and_named_even_when_parameters_are_refused() -> None:
    body = {"model": "a", "messages": [{"role": "user", "content": "x", "name": "ann"}], "metadata": {"a": "b"}}
    upstream = sent(body, "anthropic", Options(unsupported="refuse"))
    assert upstream.dropped == ("messages[0].name", "metadata")


def test_a_million_unknown_fields_are_counted_not_listed() -> None:
    body: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "x"}]}
    upstream = sent(body | {f"field{i}" * 50: 1 for i in range(1000)}, "gemini")
    assert len(upstream.dropped) == 33
    assert upstream.dropped[-1] == "+968"
    assert sum(map(len, upstream.dropped)) < 5000


def test_names_of_fields_cannot_break_a_header() -> None:
    body = {"model": "a", "messages": [{"role": "user", "content": "x"}], "a\r\nset-cookie: x, é": 1}
    assert sent(body, "cohere").dropped == ("a??set-cookie:?x???",)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", ""),
        (b"[]", ""),
        (b"\xff\xfe{}", ""),
        (b"<html></html>", ""),
        (b"[" * 100_000, ""),
        (b'{"model":"a","messages":[{"role":"user","content":"\xc3\x28"}]}', ""),
        (b'{"model":1,"messages":[]}', "model"),
        (b'{"model":"a"}', "messages"),
        (b'{"model":"a","messages":[1]}', "messages[0]"),
        (b'{"model":"a","messages":[{"role":"robot","content":"x"}]}', "messages[0].role"),
        (b'{"model":"a","messages":[{"role":"user","content":[{"type":"text"}]}]}', "messages[0].content[0].text"),
        (b'{"model":"a","messages":[{"role":"user","content":"x"}],"tool_choice":"required"}', "tool_choice"),
        (b'{"model":"a","messages":[{"role":"user","content":"x"}],"max_tokens":"9"}', "max_tokens"),
        (b'{"model":"a","messages":[{"role":"user","content":"x"}],"stop":[1]}', "stop"),
    ],
)
def test_bodies_that_are_no_request_are_refused_by_place(body: bytes, param: str) -> None:
    for provider in FOREIGN:
        result = request("openai", provider, body, "m", STAMP, DROP)
        assert isinstance(result, Refused)
        assert (result.code, result.param) == ("invalid_request", param)
        assert json.loads(refusal(result, "openai").body)["error"]["code"] == "invalid_request"


def test_arguments_that_are_no_json_are_refused_by_place() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{oops"}}
    body = {"model": "a", "messages": [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "x"}]}
    result = request("openai", "anthropic", json.dumps(body).encode(), "m", STAMP, DROP)
    assert isinstance(result, Refused)
    assert result.param == "messages[0].tool_calls[0]"


@pytest.mark.parametrize("provider", ["anthropic", "bedrock"])
def test_ids_of_calls_from_elsewhere_are_made_fit(provider: ProviderName) -> None:
    call = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "x"},
    ]
    assert sent({"model": "a", "messages": messages}, provider).body.count(b'"functions_f_0"') == 2


def test_thinking_of_other_models_does_not_go_to_anthropic() -> None:
    """A conversation that another provider served in between goes on at Anthropic, which refuses unsigned thinking."""
    own, foreign = ({"type": "thinking", "thinking": "t", "signature": signature} for signature in ("s==", ""))
    said = [own, foreign, {"type": "text", "text": "x"}]
    body = {"model": "a", "messages": [{"role": "assistant", "content": said}, {"role": "assistant", "content": "y"}]}
    result = request("anthropic", "anthropic", json.dumps(body).encode(), "m", STAMP, Options())
    assert isinstance(result, Upstream)
    assert result.dropped == ("messages[0].content[1]",)
    body["messages"][0]["content"].remove(foreign)  # type: ignore[index]
    assert json.loads(result.body) == body | {"model": "m"}
    again = request("anthropic", "anthropic", json.dumps(body).encode(), "m", STAMP, Options())
    assert isinstance(again, Upstream)
    assert (again.body, again.dropped) == (json.dumps(body | {"model": "m"}).encode(), ())


def test_a_result_without_its_call_is_refused_where_the_call_names_the_function() -> None:
    body = {"model": "a", "messages": [{"role": "tool", "tool_call_id": "lost", "content": "x"}]}
    for provider in ("gemini", "ollama"):
        result = request("openai", provider, json.dumps(body).encode(), "m", STAMP, DROP)
        assert isinstance(result, Refused)
        assert result.param == "messages[0]"


@pytest.mark.parametrize("depth", [200, 900])
def test_a_schema_nested_deeply_goes_through_or_is_refused(depth: int) -> None:
    schema: Any = {}
    for _ in range(depth):
        schema = {"items": schema}
    text = json.dumps({"model": "a", "messages": [{"role": "user", "content": "x"}]})[:-1]
    nested = '{"items":' * depth + "{}" + "}" * depth
    body = f'{text},"tools":[{{"type":"function","function":{{"name":"f","parameters":{nested}}}}}]}}'
    result = request("openai", "anthropic", body.encode(), "m", STAMP, DROP)
    if isinstance(result, Refused):
        assert result.code == "invalid_request"
    else:
        assert nested.encode() in result.body


def test_thinking_leaves_room_for_the_answer() -> None:
    body: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "x"}], "reasoning_effort": "high"}
    limits = {}
    for limit in (None, 1025, 10_000, 100_000):
        found = json.loads(sent(body | {"max_tokens": limit}, "anthropic", model="claude-sonnet-4-5").body)
        limits[limit] = (found["max_tokens"], found["thinking"]["budget_tokens"])
    assert limits == {
        None: (8192 + 24_576, 24_576),
        1025: (1025, 1024),
        10_000: (10_000, 8000),
        100_000: (100_000, 24_576),
    }
    assert sent(body | {"max_tokens": 1024}, "anthropic", model="claude-sonnet-4-5").dropped == ("reasoning_effort",)


@pytest.mark.parametrize(
    ("model", "by_budget"),
    [
        ("claude-3-7-sonnet-20250219", True),
        ("claude-sonnet-4-20250514", True),
        ("claude-opus-4-1", True),
        ("claude-sonnet-4-5-20250929", True),
        ("claude-haiku-4-5", True),
        ("claude-opus-4-6", False),
        ("claude-opus-4-8", False),
        ("claude-sonnet-5", False),
    ],
)
def test_older_models_think_by_budget_newer_ones_by_effort(model: str, by_budget: bool) -> None:
    body = {"model": "a", "messages": [{"role": "user", "content": "x"}], "reasoning_effort": "low"}
    found = json.loads(sent(body, "anthropic", model=model).body)
    assert (found["thinking"]["type"] == "enabled") == by_budget
    assert ("output_config" in found) != by_budget


def test_calls_that_came_back_without_their_thinking_end_it() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    details = [{"type": "reasoning.text", "text": "hm", "signature": "s"}]

    def asked(**more: Any) -> dict[str, Any]:
        said = {"role": "assistant", "content": None, "tool_calls": [call], **more}
        messages = [{"role": "user", "content": "go"}, said, {"role": "tool", "tool_call_id": "c", "content": "1"}]
        tools = [{"type": "function", "function": {"name": "f"}}]
        return {"model": "a", "messages": messages, "tools": tools, "reasoning_effort": "low"}

    without = sent(asked(), "anthropic", model="claude-sonnet-4-5")
    assert without.dropped == ("reasoning_effort",) and "thinking" not in json.loads(without.body)
    kept = sent(asked(reasoning_details=details), "anthropic", model="claude-sonnet-4-5")
    assert json.loads(kept.body)["thinking"]["type"] == "enabled"
    adaptive = sent(asked(), "anthropic", model="claude-opus-4-8")
    assert json.loads(adaptive.body)["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize(
    ("model", "effort", "level"),
    [
        ("gemini-3-flash-preview", "minimal", "MINIMAL"),
        ("gemini-3-flash-preview", "none", "MINIMAL"),
        ("gemini-3.1-pro-preview", "minimal", "LOW"),
        ("gemini-3.1-pro-preview", "none", "LOW"),
        ("gemini-3.1-pro-preview", "high", "HIGH"),
    ],
)
def test_models_are_told_a_level_that_they_have(model: str, effort: str, level: str) -> None:
    body = {"model": "a", "messages": [{"role": "user", "content": "x"}], "reasoning_effort": effort}
    found = json.loads(sent(body, "gemini", model=model).body)
    assert found["generationConfig"]["thinkingConfig"]["thinkingLevel"] == level


def test_a_cache_mark_in_a_tools_result_stands_behind_it_on_bedrock() -> None:
    call = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    text = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [text]}]},
    ]
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    body = {"model": "a", "max_tokens": 5, "tools": tools, "messages": messages}
    result = request("anthropic", "bedrock", json.dumps(body).encode(), "m", STAMP, DROP)
    assert not isinstance(result, Refused)
    assert json.loads(result.body)["messages"][2]["content"] == [
        {"toolResult": {"toolUseId": "c", "content": [{"text": "x"}]}},
        {"cachePoint": {"type": "default"}},
    ]


def test_every_provider_has_a_name_and_takes_the_smallest_request() -> None:
    body = b'{"model":"a","max_tokens":5,"messages":[{"role":"user","content":"x"}]}'
    for provider in PROVIDERS:
        for client in ("openai", "anthropic"):
            result = request(client, provider, body, "m-1", STAMP, Options(unsupported="refuse"))
            assert isinstance(result, Upstream)
            assert b"m-1" in result.body + result.path.encode()
            based = request(client, provider, body, "m-1", STAMP, Options(base_path="/gate/way/"))
            assert isinstance(based, Upstream)
            assert based.path.startswith("/gate/way/")
            assert "//" not in based.path
