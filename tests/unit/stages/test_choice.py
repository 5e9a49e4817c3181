import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stages import settings
from extproc.stages.choice import Choice, Settings, modalities
from extproc.stages.protocol import Access, Endpoint, Outcome
from extproc.stages.settings import SettingsError
from tests.unit.stages.given import CHAT, asked


def stage(*rules: dict[str, Any]) -> Choice:
    return Choice(settings.parse(Settings, json.dumps({"rules": rules}).encode(), "test"))


def chosen(outcome: Outcome) -> Any:
    return outcome.metadata.get("choice")


def said(*parts: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("endpoint", "body", "found"),
    [
        (Endpoint.CHAT, CHAT, {"text"}),
        (Endpoint.CHAT, said({"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}), {"text", "image"}),
        (Endpoint.CHAT, said({"type": "input_audio"}, {"type": "file"}), {"audio", "file"}),
        (Endpoint.CHAT, CHAT | {"tools": [{}]}, {"text", "tools"}),
        (Endpoint.CHAT, CHAT | {"tools": [], "modalities": ["text", "audio"]}, {"text", "audio"}),
        (Endpoint.CHAT, {"messages": [{"role": "tool", "content": "4"}, {"tool_calls": [1]}]}, {"text", "tools"}),
        (Endpoint.RESPONSES, {"input": "x"}, {"text"}),
        (Endpoint.RESPONSES, {"input": [{"type": "function_call_output"}, {"type": "input_file"}]}, {"tools", "file"}),
        (
            Endpoint.MESSAGES,
            said({"type": "document"}, {"type": "tool_result", "content": [{"type": "image"}]}),
            {"file", "tools", "image"},
        ),
        (Endpoint.COMPLETIONS, {"prompt": "x"}, {"text"}),
        (Endpoint.OTHER, {}, set()),
    ],
)
def test_modalities(endpoint: Endpoint, body: Any, found: set[str]) -> None:
    assert modalities(asked(body, endpoint)) == found


RULES = (
    {"when": {"has": ["image", "file"]}, "model": "vision", "name": "pictures"},
    {"when": {"tokens": {"least": 200}, "lacks": ["tools"]}, "model": "long"},
    {"when": {"stream": True, "tokens": {"most": 15}}, "model": "small"},
)


def test_the_first_rule_that_holds_decides_and_says_why() -> None:
    one = stage(*RULES)
    out = one.request(asked(said({"type": "image_url", "image_url": {"url": "https://x"}})))
    assert out.model == "vision" and json.loads(out.body or b"")["model"] == "vision"
    assert chosen(out) == {"model": "vision", "rule": "pictures", "reason": "has image"}
    long = one.request(asked(said({"type": "text", "text": "word " * 300})))
    assert chosen(long)["rule"] == "1" and chosen(long)["reason"].startswith("lacks tools, 3")
    assert one.request(asked(said({"type": "text", "text": "word " * 300}) | {"tools": [{}]})).model is None
    short = one.request(asked({"messages": [{"role": "user", "content": "hi"}], "stream": True}))
    assert chosen(short) == {"model": "small", "rule": "2", "reason": "streamed, 8 tokens"}


def test_without_a_rule_the_model_stays() -> None:
    out = stage(*RULES).request(asked(CHAT))
    assert out.model is None and out.body is None and not out.metadata


def test_a_rule_without_conditions_always_holds() -> None:
    out = stage({"model": "x"}).request(asked(b'{ "model" : "m","n":1e2 }'))
    assert out.body == b'{ "model" : "x","n":1e2 }' and chosen(out)["reason"] == "always"
    assert stage({"model": "x"}).needs.request is Access.CHANGE


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"model": ""}, "model is empty"),
        ({"model": "x", "when": {"has": ["video"]}}, r"rules\[0\]\.when\.has\[0\]: Input should be 'text'"),
        ({"model": "x", "when": {"tokens": {}}}, "least or most is expected"),
        ({"model": "x", "when": {"tokens": {"least": 2, "most": 1}}}, "least is 2, above most"),
    ],
)
def test_settings_that_cannot_be(rule: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        stage(rule)


ANY = st.recursive(
    st.none() | st.integers() | st.sampled_from(["text", "image", "tool", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "role", "tool_calls"]), inner)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["messages", "input", "tools", "audio", "modalities", "prompt"]), ANY))
def test_any_shape_is_judged(body: dict[str, Any]) -> None:
    stage(*RULES).request(asked(body))
