import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stages import settings
from extproc.stages.protocol import Endpoint, Refusal, Request, opened
from extproc.stages.settings import SettingsError
from extproc.stages.validation import Settings, Validation
from tests.unit.stages.given import asked


def stage(**document: Any) -> Validation:
    return Validation(settings.parse(Settings, json.dumps(document).encode(), "test"))


def refused(body: Any, endpoint: Endpoint = Endpoint.CHAT, **document: Any) -> Refusal | None:
    return stage(**document).request(asked(body, endpoint)).refusal


USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "4"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages or (USER,))} | more


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.CHAT, chat()),
        (Endpoint.CHAT, chat(temperature=None, stop=["a"], n=None, tools=None, unknown=[1], stream=False)),
        (Endpoint.CHAT, chat({"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE, {"type": "new"}]})),
        (Endpoint.CHAT, chat(USER, CALLS, RESULT, USER, tools=[TOOL, {"type": "custom", "custom": {}}])),
        (Endpoint.CHAT, chat({"role": "assistant", "content": "x", "name": "n"})),
        (Endpoint.COMPLETIONS, {"model": "m", "prompt": "x"}),
        (Endpoint.COMPLETIONS, {"model": "m", "prompt": [[1, 2], "x", 3]}),
        (Endpoint.EMBEDDINGS, {"model": "m", "input": ["a", "b"], "dimensions": 3}),
        (Endpoint.RESPONSES, {"model": "m", "input": "x", "tools": [{"type": "web_search"}]}),
        (Endpoint.RESPONSES, {"model": "m", "input": [{"role": "user", "content": "x"}], "instructions": None}),
        (
            Endpoint.MESSAGES,
            {"model": "m", "max_tokens": 5, "messages": [USER], "system": [{"type": "text", "text": "s"}]},
        ),
        (Endpoint.COUNT_TOKENS, {"model": "m", "messages": [USER]}),
        (Endpoint.OTHER, {"anything": True}),
    ],
)
def test_what_is_right_passes(endpoint: Endpoint, body: Any) -> None:
    assert refused(body, endpoint) is None


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"messages": [USER]}, "model", "is missing"),
        ({"model": "m"}, "messages", "is missing"),
        (chat() | {"messages": []}, "messages", "elements at least: 1"),
        (chat() | {"messages": {}}, "messages", "must be a list"),
        (chat(USER, 7), "messages[1]", "must be an object"),
        (chat(USER, {"role": "user"}), "messages[1].content", "is missing"),
        (chat(USER, {"role": "robot", "content": "x"}), "messages[1].role", "must be one of system, developer, user"),
        (chat(USER, USER, {"role": "user", "content": 7}), "messages[2].content", "must be a list or a text."),
        (chat({"role": "user", "content": [{"text": "x"}]}), "messages[0].content[0].type", "is missing"),
        (chat({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text", "is missing"),
        (
            chat({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}),
            "messages[0].content[0].image_url",
            "must be an object",
        ),
        (chat(temperature=3), "temperature", "must be at most 2"),
        (chat(temperature="hot"), "temperature", "must be a number"),
        (chat(max_tokens=0), "max_tokens", "at least 1"),
        (chat(max_tokens=1.5), "max_tokens", "must be a whole number"),
        (chat(stream="yes"), "stream", "must be true or false"),
        (chat(tools=[{"type": "function", "function": {}}]), "tools[0].function.name", "is missing"),
        (chat(tools=[TOOL, TOOL]), "tools[1]", "another tool has: 'f'"),
        (chat(USER, CALLS, USER), "messages[1].tool_calls", "calls without an answer: c1"),
        (chat(USER, CALLS), "messages[1].tool_calls", "without an answer"),
        (chat(USER, RESULT), "messages[1].tool_call_id", "answers no tool call"),
        (chat(CALLS, RESULT, RESULT), "messages[2].tool_call_id", "answers no tool call"),
        (
            chat(CALLS | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": {}}}]}, RESULT),
            "messages[0].tool_calls[0].function.arguments",
            "must be a text",
        ),
    ],
)
def test_errors_name_the_field(body: Any, param: str, told: str) -> None:
    refusal = refused(body)
    assert refusal is not None
    assert (refusal.status, refusal.param) == (400, param)
    assert told in refusal.message and f"'{param}'" in refusal.message


def test_anthropic_needs_max_tokens_and_gets_its_own_error_shape() -> None:
    refusal = refused({"model": "m", "messages": [USER]}, Endpoint.MESSAGES)
    assert refusal is not None and refusal.param == "max_tokens"
    told = json.loads(refusal.body(Endpoint.MESSAGES))
    assert told == {"type": "error", "error": {"type": "invalid_request_error", "message": "'max_tokens' is missing."}}


@pytest.mark.parametrize(
    ("limits", "body", "status", "param"),
    [
        ({"body": 10}, chat(), 413, None),
        ({"messages": 1}, chat(USER, USER), 400, "messages"),
        ({"tools": 0}, chat(tools=[TOOL]), 400, "tools"),
        ({"images": 1}, chat({"role": "user", "content": [IMAGE, IMAGE]}), 400, "messages[0].content[1]"),
        (
            {"text": 3},
            chat(USER, {"role": "user", "content": [{"type": "text", "text": "long"}]}),
            400,
            "messages[1].content[0].text",
        ),
        ({"texts": 3}, chat(USER, USER), 400, "messages[1].content"),
    ],
)
def test_limits(limits: dict[str, int], body: Any, status: int, param: str | None) -> None:
    refusal = refused(body, limits=limits)
    assert refusal is not None and (refusal.status, refusal.param) == (status, param)
    assert refused(body, limits=dict.fromkeys(limits, 10_000)) is None


def test_a_schema_of_ones_own_is_met_too() -> None:
    own = {"chat": {"required": ["user"], "properties": {"user": {"pattern": "^[a-z]+$"}}}}
    for body, told in (
        (chat(), "'user' is missing."),
        (chat(user="A"), "'user' does not meet the schema's `pattern`."),
    ):
        refusal = refused(body, schemas=own)
        assert refusal is not None and refusal.message == told
    assert refused(chat(user="a"), schemas=own) is None
    assert refused(chat(user="a", temperature=9), schemas=own, schema=False) is None


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"schemas": {"chat": {"type": 7}}}, "schemas.chat: no JSON Schema"),
        ({"schemas": {"chat": {"$ref": "http://elsewhere/s.json"}}}, "schemas.chat: no JSON Schema"),
        ({"schemas": {"chat": {"pattern": "(?=x)"}}}, "schemas.chat: no JSON Schema"),
        ({"schemas": {"talk": {}}}, "schemas.talk"),
        ({"limits": {"body": -1}}, "limits: body is -1"),
    ],
)
def test_settings_that_cannot_be(document: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        stage(**document)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[1]",
        b'"x"',
        b"null",
        b"{",
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 5000,
        b'{"a":1}x',
        b"\x1f\x8b\x08",
        b'{"messages":[],"n":1,"messages":[]}',
        b'{"a":[{"content":"good","c\\u006fntent":"bad"}]}',
        b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"Messages":[]}',
        '{"meſſages":[]}'.encode(),
        b'{"max_tokens":1,"Max_Tokens":100}',
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    refusal = opened(Request(Endpoint.CHAT, raw))
    assert refusal is not None and (refusal.status, refusal.code) == (400, "invalid_json")
    assert len(refusal.message) < 200


def test_what_is_a_json_object_is_opened() -> None:
    for raw in (
        b"{}",
        b' {"a":{"b":1},"b":[{"b":2},{"b":3}]}\n',
        b'{"topK":1,"metadata":{"Model":1}}',
        b'{"n":' + b"9" * 300 + b"}",
        '{"é":"\U0001f600"}'.encode(),
    ):
        assert opened(Request(Endpoint.CHAT, raw)) is None


def test_an_error_does_not_repeat_the_value() -> None:
    secret = "hunter2" * 100_000
    for body in (chat({"role": secret, "content": "x"}), chat(n=secret), chat(temperature={secret: secret})):
        refusal = refused(body)
        assert refusal is not None and "hunter2" not in refusal.message and len(refusal.message) < 200


def test_many_errors_take_no_longer_than_one() -> None:
    begun = time.process_time()
    refusal = refused(chat(*[{"role": "robot"}] * 300_000))
    assert refusal is not None and refusal.param is not None and refusal.param.startswith("messages[")
    assert time.process_time() - begun < 5


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["text", "tool", "assistant", "c1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "tool_calls", "tool_call_id", "id", "function", "name"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.sampled_from(list(Endpoint)),
    st.dictionaries(st.sampled_from(["model", "messages", "tools", "input", "system"]), ANY),
)
def test_any_shape_is_judged(endpoint: Endpoint, body: dict[str, Any]) -> None:
    for schema in (True, False):
        refusal = refused(body, endpoint, schema=schema, limits={"text": 3, "texts": 9, "images": 0, "messages": 2})
        assert refusal is None or (refusal.status == 400 and refusal.message)
