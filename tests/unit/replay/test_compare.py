"""What answers say, put together from any API, whole or streamed; and how two outcomes differ."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.replay.compare import compare, percentile, text_similarity
from controlplane.replay.outcome import Outcome
from controlplane.replay.report import Side, Thresholds, report, usd
from controlplane.replay.said import Said, said, said_in
from sidecars.recording.exchange import Answer, Body, Exchange, Request, Times

OK = Outcome(200, Said("one two three", (), ("stop",)), 10.0, 20.0, "id")


def chat(**message: Any) -> bytes:
    return json.dumps({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


def events(*data: Any) -> list[str]:
    return [*(f"data: {json.dumps(each)}\n\n" for each in data), "data: [DONE]\n\n"]


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": 2}'}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (chat(content="hi"), Said("hi", (), ("stop",))),
        (chat(content=None, tool_calls=[CALL]), Said("", (("f", '{"a":2,"b":1}'),), ("stop",))),
        (json.dumps({"choices": [{"text": "hi", "finish_reason": "length"}]}).encode(), Said("hi", (), ("length",))),
        (json.dumps({"object": "list", "data": [{"embedding": [1, 0]}]}).encode(), Said(vectors=((1, 0),))),
        (json.dumps({"object": "list", "data": [{"embedding": "AACAPwAAAAA="}]}).encode(), Said(vectors=((1.0, 0.0),))),
        (json.dumps({"error": {"code": "no", "message": "key x"}}).encode(), Said("error: no")),
        (json.dumps({"type": "error", "error": {"type": "overloaded"}}).encode(), Said("error: overloaded")),
        (json.dumps({"id": 1, "results": [2]}).encode(), Said('{"results":[2]}')),
        (b"plain", Said("plain")),
        (
            json.dumps({"type": "message", "stop_reason": "end_turn", "content": [
                {"type": "text", "text": "hi"}, {"type": "tool_use", "name": "f", "input": {"a": 1}}]}).encode(),
            Said("hi", (("f", '{"a":1}'),), ("end_turn",)),
        ),
        (
            json.dumps({"object": "response", "status": "completed", "output": [
                {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
                {"type": "function_call", "name": "f", "arguments": "{}"}]}).encode(),
            Said("hi", (("f", "{}"),), ("completed",)),
        ),
    ],
)  # fmt: skip
def test_what_plain_answers_say(body: bytes, expected: Said) -> None:
    assert said(body) == expected


@given(st.lists(st.text(max_size=5), max_size=6), st.lists(st.text('{}":a1', max_size=5), min_size=1, max_size=4))
def test_a_stream_says_what_the_whole_answer_does(pieces: list[str], arguments: list[str]) -> None:
    first = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}}
    more = [delta(tool_calls=[{"index": 0, "function": {"arguments": part}}]) for part in arguments]
    streamed = said_in(
        events(delta(role="assistant", content=""), *(delta(content=piece) for piece in pieces),
               delta(tool_calls=[first]), *more, delta(finish="stop"))
    )  # fmt: skip
    call = {"function": {"name": "f", "arguments": "".join(arguments)}}
    assert streamed == said(chat(content="".join(pieces), tool_calls=[call]))


def test_streams_of_the_other_apis() -> None:
    messages = said_in(
        events(
            {"type": "message_start", "message": {}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "f"}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": " 1}"}},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        )
    )
    assert messages == Said("hi", (("f", '{"a":1}'),), ("tool_use",))
    output = [{"type": "message", "content": [{"text": "hi"}]}]
    done = {"type": "response.completed", "response": {"status": "completed", "output": output}}
    assert said_in(events({"type": "response.created", "response": {}}, done)) == Said("hi", (), ("completed",))
    broken = said_in(events({"type": "response.output_text.delta", "delta": "hi"}))
    assert broken == Said("hi", (), ("None",))
    assert said_in(events(delta(content="hi"), {"error": {"code": "gone"}})) == Said("error: gone")


@given(st.binary(max_size=60), st.lists(st.text(max_size=30), max_size=4))
def test_any_answer_says_something(body: bytes, texts: list[str]) -> None:
    assert said(body) == said(body)
    assert said_in([f"data: {text}\n\n" for text in texts]) is not None


@given(st.text(max_size=40), st.text(max_size=40))
def test_similarity_is_1_for_equal_texts_alone(one: str, other: str) -> None:
    found = text_similarity(one, other)
    assert 0 <= found <= 1
    assert (found == 1) is (one == other)
    assert text_similarity(one, one) == 1


def test_similarity_of_long_texts() -> None:
    words = [f"w{number % 97}" for number in range(5000)]
    assert text_similarity(" ".join(words), " ".join([*words[:2500], "x"])) == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("after", "kinds"),
    [
        (OK, ()),
        (Outcome(503, Said("error: x"), 1, 2), ("status", "finish", "text")),
        (Outcome(200, OK.said, 1, 2, error="broke off"), ("status",)),
        (Outcome(200, Said("one two three", (("f", "{}"),), ("stop",)), 1, 2), ("calls",)),
        (Outcome(200, Said("one two three", (), ("length",)), 1, 2), ("finish",)),
        (Outcome(200, Said("one two four", (), ("stop",)), 1, 2), ("text",)),
    ],
)
def test_differences(after: Outcome, kinds: tuple[str, ...]) -> None:
    assert compare(OK, after).kinds == kinds


def test_embeddings_are_compared_by_their_angle() -> None:
    def vector(*values: float) -> Outcome:
        return Outcome(200, Said(vectors=(values,)), 1, 1)

    assert compare(vector(1, 0), vector(1, 1e-9)).kinds == ()
    assert compare(vector(1, 0), vector(0.6, 0.8)).similarity == pytest.approx(0.6)
    assert compare(vector(1, 0), vector(1, 0, 0)).kinds == ("text",)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.01, 1))
def test_percentiles(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


def exchange(number: int) -> Exchange:
    request = Request(method="POST", path="/v1/chat/completions", headers={}, body=Body(text="{}"))
    answer = Answer(status=200, headers={}, body=Body(text="{}"))
    times = Times(headers=1, first=1, total=1)
    return Exchange(id=f"r{number}", at="2026-01-01T00:00:00Z", model="m", provider="p", request=request, answer=answer,
                    ms=times)  # fmt: skip


def outcome(text: str = "a b c", status: int = 200, ms: float = 10.0, cost: int | None = 5) -> Outcome:
    return Outcome(status, Said(text), ms, ms, cost_pico=cost)


def seen(before: list[Outcome], after: list[Outcome], **limits: Any) -> dict[str, Any]:
    exchanges = [exchange(number) for number in range(len(before))]
    return report(exchanges, Side("before", before), Side("after", after), Thresholds(**limits))


def test_the_worst_comes_first() -> None:
    after = [outcome(), outcome("a b d"), outcome("x", 503), outcome("x y z")]
    assert [result["id"] for result in seen([outcome()] * 4, after)["results"]] == ["r2", "r3", "r1", "r0"]


@pytest.mark.parametrize(
    ("after", "limits", "equal"),
    [
        ([outcome(), outcome()], {}, True),
        ([outcome(), outcome("a b d")], {}, False),
        ([outcome(), outcome("a b d")], {"different": 50.0}, True),
        ([outcome(), outcome("a b d")], {"similarity": 0.6}, True),
        ([outcome(), outcome(ms=31.0)], {"latency": 3.0}, False),
        ([outcome(), outcome(ms=30.0)], {"latency": 3.0}, True),
        ([outcome(), outcome(cost=16)], {"cost": 2.0}, False),
        ([outcome(), outcome(cost=15)], {"cost": 2.0}, True),
        ([outcome(), outcome(cost=None)], {"cost": 2.0}, False),
        ([outcome(), outcome(cost=None)], {}, True),
    ],
)
def test_thresholds(after: list[Outcome], limits: dict[str, float], equal: bool) -> None:
    view = seen([outcome(), outcome()], after, **limits)
    assert view["equal"] is equal
    assert bool(view["exceeded"]) is not equal


def test_costs_are_exact() -> None:
    assert usd(1) == "0.000000000001"
    assert usd(2_500_000_000_000) == "2.5"
    assert seen([outcome()], [outcome(cost=None)])["after"]["cost_usd"] is None
