"""The protocol with Envoy: each message gets one answer, whatever the provider sends."""

import gzip
import itertools
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from hypothesis import given
from hypothesis import strategies as st

from extproc.server import exchange as exchanges
from extproc.server import settings
from extproc.server.chain import Chain
from extproc.server.counters import Counters
from extproc.server.exchange import Exchange, Pause, ProtocolError
from extproc.server.library import Version
from extproc.server.settings import RuleSpec, Settings, StageSpec, When
from extproc.stages.cache import Await, Find, Found, Ticket
from extproc.usage.entries import CACHE_HIT, CACHE_HITS

_SAFE = StageSpec("safety", {"rules": [{"find": ["email"]}, {"words": ["xyzzy"], "action": "block"}]})
_LABEL = StageSpec(
    "transform", {"operations": [{"headers": {"x-who": "{key}"}}, {"answer_headers": {"x-m": "{model}"}}]}
)
_ANSWERS = StageSpec("safety", {"rules": [{"words": ["xyzzy"], "action": "block", "on": "answer"}]})
_TIDY = StageSpec("transform", {"operations": [{"remove_from_answer": ["id"]}]})


def _chain(*stages: StageSpec, closed: bool = True) -> Chain:
    return Version(settings.dump(Settings(1, (RuleSpec("rule", stages, closed=closed),))), "here").chain("0")


_CHAIN = _chain(_SAFE)


def _exchange(chain: Chain = _CHAIN, *, streamed: bool = False) -> Exchange:
    return Exchange(chain, streamed=streamed, counters=Counters(), now=datetime(2026, 1, 1, tzinfo=UTC))


def _with(message: Any, attributes: dict[str, str | int]) -> Any:
    fields = message.attributes[exchanges.ATTRIBUTES].fields
    for name, value in attributes.items():
        if isinstance(value, int):
            fields[name].number_value = value
        else:
            fields[name].string_value = value
    return message


def _request(text: str = "I am ada@example.com", **more: str) -> Any:
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": text}]})
    known = {
        exchanges.ROUTE: "rules/ab12/0",
        exchanges.PATH: "/v1/chat/completions",
        exchanges.attribute("x-headgate-client"): "acme/search/alice;standard;",
        exchanges.attribute("x-headgate-model"): "m",
        exchanges.attribute("content-type"): more.get("content_type", "application/json"),
    }
    return _with(ext_proc.ProcessingRequest(request_body={"body": body, "end_of_stream": True}), known)


def _answer(
    body: bytes, kind: str = "application/json", *, status: int = 200, ends: bool = True, encoding: str = ""
) -> Any:
    known: dict[str, str | int] = {exchanges.STATUS: status, exchanges.answer_attribute("content-type"): kind}
    if encoding:
        known[exchanges.answer_attribute("content-encoding")] = encoding
    return _with(ext_proc.ProcessingRequest(response_body={"body": body, "end_of_stream": ends}), known)


def _body(answer: Any, came: bytes) -> bytes:
    response = answer.response_body.response
    return bytes(response.body_mutation.body) if response.HasField("body_mutation") else came


def test_a_request_is_changed_and_logged() -> None:
    answer = _exchange().respond(_request())
    assert orjson.loads(answer.request_body.response.body_mutation.body)["messages"][0]["content"] == "I am [EMAIL]"
    log = answer.dynamic_metadata[exchanges.NAMESPACE][exchanges.LOG]
    assert orjson.loads(log) == {"rule": {"safety": {"email": 1}}}


def test_a_request_that_stays_costs_nothing_more() -> None:
    answer = _exchange().respond(_request("hi"))
    assert answer == ext_proc.ProcessingResponse(request_body={"response": {}})


def test_a_refusal_says_that_its_words_are_its_own() -> None:
    answer = _exchange().respond(_request("xyzzy"))
    assert answer.immediate_response.status.code == 400
    assert orjson.loads(answer.immediate_response.body)["error"]["code"] == "content_policy_violation"
    assert answer.dynamic_metadata["headgate"]["own_words"] is True


def test_it_is_over_where_no_stage_wants_to_see_the_answer() -> None:
    for_others = RuleSpec("other", (_TIDY,), When(keys=("bob",)))
    settings_ = Settings(1, (RuleSpec("label", (_LABEL,)), for_others, RuleSpec("safe", (_SAFE,))))
    version = Version(settings.dump(settings_), "here")
    for chain, text, over in (("0", "hi", True), ("0-1", "hi", True), ("2", "hi", False), ("2", "xyzzy", True)):
        made = _exchange(version.chain(chain))
        assert not made.over
        made.respond(_request(text))
        assert made.over is over, (chain, text)


def test_headers_go_by_dynamic_metadata() -> None:
    said = _exchange(_chain(_LABEL)).respond(_request()).dynamic_metadata[exchanges.NAMESPACE]
    assert (said[exchanges.ASK]["x-who"], said[exchanges.TELL]["x-m"]) == ("alice", "m")


@pytest.mark.parametrize("closed", [True, False])
def test_a_form_is_refused_only_where_a_rule_must_hold(closed: bool) -> None:
    answer = _exchange(_chain(_SAFE, closed=closed)).respond(_request(content_type="multipart/form-data; boundary=x"))
    assert answer.HasField("immediate_response") is closed


def test_an_answer_is_changed() -> None:
    made = _exchange()
    made.respond(_request("hi"))
    body = b'{"choices":[{"message":{"content":"bob@example.com"}}]}'
    assert b"[EMAIL]" in _body(made.respond(_answer(body)), body)


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_errors_keep_their_words(status: int) -> None:
    made = _exchange()
    made.respond(_request("hi"))
    assert made.respond(_answer(b"bob@example.com", status=status)) == ext_proc.ProcessingResponse(
        response_body={"response": {}}
    )


_EVENTS = (
    b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":%b}}]}\n\n' % orjson.dumps(part)
        for part in ("I am ada@exa", "mple.com", " bye")
    )
    + b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(_EVENTS)), max_size=8))
def test_a_stream_says_the_same_however_it_is_cut(cuts: list[int]) -> None:
    made = _exchange(streamed=True)
    made.respond(_request("hi"))
    edges = [0, *sorted(cuts), len(_EVENTS)]
    out = b""
    for begin, end in itertools.pairwise(edges):
        chunk = _EVENTS[begin:end]
        out += _body(made.respond(_answer(chunk, "text/event-stream", ends=False)), chunk)
    out += _body(made.respond(_answer(b"", "text/event-stream")), b"")
    said = [orjson.loads(line[6:]) for line in out.splitlines() if line.startswith(b"data: {")]
    assert "".join(event["choices"][0]["delta"]["content"] for event in said) == "I am [EMAIL] bye"
    assert out.endswith(b"data: [DONE]\n\n")


def test_a_stream_that_is_none_is_looked_at_as_a_whole() -> None:
    made = _exchange(streamed=True)
    made.respond(_request("hi"))
    page = b"<html>bob@example.com</html>"
    first = _body(made.respond(_answer(page[:10], "text/html", ends=False)), page[:10])
    assert first + _body(made.respond(_answer(page[10:], "text/html")), page[10:]) == b"<html>[EMAIL]</html>"


def test_what_is_too_long_to_hold_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "_MOST_HELD", 20)
    made = _exchange(streamed=True)
    made.respond(_request("hi"))
    out = b""
    for _ in range(5):
        out += _body(made.respond(_answer(b"ada@example.com", "text/plain", ends=False)), b"?")
    assert b"ada@" not in out
    assert out.count(b"upstream_error") == 1


@pytest.mark.parametrize(("encoding", "opened"), [("gzip", gzip.decompress), ("br", bytes)])
def test_a_compressed_stream_ends_at_once(encoding: str, opened: Any) -> None:
    made = _exchange(streamed=True)
    made.respond(_request("hi"))
    out = _body(made.respond(_answer(b"\x1f\x8b", "text/event-stream", ends=False, encoding=encoding)), b"?")
    assert (b"upstream_error" in opened(out)) is (encoding == "gzip")
    assert _body(made.respond(_answer(b"more", encoding=encoding)), b"?") == b""


def test_a_compressed_answer_is_an_error_only_where_a_rule_must_hold() -> None:
    for closed in (True, False):
        made = _exchange(_chain(_SAFE, closed=closed))
        made.respond(_request("hi"))
        assert made.respond(_answer(b"\x1f\x8b", encoding="gzip")).HasField("immediate_response") is closed


def test_an_answer_alone_is_enough_for_a_rule_that_needs_no_request() -> None:
    made = _exchange(_chain(_TIDY))
    body = b'{"id":"1","object":"x"}'
    assert _body(made.respond(_answer(body)), body) == b'{"object":"x"}'


def test_what_is_logged_of_an_answer_leaves_what_is_logged_of_its_request() -> None:
    made = _exchange()
    asked = made.respond(_request()).dynamic_metadata[exchanges.NAMESPACE]
    body = b'{"choices":[{"message":{"content":"bob@example.com, ada@example.com"}}]}'
    answered = made.respond(_answer(body)).dynamic_metadata[exchanges.NAMESPACE]
    assert orjson.loads(asked[exchanges.LOG]) == {"rule": {"safety": {"email": 1}}}
    assert set(answered) == {exchanges.ANSWER_LOG}
    assert orjson.loads(answered[exchanges.ANSWER_LOG]) == {"rule": {"safety": {"email": 2}}}


def test_an_error_has_the_shape_of_the_api_that_the_client_called() -> None:
    message = _answer(b'{"choices":[{"message":{"content":"xyzzy"}}]}')
    known = {
        exchanges.PATH: "/v1beta/models/x:generateContent",
        exchanges.attribute("x-envoy-original-path"): "/v1/messages",
    }
    answer = _exchange(_chain(_ANSWERS)).respond(_with(message, known))
    assert orjson.loads(answer.immediate_response.body)["type"] == "error"


def test_messages_that_were_not_asked_for_are_errors() -> None:
    with pytest.raises(ProtocolError, match="request_headers"):
        _exchange().respond(ext_proc.ProcessingRequest(request_headers={}))
    with pytest.raises(ProtocolError, match="route"):
        exchanges.route(ext_proc.ProcessingRequest())


@given(
    st.binary(max_size=200), st.sampled_from(["application/json", "text/event-stream", "text/html", ""]), st.booleans()
)
def test_any_bytes_get_an_answer(body: bytes, kind: str, streamed: bool) -> None:
    made = _exchange(streamed=streamed)
    made.respond(_request("hi"))
    assert made.respond(_answer(body, kind)).WhichOneof("response") in ("response_body", "immediate_response")


_CACHE = StageSpec("cache", {"ttl_s": 60, "scope": "shared"})
_CHAT = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{}}'


class _Ticket(Ticket):
    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def keep(self, stored: bytes, ttl_s: int) -> None:
        self.kept.append(stored)


def test_a_rule_that_asks_has_the_message_wait() -> None:
    exchange, ticket = _exchange(_chain(_CACHE)), _Ticket()
    pause = exchange.respond(_request())
    assert isinstance(pause, Pause)
    assert (pause.asking.rule, type(pause.asking.question), pause.first) == ("rule", Find, None)
    pause = pause.go_on(Found(ticket=ticket, waits=True))
    assert isinstance(pause, Pause) and isinstance(pause.asking.question, Await) and pause.first is not None
    assert pause.first.override_message_timeout.seconds == 60
    answer = pause.go_on(Found(ticket=ticket))
    assert not isinstance(answer, Pause)
    assert answer.dynamic_metadata[exchanges.NAMESPACE][exchanges.TELL]["x-headgate-cache"] == "miss"
    exchange.respond(_answer(_CHAT))
    assert len(ticket.kept) == 1

    hit = _exchange(_chain(_CACHE)).respond(_request())
    assert isinstance(hit, Pause)
    answer = hit.go_on(Found(ticket.kept[0]))
    assert not isinstance(answer, Pause)
    assert answer.immediate_response.details == CACHE_HIT
    assert answer.immediate_response.body == _CHAT
    own = answer.dynamic_metadata[exchanges.OWN]
    assert (own[exchanges.OWN_WORDS], own[CACHE_HITS]) == (True, 1)


def test_what_is_no_answer_is_not_stored() -> None:
    for answer in (_answer(b'{"error":{}}', status=500), _answer(b"<html>"), _answer(_CHAT, encoding="gzip")):
        exchange, ticket = _exchange(_chain(_CACHE, closed=False)), _Ticket()
        pause = exchange.respond(_request())
        assert isinstance(pause, Pause)
        pause.go_on(Found(ticket=ticket))
        exchange.respond(answer)
        assert ticket.kept == []
