import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stages import settings
from extproc.stages.protocol import Access, Endpoint
from extproc.stages.saving import WARNING, Saving, Settings, compacted
from extproc.stages.settings import SettingsError
from tests.unit.stages.given import asked


def stage(**document: Any) -> Saving:
    return Saving(settings.parse(Settings, json.dumps(document).encode(), "test"))


def kept(messages: Any, endpoint: Endpoint = Endpoint.CHAT, model: str = "gpt-4o", **history: int) -> Any:
    name = "input" if endpoint is Endpoint.RESPONSES else "messages"
    body = {"model": model, name: messages}
    out = stage(history=history).request(asked(body, endpoint, model=model))
    return json.loads(out.body)[name] if out.body else messages


def says(role: str, content: Any = "hello", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


SYSTEM = says("system", "be kind")
CALL = says(
    "assistant", None, tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
)
RESULT = says("tool", "4", tool_call_id="c")
TALK = [
    SYSTEM,
    says("user", "1"),
    says("assistant", "a"),
    says("user", "2"),
    CALL,
    RESULT,
    says("assistant", "b"),
    says("user", "3"),
]


def test_turns_go_as_a_whole_and_system_messages_stay() -> None:
    assert kept(TALK, turns=3) == TALK
    assert kept(TALK, turns=2) == [SYSTEM, *TALK[3:]]
    assert kept(TALK, turns=1) == [SYSTEM, TALK[-1]]


@pytest.mark.parametrize(("tokens", "length"), [(200, 8), (40, 6), (10, 2), (1, 2)])
def test_history_by_tokens(tokens: int, length: int) -> None:
    assert len(kept(TALK, tokens=tokens)) == length


def test_the_last_turn_stays_even_if_it_is_too_long() -> None:
    out = stage(history={"tokens": 5}).request(asked({"messages": TALK}, model="gpt-4o"))
    assert out.metadata["history_too_long"] > 5 and out.metadata["messages_dropped"] == 6


def test_other_apis() -> None:
    use = says("assistant", [{"type": "tool_use", "id": "t", "name": "f", "input": {}}])
    result = says("user", [{"type": "tool_result", "tool_use_id": "t", "content": "4"}])
    talk = [says("user"), says("assistant"), says("user"), use, result]
    assert kept(talk, Endpoint.MESSAGES, turns=1) == talk[2:]
    items = [
        says("user"),
        {"type": "function_call", "call_id": "c"},
        {"type": "function_call_output", "call_id": "c"},
        says("user"),
    ]
    assert kept(items, Endpoint.RESPONSES, turns=1) == items[3:]
    assert kept("just a text", Endpoint.RESPONSES, turns=1) == "just a text"


ROLES = st.sampled_from([SYSTEM, says("user"), says("assistant"), CALL, RESULT, 7, {}])


@given(st.lists(ROLES, max_size=15), st.integers(1, 5), st.integers(1, 60))
def test_no_result_is_without_its_call(messages: list[Any], turns: int, tokens: int) -> None:
    paired: list[Any] = [says("user")]  # a valid history: each call is followed by its result
    for message in messages:
        if message is not RESULT:
            paired += [message, RESULT] if message is CALL else [message]
    left = kept(paired, turns=turns, tokens=tokens)
    assert left == [one for one in paired if one in left] or left[-1] == paired[-1] or left == [SYSTEM]
    assert sum(one == SYSTEM for one in left) == sum(one == SYSTEM for one in paired)
    for at, message in enumerate(left):
        assert message != RESULT or (at and left[at - 1] == CALL)
        assert message != CALL or left[at + 1] == RESULT


@pytest.mark.parametrize(
    ("text", "lines", "all_"),
    [
        ("a  \n\n\n\nb\t", "a\n\nb", "a\n\nb"),
        ("a  b\n    indented  code", "a  b\n    indented  code", "a b\n    indented code"),
        ("x \r\ny", "x\r\ny", "x\r\ny"),
        (
            "t  a \n```py\nx  =  1  \n\n\n\n```\nz  ",
            "t  a\n```py\nx  =  1  \n\n\n\n```\nz",
            "t a\n```py\nx  =  1  \n\n\n\n```\nz",
        ),
        ("```\nopen  ", "```\nopen  ", "```\nopen  "),
        ("", "", ""),
    ],
)
def test_white_space_that_says_nothing(text: str, lines: str, all_: str) -> None:
    assert (compacted(text), compacted(text, within=True)) == (lines, all_)


@given(st.text(st.sampled_from(" \t\r\nab`"), max_size=40), st.booleans())
def test_compacting_twice_is_once_and_no_word_is_lost(text: str, within: bool) -> None:
    less = compacted(text, within)
    assert less.split() == text.split()
    assert len(less) <= len(text)


def test_compaction_leaves_tool_arguments_alone() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a":  "b  "}  '}}]}
    out = stage(white_space="all").request(asked({"messages": [call, says("user", "a  b")]}))
    assert out.body is not None and json.loads(out.body)["messages"] == [call, says("user", "a b")]
    assert out.metadata == {"white_space_saved": 1}


def test_compaction_leaves_alone_what_counts_to_the_letter() -> None:
    thinking = {"type": "thinking", "thinking": "a  ", "signature": "s"}
    call = {"type": "tool_use", "id": "1", "name": "write", "input": {"code": "a  "}}
    messages = [{"role": "assistant", "content": [thinking, call]}, says("user", "b  ")]
    out = stage(white_space="all").request(asked({"messages": messages}, Endpoint.MESSAGES))
    assert out.body is not None
    assert json.loads(out.body)["messages"] == [messages[0], says("user", "b")]


def test_what_is_large_is_told() -> None:
    out = stage(warn={"bytes": 10}).request(asked({"messages": TALK}))
    assert "bytes, more than 10" in out.answer_headers[WARNING] and out.body is None
    out = stage(warn={"tokens": 10}).request(asked({"messages": TALK}, model="gpt-4o"))
    assert out.answer_headers[WARNING].endswith("tokens, more than 10") and out.metadata["oversized"]
    assert not stage(warn={"tokens": 1000}).request(asked({"messages": TALK})).answer_headers


def test_what_it_needs() -> None:
    assert stage(warn={"bytes": 1}).needs.request is Access.READ
    assert stage(history={"turns": 1}).needs.request is Access.CHANGE


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"history": {}}, "turns or tokens"),
        ({"history": {"turns": 0}}, "turns is 0"),
        ({"warn": {}}, "tokens or bytes"),
    ],
)
def test_settings_that_cannot_be(document: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        stage(**document)


@pytest.mark.parametrize(
    "text",
    [
        "a" + " " * 1_000_000 + "b",
        " " * 1_000_000,
        "\n" * 1_000_000,
        " \n" * 500_000,
        "a  " * 300_000,
        "```" * 300_000,
        "\n```\n" * 100_000,
    ],
)
def test_compaction_takes_linear_time(text: str) -> None:
    begun = time.process_time()
    compacted(text, within=True)
    assert time.process_time() - begun < 3


def test_a_long_history_takes_linear_time() -> None:
    begun = time.process_time()
    assert len(kept([says("user"), says("assistant")] * 20_000, turns=5)) == 10
    assert time.process_time() - begun < 5
