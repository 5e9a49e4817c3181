import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stages import replay, settings
from extproc.stages.cache import (
    HEADER,
    SIMILARITY,
    Await,
    Cache,
    Entry,
    Find,
    Found,
    Recorder,
    Settings,
    Ticket,
)  # fmt: skip
from extproc.stages.final import is_final
from extproc.stages.flights import Flights, Part
from extproc.stages.protocol import Endpoint, Refusal, Reply
from extproc.stages.settings import SettingsError
from extproc.stages.similar import MOST_TEXT, compared
from tests.unit.stages.given import CHAT, CUTS, asked, chunked, fed


def cache(**document: Any) -> Cache:
    return Cache(settings.parse(Settings, json.dumps({"ttl_s": 60} | document).encode(), "test"))


def key(body: Any = CHAT, endpoint: Endpoint = Endpoint.CHAT, scope: str = "key", **more: Any) -> bytes:
    lookup = cache(scope=scope).lookup(asked(body, endpoint, **more))
    assert lookup is not None
    return lookup.key


def test_the_same_in_other_words_has_the_same_key() -> None:
    raw = b'{"stream":true,"temperature":0.70,"messages":[{"content":"You are \\u0074erse.","role":"system"},'
    raw += b'{"role":"user",  "content":"Why is the sea blue?"}],"model":"other","user":"me",'
    raw += b'"n":1,"top_p":1.0,"stop":null}'
    assert key(raw) == key(CHAT)


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0.8},
        {"seed": 1},
        {"tools": []},
        {"messages": []},
        {"n": 2},
        {"max_tokens": 5},
        {"new_parameter": 1},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_what_changes_the_answer_changes_the_key(more: dict[str, Any]) -> None:
    assert key(CHAT | more) != key(CHAT)


def test_large_numbers_are_not_mixed_up() -> None:
    assert key(b'{"seed":123456789012345678901}') != key(b'{"seed":123456789012345678902}')
    assert key({"seed": 2**60}) != key({"seed": 2**60 + 1})


def test_scopes() -> None:
    assert key(key="alice") != key(key="bob")
    assert key(key="alice", scope="team") == key(key="bob", scope="team") != key(team="blue", scope="team")
    assert key(key="a", team="b", scope="shared") == key(scope="shared")
    assert key(model="a") != key(model="b")
    assert key(endpoint=Endpoint.COMPLETIONS) != key()
    assert cache(scope="team").lookup(asked(team="")) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5), st.randoms())
def test_order_and_white_space_do_not_matter(body: dict[str, Any], random: Any) -> None:
    try:
        names = list(body)
        random.shuffle(names)
        other = json.dumps({name: body[name] for name in names}, indent=2).encode()
        assert key(json.dumps(body).encode()) == key(other) or any(len(str(n)) > 18 for n in str(body).split())
    except UnicodeEncodeError:
        return


@pytest.mark.parametrize(
    ("headers", "read", "write", "age", "word"),
    [
        ({}, True, True, 60, "miss"),
        ({"cache-control": "no-cache"}, False, True, 60, "refresh"),
        ({"cache-control": "No-Store, max-age=5"}, False, False, 5, "bypass"),
        ({"cache-control": "max-age = 10"}, True, True, 10, "miss"),
        ({"cache-control": "max-age=9999"}, True, True, 60, "miss"),
        ({HEADER: "refresh"}, False, True, 60, "refresh"),
        ({HEADER: " BYPASS "}, False, False, 60, "bypass"),
        ({HEADER: "nonsense", "cache-control": "\x00;;==max-age=x"}, True, True, 60, "miss"),
    ],
)
def test_clients_may_bypass_and_refresh(headers: dict[str, str], read: bool, write: bool, age: int, word: str) -> None:
    lookup = cache().lookup(asked(headers=headers))
    assert lookup is not None
    assert (lookup.read, lookup.write, lookup.most_age_s, lookup.word) == (read, write, age, word)
    deaf = cache(headers=False).lookup(asked(headers=headers))
    assert deaf is not None and deaf.read and deaf.write and deaf.most_age_s == 60


def test_what_is_looked_up() -> None:
    assert cache().lookup(asked({}, Endpoint.OTHER)) is None
    picky = cache(deterministic=True)
    assert picky.lookup(asked()) is None
    assert picky.lookup(asked(CHAT | {"temperature": 0})) and picky.lookup(asked(CHAT | {"seed": 3}))
    assert picky.lookup(asked({"input": "x"}, Endpoint.EMBEDDINGS))


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
MESSAGE = {"role": "assistant", "content": "It's light.", "refusal": None}
CHOICE = {"index": 0, "message": MESSAGE, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
CHAT_ANSWER = {"id": "x", "object": "chat.completion", "created": 5, "model": "m", "choices": [CHOICE], "usage": USAGE}
ANSWERS = {
    Endpoint.CHAT: CHAT_ANSWER,
    Endpoint.COMPLETIONS: {
        "id": "x",
        "object": "text_completion",
        "created": 5,
        "model": "m",
        "usage": USAGE,
        "choices": [
            {"text": "a", "index": 0, "finish_reason": "stop"},
            {"text": "b", "index": 1, "finish_reason": "length"},
        ],
    },
    Endpoint.MESSAGES: {
        "id": "x",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 2},
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "hello"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1]}},
        ],
    },
    Endpoint.RESPONSES: {
        "id": "x",
        "object": "response",
        "status": "completed",
        "output": [
            {
                "id": "o",
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "hi", "annotations": []}],
            },
            {"id": "f", "type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
        ],
    },
}
TOOLS = CHAT_ANSWER | {
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [CALL, CALL | {"id": "d"}]},
            "finish_reason": "tool_calls",
        },
        {
            "index": 1,
            "message": {"role": "assistant", "content": "x"},
            "finish_reason": "length",
            "logprobs": {"content": [{"token": "x"}]},
        },
    ]
}


@pytest.mark.parametrize(("endpoint", "answer"), [*ANSWERS.items(), (Endpoint.CHAT, TOOLS)])
def test_an_answer_told_as_a_stream_is_the_same_answer(endpoint: Endpoint, answer: dict[str, Any]) -> None:
    stream = replay.to_stream(endpoint, json.dumps(answer).encode(), usage=True)
    assert stream is not None and replay.is_whole(endpoint, stream)
    back = json.loads(replay.to_answer(endpoint, stream) or b"")
    if endpoint is Endpoint.CHAT:
        back["choices"] = [one | {"message": {"refusal": None} | one["message"]} for one in back["choices"]]
        answer = answer | {
            "choices": [one | {"message": {"refusal": None} | one["message"]} for one in answer["choices"]]
        }
    assert back == answer


def test_a_stream_token_by_token_is_joined() -> None:
    def part(delta: Any, finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + json.dumps({"id": "x", "model": "m", "choices": [choice]} | more).encode() + b"\n\n"

    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    stream = (
        part({"role": "assistant", "content": "He"})
        + b": ping\n\n"
        + part({"content": "llo"})
        + part({"tool_calls": [call]})
    )
    stream += part({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]})
    stream += (
        part({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]})
        + part({}, "tool_calls")
        + b"data: [DONE]\n\n"
    )
    answer = json.loads(replay.to_answer(Endpoint.CHAT, stream) or b"")
    message = answer["choices"][0]["message"]
    assert message["content"] == "Hello" and message["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert replay.to_answer(Endpoint.CHAT, stream[:-14]) is None
    assert replay.to_answer(Endpoint.CHAT, b'data: {"error":{}}\n\n' + stream) is None


def stored(one: Cache, body: Any, streamed: bool = False, endpoint: Endpoint = Endpoint.CHAT) -> bytes | None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    entry = one.entry(asked(CHAT, endpoint), streamed, raw, now_s=1000)
    return entry.dump() if entry else None


def hit(one: Cache, store: bytes | None, body: Any = CHAT, now_s: int = 1010, **more: Any) -> Reply | Refusal | None:
    request = asked(body, **more)
    lookup = one.lookup(request)
    assert lookup is not None
    return one.hit(lookup, store, request, now_s)


def test_a_hit_is_the_stored_answer() -> None:
    reply = hit(cache(), stored(cache(), CHAT_ANSWER))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.content_type, reply.headers) == (200, "application/json", {HEADER: "hit", "age": "10"})
    assert json.loads(reply.body) == CHAT_ANSWER


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_is_wanted(usage: bool) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": usage}}
    reply = hit(cache(), stored(cache(), CHAT_ANSWER), body)
    assert isinstance(reply, Reply) and reply.content_type == "text/event-stream"
    assert reply.body.endswith(b"data: [DONE]\n\n") and (b"total_tokens" in reply.body) is usage
    stored_stream = stored(cache(), reply.body, streamed=True)
    again = hit(cache(), stored_stream)
    if not usage:  # a document would have told it
        assert again is None
        return
    assert isinstance(again, Reply) and json.loads(again.body)["choices"][0]["message"]["content"] == "It's light."


def test_what_is_old_or_strange_is_a_miss() -> None:
    store = stored(cache(), CHAT_ANSWER)
    assert hit(cache(), store, now_s=1059) and not hit(cache(), store, now_s=1060)
    assert not hit(cache(), store, headers={"cache-control": "max-age=5"})
    assert not hit(cache(), store, headers={"cache-control": "no-cache"})
    assert not hit(cache(), None)
    assert not hit(cache(), stored(cache(), ANSWERS[Endpoint.MESSAGES], endpoint=Endpoint.MESSAGES))
    refused = hit(cache(), None, headers={"cache-control": "only-if-cached"})
    assert isinstance(refused, Refusal) and refused.status == 504


@pytest.mark.parametrize("body", [b"<html>", b"[]", {"error": {"message": "x"}}, {"type": "error"}, b"x" * 2000])
def test_what_is_not_stored(body: Any) -> None:
    assert stored(cache(most_bytes=1000), body) is None
    assert stored(cache(most_bytes=1000), body, streamed=True) is None


@given(
    st.binary(max_size=60)
    | st.sampled_from([b'{"v":2}', b'{"v":2,"endpoint":"no","born_s":1}', b'{"v":2,"endpoint":[],"born_s":1}'])
)
def test_any_stored_bytes_are_an_entry_or_a_miss(store: bytes) -> None:
    assert Entry.load(store) is None


@given(st.sampled_from(list(Endpoint)), st.lists(JSON, max_size=4))
def test_any_stream_is_an_answer_or_none(endpoint: Endpoint, values: list[Any]) -> None:
    events = [b"data: " + json.dumps(value).encode() + b"\n\n" for value in values]
    events += [b"data: [DONE]\n\n", b'data: {"type":"message_stop"}\n\n']
    replay.to_answer(endpoint, b"".join(events))
    for value in values:
        replay.to_stream(endpoint, json.dumps(value).encode())


NAMES = [
    "choices",
    "index",
    "delta",
    "message",
    "content",
    "tool_calls",
    "function",
    "type",
    "text",
    "output",
    "response",
    "item",
]
SHAPES = st.recursive(
    st.none()
    | st.integers(-1, 2)
    | st.sampled_from(["message_start", "content_block_delta", "tool_use", "text_delta", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=10,
)


@given(st.sampled_from(list(Endpoint)), st.lists(st.dictionaries(st.sampled_from(NAMES), SHAPES), max_size=4))
def test_any_shape_is_told_again_or_not(endpoint: Endpoint, values: list[Any]) -> None:
    test_any_stream_is_an_answer_or_none.hypothesis.inner_test(endpoint, values)  # type: ignore[attr-defined]


@given(CUTS)
def test_the_recorder_passes_on_and_keeps(cuts: list[int]) -> None:
    kept: list[bytes] = []
    data = b"data: 1\n\ndata: [DONE]\n\n"
    assert fed(Recorder(Endpoint.CHAT, len(data), kept.append), chunked(data, cuts)) == data and kept == [data]
    assert fed(Recorder(Endpoint.CHAT, len(data) - 1, kept.append), chunked(data, cuts)) == data and kept == [data]


def test_only_one_flies() -> None:
    flights: Flights[str] = Flights(most=2)
    assert [flights.join(b"k", who) for who in "abcd"] == [Part.LEAD, Part.WAIT, Part.WAIT, Part.ALONE]
    assert flights.land(b"k", "b").served == () and flights.land(b"k", "d").served == ()
    assert flights.land(b"k", "a").served == ("b", "c")
    assert flights.land(b"k", "a").served == () and len(flights) == 0


def test_when_the_leader_leaves_the_next_one_leads() -> None:
    flights: Flights[str] = Flights()
    for who in "abc":
        flights.join(b"k", who)
    assert flights.leave(b"k", "b").leads is None
    assert flights.leave(b"k", "a").leads == "c"
    assert flights.leave(b"k", "c").leads is None and len(flights) == 0


@given(st.lists(st.tuples(st.sampled_from(["join", "land", "leave"]), st.integers(0, 5)), max_size=40))
def test_everyone_who_waits_is_served_or_leads(steps: list[tuple[str, int]]) -> None:
    flights: Flights[int] = Flights(most=3)
    waiting: set[int] = set()
    leader: int | None = None
    for step, who in steps:
        if step == "join":
            if who in waiting or who == leader:
                continue
            part = flights.join(b"k", who)
            assert (part is Part.LEAD) is (leader is None)
            leader = who if part is Part.LEAD else leader
            waiting |= {who} if part is Part.WAIT else set()
        else:
            after = flights.land(b"k", who) if step == "land" else flights.leave(b"k", who)
            if who != leader:
                assert not after.served and after.leads is None
                waiting -= {who} if step == "leave" else set()
            elif step == "land":
                assert set(after.served) == waiting
                waiting, leader = set(), None
            else:
                assert after.leads in waiting or (after.leads is None and not waiting)
                leader = after.leads
                waiting.discard(leader) if leader is not None else None
    assert len(flights) == (leader is not None)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"ttl_s": 0}, "ttl_s is 0"),
        ({"most_bytes": 0}, "most_bytes is 0"),
        ({"scope": "all"}, "scope: Input should be"),
        ({"semantic": {"model": "m", "threshold": 0.2}}, "threshold is 0.2"),
    ],
)
def test_settings_that_cannot_be(document: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        cache(**document)


class Kept(Ticket):
    def __init__(self) -> None:
        self.kept: list[tuple[bytes, int]] = []

    def keep(self, stored: bytes, ttl_s: int) -> None:
        self.kept.append((stored, ttl_s))


def test_the_stage_asks_and_stores_what_the_provider_says() -> None:
    one, request, ticket = cache(), asked(), Kept()
    outcome = one.request(request)
    assert isinstance(outcome.question, Find)
    assert (outcome.question.read, outcome.question.lead, outcome.question.patience_s) == (True, True, None)
    outcome = one.told(request, outcome.state, Found(ticket=ticket))
    assert (outcome.answer_headers, outcome.reply) == ({HEADER: "miss"}, None)
    one.answer(request, outcome.state, json.dumps(CHAT_ANSWER).encode())
    ((stored_, ttl_s),) = ticket.kept
    assert ttl_s == 60
    again = one.told(request, one.request(request).state, Found(stored_))
    assert again.reply is not None and again.reply.cached
    assert json.loads(again.reply.body) == CHAT_ANSWER


def test_the_stage_waits_once_and_keeps_envoy_waiting() -> None:
    one, request = cache(), asked()
    asking = one.request(request)
    outcome = one.told(request, asking.state, Found(ticket=Kept(), waits=True))
    assert isinstance(outcome.question, Await) and outcome.question.patience_s == 60
    after = one.told(request, outcome.state, None)
    assert (after.question, after.answer_headers) == (None, {HEADER: "miss"})


def test_a_store_that_is_away_is_a_miss_and_counted() -> None:
    one, request = cache(), asked()
    outcome = one.told(request, one.request(request).state, None)
    assert outcome.metadata == {"cache": "miss", "cache_away": 1}
    assert one.stream(request, outcome.state) is None
    one.answer(request, outcome.state, json.dumps(CHAT_ANSWER).encode())


def test_what_bypasses_asks_nobody() -> None:
    outcome = cache().request(asked(headers={HEADER: "bypass"}))
    assert (outcome.question, outcome.answer_headers, outcome.state) == (None, {HEADER: "bypass"}, None)
    refresh = cache().request(asked(headers={HEADER: "refresh"})).question
    assert isinstance(refresh, Find) and not refresh.read


def test_a_hit_by_meaning_says_how_near_it_is() -> None:
    one = cache(semantic={"model": "e", "threshold": 0.9})
    request = asked(client="red/alice")
    find = one.request(request).question
    assert isinstance(find, Find) and find.near is not None and find.patience_s == 60
    assert (find.near.compared.text, find.near.client) == ("Why is the sea blue?", "red/alice")
    found = Found(stored(one, CHAT_ANSWER), similarity=0.98765)
    outcome = one.told(asked(now=NOW_), one.request(request).state, found)
    assert outcome.reply is not None and outcome.reply.headers[SIMILARITY] == "0.9877"


NOW_ = datetime.fromtimestamp(1010, UTC)


def _compared(body: Any, endpoint: Endpoint = Endpoint.CHAT, scope: str = "s") -> Any:
    return compared(asked(body, endpoint), scope)


def test_only_what_was_said_last_is_compared() -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    one = _compared({"messages": [*said, {"role": "user", "content": "a"}]})
    parts = _compared({"messages": [*said, {"role": "user", "content": [{"type": "text", "text": "b"}]}]})
    assert (one.text, parts.text) == ("a", "b")
    assert one.group == parts.group
    for other in (
        {"messages": [*said[:1], {"role": "user", "content": "a"}]},
        {"messages": [*said, {"role": "user", "content": "a"}], "temperature": 0},
    ):
        assert _compared(other).group != one.group
    assert _compared({"messages": [*said, {"role": "user", "content": "a"}]}, scope="t").group != one.group
    assert _compared({"prompt": "x"}, Endpoint.COMPLETIONS).text == "x"
    assert _compared({"input": "x"}, Endpoint.RESPONSES).text == "x"


@pytest.mark.parametrize(
    ("body", "endpoint"),
    [
        ({"messages": []}, Endpoint.CHAT),
        ({"messages": ["x"]}, Endpoint.CHAT),
        ({"messages": [{"role": "tool", "content": "x"}]}, Endpoint.CHAT),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, Endpoint.CHAT),
        ({"messages": [{"role": "user", "content": " "}]}, Endpoint.CHAT),
        ({"messages": [{"role": "user", "content": "x" * (MOST_TEXT + 1)}]}, Endpoint.CHAT),
        ({"input": ["x"]}, Endpoint.RESPONSES),
        ({"input": "x"}, Endpoint.EMBEDDINGS),
    ],
)
def test_what_cannot_be_compared(body: Any, endpoint: Endpoint) -> None:
    assert _compared(body, endpoint) is None


@pytest.mark.parametrize(
    ("endpoint", "answer", "final"),
    [
        (Endpoint.CHAT, CHAT_ANSWER, True),
        (Endpoint.CHAT, CHAT_ANSWER | {"choices": [CHOICE | {"finish_reason": "length"}]}, False),
        (Endpoint.CHAT, CHAT_ANSWER | {"choices": [CHOICE | {"finish_reason": "content_filter"}]}, False),
        (Endpoint.CHAT, CHAT_ANSWER | {"choices": [CHOICE | {"finish_reason": None}]}, False),
        (Endpoint.CHAT, CHAT_ANSWER | {"choices": [CHOICE | {"message": {"refusal": "I cannot"}}]}, False),
        (Endpoint.CHAT, CHAT_ANSWER | {"choices": []}, False),
        (Endpoint.CHAT, CHAT_ANSWER | {"choices": [7]}, False),
        (Endpoint.CHAT, CHAT_ANSWER | {"error": {"message": "no"}}, False),
        (Endpoint.MESSAGES, ANSWERS[Endpoint.MESSAGES], True),
        (Endpoint.MESSAGES, ANSWERS[Endpoint.MESSAGES] | {"stop_reason": "max_tokens"}, False),
        (Endpoint.MESSAGES, ANSWERS[Endpoint.MESSAGES] | {"stop_reason": "refusal"}, False),
        (Endpoint.RESPONSES, ANSWERS[Endpoint.RESPONSES], True),
        (Endpoint.RESPONSES, ANSWERS[Endpoint.RESPONSES] | {"status": "incomplete"}, False),
        (Endpoint.RESPONSES, {"status": "completed", "output": [{"content": [{"type": "refusal"}]}]}, False),
        (Endpoint.EMBEDDINGS, {"data": [{"embedding": [1]}]}, True),
        (Endpoint.EMBEDDINGS, {"data": []}, False),
        (Endpoint.OTHER, {"data": [1]}, False),
    ],
)
def test_what_is_final(endpoint: Endpoint, answer: dict[str, Any], final: bool) -> None:
    assert is_final(endpoint, answer) is final


@given(st.sampled_from(list(Endpoint)), st.dictionaries(st.sampled_from([*NAMES, "status", "data"]), SHAPES))
def test_any_shape_is_final_or_not(endpoint: Endpoint, answer: dict[str, Any]) -> None:
    assert is_final(endpoint, answer) in (True, False)
