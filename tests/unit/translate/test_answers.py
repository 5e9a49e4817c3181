"""Answers and streams: the same said in every dialect, however it is cut, broken or wrong."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from extproc.translate import ClientAPI, Options, ProviderName
from extproc.usage.reading import tokens
from extproc.usage.record import Tokens
from tests.unit.translate.answers import PAIRS, STEPS, STREAMS, Step, exchange, said, stream, whole
from tests.unit.translate.clients import events, followed, understood, usage
from tests.unit.translate.frames import frame, raw_frame

JSON = {"content-type": "application/json"}
STEP = [Step("thinking", "Hm"), Step("text", "Hé"), Step("text", "llo"), Step("call", "x", "f"), Step("call", "y", "g")]
# Many small events of a provider become larger ones: names and times that each chunk repeats.
MOST_GROWTH = 40
pairs = pytest.mark.parametrize(("client", "provider"), PAIRS)
few = settings(max_examples=40)  # for each pair


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def through(client: ClientAPI, provider: ProviderName, pieces: list[bytes], options: Options | None = None) -> bytes:
    """The client's stream; after the end nothing more comes, whatever is sent."""
    _, translated = exchange(client, provider, stream=True, options=options).stream()
    out = b"".join(map(translated.feed, pieces)) + translated.end()
    assert translated.over
    assert translated.end() == translated.feed(b"data: {}\n\n") == b""
    return out


@pairs
@few
@given(steps=STEPS)
def test_a_whole_answer_says_the_same(client: ClientAPI, provider: ProviderName, steps: list[Step]) -> None:
    answer = exchange(client, provider, stream=False).whole(200, JSON, whole(provider, steps))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert understood(client, answer.body) == said(steps)


@pairs
@few
@given(steps=STEPS, places=st.lists(st.integers(0, 10_000), max_size=20))
def test_a_stream_says_the_same_however_it_is_cut(
    client: ClientAPI, provider: ProviderName, steps: list[Step], places: list[int]
) -> None:
    data = stream(provider, steps)
    out = through(client, provider, cut(data, places))
    assert followed(client, out) == said(steps)
    assert out == through(client, provider, [data])


@pairs
def test_usage_is_what_the_edge_reads(client: ClientAPI, provider: ProviderName) -> None:
    details = {"ollama": Tokens(70, 30), "cohere": Tokens(70, 30, cached=40)}
    reasoning = 5 if provider in ("openai", "gemini") and client == "openai" else 0  # Anthropic's is not read
    written = 10 if provider in ("anthropic", "bedrock") else 0
    expected = details.get(provider, Tokens(70, 30, cached=40, cache_write=written, reasoning=reasoning))
    answer = exchange(client, provider, stream=False).whole(200, JSON, whole(provider, STEP))
    assert tokens([json.dumps(json.loads(answer.body)["usage"])]).tokens == expected
    assert tokens(usage(client, through(client, provider, [stream(provider, STEP)]))).tokens == expected


@pairs
def test_a_stream_that_breaks_off_ends_with_an_error(client: ClientAPI, provider: ProviderName) -> None:
    data = stream(provider, STEP)
    full = through(client, provider, [data])
    whole_ends = 0
    for length in range(len(data)):
        out = through(client, provider, [data[:length]])
        *before, last = events(out)
        if out == full or "error" not in last:  # only the usage or the mark of the end is missing
            whole_ends += 1
            followed(client, out)
            continue
        assert last["error"]["message"] == "The model's provider broke off in the middle of the answer."
        assert not any("error" in event for event in before)
        assert full.startswith(out[: out.rindex(b"event: error" if client == "anthropic" else b"data: ")])
    assert whole_ends < len(data) / 2


@pairs
@few
@given(data=st.data())
def test_noise_in_a_stream_is_no_crash_and_does_not_grow(
    client: ClientAPI, provider: ProviderName, data: st.DataObject
) -> None:
    steps = data.draw(STEPS)
    good = bytearray(stream(provider, steps))
    for place, noise in data.draw(st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=8)), max_size=4)):
        at = place % (len(good) + 1)
        good[at : at + data.draw(st.integers(0, 8))] = noise
    out = through(client, provider, [bytes(good)])
    assert out == through(client, provider, cut(bytes(good), data.draw(st.lists(st.integers(0, 9999), max_size=4))))
    assert len(out) <= MOST_GROWTH * len(good) + 4096
    found = events(out)
    assert found[-1] == "[DONE]" or found[-1].get("type") == "message_stop" or "error" in found[-1]


SMALLEST: list[tuple[ClientAPI, ProviderName, bytes]] = [
    (client, provider, data)
    for client, provider in PAIRS
    for data in {
        "openai": [
            b'data:{"choices":[{"delta":{"content":"a","reasoning":"b","refusal":"c"}}]}\n\n' * 3000,
            b'data:{"choices":[{"delta":{"tool_calls":['
            + b'{"index":1,"function":{"name":"f"}},' * 1500
            + b"0]}}]}\n\n",
            b'data:{"id":1}\n\n' * 3000,
        ],
        "anthropic": [
            b'data:{"type":"content_block_start","content_block":{"type":"tool_use","name":"f"}}\n\n' * 3000,
            b'data:{"type":"content_block_start","content_block":{"type":"text","text":"a"}}\n\n' * 3000,
            b'data:{"type":"content_block_start"}\n\n' * 3000,
        ],
        "gemini": [
            b'data:{"candidates":[{"content":{"parts":['
            + b'{"text":"a"},{"functionCall":{"name":"f"}},' * 1000
            + b"0]}}]}\n\n",
            b'data:{"candidates":[{"content":{"parts":['
            + b'{"text":"a"},{"text":"b","thought":true},' * 2000
            + b"0]}}]}\n\n",
            b"data:{}\n\n" * 3000,
        ],
        "cohere": [
            b'data:{"type":"tool-call-start","delta":{"message":{"tool_calls":{"function":{"name":"f"}}}}}\n\n' * 3000,
            b'data:{"type":"content-delta","delta":{"message":{"content":{"text":"a","thinking":"b"}}}}\n\n' * 3000,
        ],
        "ollama": [
            b'{"message":{"content":"a","thinking":"b"}}\n' * 3000,
            b'{"message":{"tool_calls":[' + b"0," * 2000 + b"0]}}\n",
            b'{"message":{"tool_calls":[' + b'{"function":{"name":"f"}},' * 2000 + b"0]}}\n",
            b"{}\n" * 3000,
        ],
        "bedrock": [
            raw_frame(b"\x0b:event-type\x07\x00\x11contentBlockStart", b'{"start":{"toolUse":{"name":"f"}}}') * 3000,
            raw_frame(b"\x0b:event-type\x07\x00\x11contentBlockDelta", b'{"delta":{"text":"a"}}') * 3000,
        ],
    }[provider]
]


@pytest.mark.parametrize(("client", "provider", "data"), SMALLEST)
def test_the_smallest_events_grow_within_bounds(client: ClientAPI, provider: ProviderName, data: bytes) -> None:
    out = through(client, provider, [data])
    assert len(out) <= MOST_GROWTH * len(data) + 4096


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each place in a value: its holder and its key."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, held in list(inner) for found in [(value, key), *places(held)]]


@pairs
@few
@given(data=st.data())
def test_any_other_value_in_an_answer_is_no_crash(
    client: ClientAPI, provider: ProviderName, data: st.DataObject
) -> None:
    answer = json.loads(whole(provider, STEP))
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = data.draw(st.sampled_from(places(answer)))
        holder[key] = data.draw(VALUES)
    found = exchange(client, provider, stream=False).whole(200, JSON, json.dumps(answer).encode())
    assert found.status == 200 or "error" in json.loads(found.body)


@pairs
@few
@given(data=st.data())
def test_any_other_value_in_an_event_is_no_crash(
    client: ClientAPI, provider: ProviderName, data: st.DataObject
) -> None:
    if provider == "bedrock":
        return  # its events bear checksums; below
    lines = stream(provider, STEP).decode().splitlines()
    at = data.draw(st.sampled_from([i for i, line in enumerate(lines) if "{" in line]))
    prefix, _, text = lines[at].partition("{")
    event = json.loads("{" + text)
    holder, key = data.draw(st.sampled_from(places(event)))
    holder[key] = data.draw(VALUES)
    lines[at] = prefix + json.dumps(event)
    events(through(client, provider, [("\n".join(lines) + "\n\n").encode()]))


@given(name=st.sampled_from(["contentBlockStart", "contentBlockDelta", "messageStop", "metadata"]), value=VALUES)
def test_any_other_payload_of_bedrock_is_no_crash(name: str, value: Any) -> None:
    inner = json.dumps({"delta": value, "start": value, "usage": value}).encode()
    data = [frame("messageStart", b"{}"), frame(name, inner), frame(name, json.dumps(value).encode())]
    events(through("openai", "bedrock", data))


@pairs
@few
@given(body=st.binary(max_size=60), status=st.integers(100, 999), headers=st.sampled_from([JSON, {}]))
@example(body=b"{}", status=200, headers=JSON)
def test_any_bytes_are_an_error_in_the_clients_shape(
    client: ClientAPI, provider: ProviderName, body: bytes, status: int, headers: dict[str, str]
) -> None:
    answer = exchange(client, provider, stream=False).whole(status, headers, body)
    found = json.loads(answer.body)
    assert 400 <= answer.status <= 599
    assert found["error"]["message"]
    assert found.get("type") == ("error" if client == "anthropic" else None)


@pairs
def test_long_and_deep_answers_are_read_or_refused_in_time(client: ClientAPI, provider: ProviderName) -> None:
    long = [Step("text", "x" * 10_000_000)]
    assert followed(client, through(client, provider, [stream(provider, long)])).text == long[0].text
    for deep in (b"[" * 500_000, b'{"a":' * 500_000, b'data: {"candidates":' + b"[" * 500_000 + b"\n\n"):
        out = through(client, provider, [deep])
        assert "error" in events(out)[-1]
        assert exchange(client, provider, stream=False).whole(200, JSON, deep).status == 502
    many = [Step("text", "y"), Step("thinking", "z")] * 20_000
    answer = exchange(client, provider, stream=False).whole(200, JSON, whole(provider, many))
    assert len(understood(client, answer.body).text) == 20_000


@pairs
def test_an_event_beyond_the_limit_ends_the_stream(client: ClientAPI, provider: ProviderName) -> None:
    data = stream(provider, [Step("text", "x" * 10_000)])
    out = through(client, provider, cut(data, list(range(0, len(data), 100))), Options(max_frame=4096))
    assert "cannot be read" in events(out)[-1]["error"]["message"]


@pairs
def test_a_whole_answer_to_a_request_for_a_stream_is_a_stream(client: ClientAPI, provider: ProviderName) -> None:
    found = exchange(client, provider, stream=True)
    assert not found.streams(200, JSON)
    answer = found.whole(200, JSON, whole(provider, STEP))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert followed(client, answer.body) == said(STEP)


@pairs
def test_only_streams_of_the_providers_kind_are_read_as_streams(client: ClientAPI, provider: ProviderName) -> None:
    found = exchange(client, provider, stream=True)
    kind = {"content-type": f"{STREAMS[provider].upper()}; charset=utf-8"}
    assert found.streams(200, kind)
    assert not found.streams(429, kind)
    assert not found.streams(200, {"content-type": "text/html"})
    assert not exchange(client, provider, stream=False).streams(200, kind)


def test_a_name_does_not_make_a_stream_grow() -> None:
    part = {"candidates": [{"content": {"parts": [{"text": "a"}]}}]}
    data = f"data: {json.dumps(part | {'modelVersion': 'm' * 100_000})}\n\n" + f"data: {json.dumps(part)}\n\n" * 9
    assert len(through("openai", "gemini", [data.encode()])) < 12 * 500


def test_compressed_answers_are_an_error() -> None:
    headers = JSON | {"content-encoding": "gzip"}
    assert exchange("openai", "gemini", stream=False).whole(200, headers, b"\x1f\x8b").status == 502


def test_what_has_no_place_in_a_whole_answer_is_named() -> None:
    answer = {"candidates": [{"content": {"parts": [{"text": "x"}, {"inlineData": {}}]}, "finishReason": "STOP"}]}
    found = exchange("openai", "gemini", stream=False).whole(200, JSON, json.dumps(answer).encode())
    assert found.headers["x-headgate-not-translated"] == "inlineData"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("prompt is too long: 208310 tokens > 200000 maximum", "context_length_exceeded"),
        ("The input token count (1200000) exceeds the maximum number of tokens allowed", "context_length_exceeded"),
        ("Input is too long for requested model.", "context_length_exceeded"),
        ("max_tokens: must be positive", "invalid_request"),
    ],
)
def test_a_prompt_that_does_not_fit_has_openais_code(message: str, code: str) -> None:
    body = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": message}}).encode()
    found = exchange("openai", "anthropic", stream=False).whole(400, JSON, body)
    assert json.loads(found.body)["error"]["code"] == code


@pytest.mark.parametrize(
    ("value", "passed"), [("17", True), ("Wed, 21 Oct 2026 07:28:00 GMT", True), ("1\r\nx: y", False)]
)
def test_retry_after_passes_if_it_is_one(value: str, passed: bool) -> None:
    found = exchange("openai", "anthropic", stream=False).whole(429, JSON | {"retry-after": value}, b"{}")
    assert found.headers.get("retry-after") == (value if passed else None)


def test_arguments_that_are_no_json_are_an_error_for_clients_that_need_an_object() -> None:
    answer = json.loads(whole("openai", STEP))
    answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] = "{oops"
    assert exchange("anthropic", "openai", stream=False).whole(200, JSON, json.dumps(answer).encode()).status == 502


def test_mixed_up_pieces_of_calls_are_an_error() -> None:
    calls = [{"index": i, "id": "c", "function": {"name": "f"}} for i in (0, 1, 0)]
    chunks = [{"choices": [{"delta": {"tool_calls": [call]}}]} for call in calls]
    data = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()
    assert "mixed up" in events(through("anthropic", "openai", [data]))[-1]["error"]["message"]


@pytest.mark.parametrize("streaming", [False, True])
def test_an_answer_that_calls_a_tool_stops_for_that(streaming: bool) -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choice = {"index": 0, "delta" if streaming else "message": {"tool_calls": [call]}, "finish_reason": "stop"}
    answer = json.dumps({"id": "a", "choices": [choice]})
    if streaming:
        out = events(through("anthropic", "openai", [f"data: {answer}\n\ndata: [DONE]\n\n".encode()]))
        assert out[-2]["delta"]["stop_reason"] == "tool_use"
    else:
        found = exchange("anthropic", "openai", stream=False).whole(200, JSON, answer.encode())
        assert json.loads(found.body)["stop_reason"] == "tool_use"


def test_parallel_calls_of_one_index_are_told_apart_by_their_ids() -> None:
    calls = [{"index": 0, "id": name, "function": {"name": name, "arguments": '{"a":1}'}} for name in ("one", "two")]
    chunks = [{"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": None}]} for call in calls]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    data = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"
    assert followed("anthropic", through("anthropic", "openai", [data])).calls == [("one", {"a": 1}), ("two", {"a": 1})]


def test_tools_of_the_server_do_not_disturb_the_clients() -> None:
    payloads = [
        {"type": "message_start", "message": {"id": "a", "model": "m", "usage": {}}},
        {"type": "content_block_start", "content_block": {"type": "tool_use", "id": "c", "name": "f", "input": {}}},
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}},
        {"type": "content_block_start", "content_block": {"type": "server_tool_use", "id": "s", "name": "web_search"}},
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": '{"q":"x"}'}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    out = through("openai", "anthropic", ["".join(f"data: {json.dumps(one)}\n\n" for one in payloads).encode()])
    assert followed("openai", out).calls == [("f", {"a": 1})]
    assert b": not translated: server_tool_use\n\n" in out


@settings(max_examples=300)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_every_wrong_bit_of_an_event_stream_is_seen(place: int, bit: int) -> None:
    data = bytearray(stream("bedrock", [Step("text", "Hello")]))
    data[place % len(data)] ^= 1 << bit
    out = through("openai", "bedrock", [bytes(data)])
    assert "error" in events(out)[-1] or out == through("openai", "bedrock", [bytes(data[:-1])])


@pytest.mark.parametrize(
    "headers",
    [b"\x05a", b"\x01a\x07\xff\xff", b"\x01a\x0b", b"\x01a\x03\x00", b"\x02\xff\xff\x07\x00\x00", b"\xff"],
)
def test_wrong_headers_of_an_event_stream_are_seen(headers: bytes) -> None:
    [error] = events(through("openai", "bedrock", [raw_frame(headers, b"{}")]))
    assert "header" in error["error"]["message"]


def test_calls_without_an_id_get_one_that_does_not_come_again() -> None:
    steps = [Step("call", "x", "f"), Step("call", "y", "g")]
    out = events(through("openai", "ollama", [stream("ollama", steps)]))
    calls = [
        call for event in out[:-1] for choice in event["choices"] for call in choice["delta"].get("tool_calls", ())
    ]
    assert [call["id"] for call in calls if "id" in call] == ["call_id1_1", "call_id1_2"]


@pairs
def test_a_call_without_a_name_is_an_error(client: ClientAPI, provider: ProviderName) -> None:
    out = events(through(client, provider, [stream(provider, [Step("call", "x", "")])]))
    assert "has no name" in out[-1]["error"]["message"]
