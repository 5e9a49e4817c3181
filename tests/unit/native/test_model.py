"""How requests pass the filter whatever their bodies are cut into, and what it leaves for the log and for limits."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.limits.settings import Estimate
from tests.unit.native.module import Ending, Filter

MODEL, LIMITS, RULES = Filter("model"), Filter("model", "limits"), Filter("model", "rules")
CHAT = {"content-type": "application/json", ":path": "/v1/chat/completions", "x-headgate-client": "o/t/alice;l;"}
JSON = {"content-type": "application/json"}
STREAM = {"model": "m", "stream": True, "messages": [{"content": "x" * 200}]}
ENDINGS: tuple[Ending, ...] = ("last", "empty", "trailers")


@given(st.lists(st.integers(0, 300), max_size=20), st.sampled_from(ENDINGS), st.booleans())
def test_a_body_may_come_in_any_pieces(places: list[int], ending: Ending, held: bool) -> None:
    body = json.dumps(STREAM).encode()
    cuts = sorted({0, len(body), *(place % len(body) for place in places)})
    chunks = [body[a:b] for a, b in pairwise(cuts)]
    if held:  # all of it arrives at once, in the pieces of a buffer
        chunks, ending = [body], "last"
    whole = MODEL.request(body, CHAT, {"model/model": "upstream"})
    assert MODEL.request(chunks, CHAT, {"model/model": "upstream"}, ending=ending, held=held) == whole
    assert json.loads(whole.body) == {**STREAM, "model": "upstream", "stream_options": {"include_usage": True}}


def test_a_spent_budget_has_another_model_served() -> None:
    downgraded = MODEL.request(b'{"model":"m"}', {**CHAT, "x-headgate-instead": "cheap"})
    assert downgraded.headers["x-headgate-model"] == "cheap"
    assert downgraded.body == b'{"model":"cheap"}'
    renamed = MODEL.request(b'{"model":"m"}', {**CHAT, "x-headgate-instead": "cheap"}, {"model/model": "cheap-v2"})
    assert renamed.body == b'{"model":"cheap-v2"}'


def test_the_entry_is_one_line_whatever_the_answer_is_written_like() -> None:
    pretty = json.dumps({"model": "m-2", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}, indent="\t").encode()
    answer = MODEL.answer([pretty], JSON)
    assert answer.entry[:4] == ("alice", "m", "", "m-2")
    assert not any(byte < " " for byte in "".join(answer.entry))
    assert [json.loads(text) for text in answer.usage] == [{"prompt_tokens": 1, "completion_tokens": 2}]


def test_separators_in_a_usage_do_not_part_it() -> None:
    answer = MODEL.answer([b'{"model":"m","usage":{"a":"x\x1fy\x1e\x1d\n"}}'], JSON)
    assert answer.usage == ('{"a":"x y   "}',)


@pytest.mark.parametrize(
    ("asked", "cap"),
    [
        ({"max_tokens": 7}, "7"),
        ({"max_completion_tokens": 7, "n": 3}, "21"),
        ({"max_output_tokens": 7}, "7"),
        ({"max_tokens": 7, "max_completion_tokens": 9}, "9"),
        ({"max_tokens": 7, "n": 2, "best_of": 5}, "35"),
        ({"max_tokens": 10**30, "n": 10**30}, str(2**64 - 1)),
        ({"max_tokens": 7.0}, "7"),
        ({"n": 3}, str(3 * Estimate().output)),
        ({"n": 1, "prompt": "one"}, None),
        ({"n": 2, "max_tokens": 7, "prompt": ["a [", 'b"', "c"]}, "42"),
        ({"prompt": [[1, 2], [3]], "max_tokens": 7}, "14"),
        ({"prompt": [1, 2, 3], "max_tokens": 7}, "7"),
        ({"prompt": [], "max_tokens": 7}, "7"),
        ({"metadata": {"max_tokens": 7}}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": "7"}, None),
        ({"max_tokens": -7}, None),
        ({}, None),
    ],
)
def test_strict_limits_learn_the_cap_of_the_output(asked: dict[str, Any], cap: str | None) -> None:
    body = json.dumps({"model": "m", **asked}).encode()
    assert LIMITS.request(body, CHAT).headers.get("x-headgate-cap") == cap
    assert "x-headgate-cap" not in MODEL.request(body, CHAT).headers


def test_embeddings_have_no_output() -> None:
    asked = LIMITS.request(b'{"model":"m","input":"x"}', {**CHAT, ":path": "/v1/embeddings"})
    assert asked.headers["x-headgate-cap"] == "0"


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, (3, 4, 0, 7)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 9}, (3, 4, 0, 9)),
        ({"prompt_tokens": 8, "prompt_tokens_details": {"cached_tokens": 5}, "completion_tokens": 1}, (8, 1, 5, 9)),
        ({"input_tokens": 8, "input_tokens_details": {"cached_tokens": 5}, "output_tokens": 1}, (8, 1, 5, 9)),
        ({"input_tokens": 8, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 1},
         (15, 1, 5, 16)),
        ({"prompt_tokens": 3.0, "total_tokens": 3}, (3, 0, 0, 3)),
        ({"prompt_tokens": -3, "total_tokens": "x"}, (0, 0, 0, 0)),
    ],
)  # fmt: skip
def test_strict_limits_learn_what_was_used(usage: dict[str, Any], counts: tuple[int, int, int, int]) -> None:
    body = json.dumps({"model": "m", "usage": usage}).encode()
    found = LIMITS.answer([body], JSON).numbers
    assert (found["input"], found["output"], found["cached"], found["total"]) == counts
    assert MODEL.answer([body], JSON).numbers == {}


def test_a_message_is_counted_over_both_of_its_usages() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 25, "cache_read_input_tokens": 7}}}
    end = {"type": "message_delta", "usage": {"output_tokens": 15}}
    events = [f"data: {json.dumps(each)}\n\n".encode() for each in (start, end)]
    found = LIMITS.answer(events, {"content-type": "text/event-stream"}).numbers
    assert found == {"input": 32, "output": 15, "cached": 7, "cache_write": 0, "total": 47}


@pytest.mark.parametrize(
    ("usage", "written"),
    [
        ({"input_tokens": 8, "cache_creation_input_tokens": 2, "output_tokens": 1}, (10, 2)),
        ({"prompt_tokens": 8, "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 2}}, (8, 2)),
        ({"prompt_tokens": 8}, (8, 0)),
    ],
)
def test_what_is_written_to_a_cache_is_part_of_the_input(usage: dict[str, Any], written: tuple[int, int]) -> None:
    found = LIMITS.answer([json.dumps({"model": "m", "usage": usage}).encode()], JSON).numbers
    assert (found["input"], found["cache_write"]) == written


@pytest.mark.parametrize(("kind", "text"), [("model", "what"), ("other", ""), ("attempt", "one line")])
def test_a_configuration_that_is_not_known_is_rejected(kind: str, text: str) -> None:
    with pytest.raises(ValueError, match="rejected"):
        Filter(kind, text)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"model":"m","stream":true}', "1"),
        (b'{"model":"m","stream":"true"}', "1"),
        (b'{"model":"m","Stream":true}', "1"),
        (b'{"model":"m","stream":true,"stream":false}', "1"),
        (b'{"model":"m","stream":false}', None),
        (b'{"model":"m","stream":null}', None),
        (b'{"model":"m"}', None),
    ],
)
def test_rules_learn_whether_a_stream_is_asked_for(body: bytes, told: str | None) -> None:
    headers = {"content-type": "application/json", ":path": "/v1/chat/completions"}
    assert RULES.request(body, headers).headers.get("x-headgate-stream") == told
    assert "x-headgate-stream" not in MODEL.request(body, headers).headers


def test_an_answers_headers_wait_where_the_route_says_so() -> None:
    holding = {"model/hold": "answer"}
    assert RULES.holds_answer(holding)
    assert not RULES.holds_answer(holding, ends=True)
    assert not RULES.holds_answer({})
    assert not MODEL.holds_answer(holding)
