"""One attempt in Envoy's protocol: headers in front of bodies, whatever the cutting of the answer."""

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from hypothesis import given
from hypothesis import strategies as st

from extproc.server import translating
from extproc.server.counters import Counters
from extproc.server.exchange import ATTRIBUTES, ProtocolError, attribute
from extproc.server.translating import Translating
from extproc.translate import Options
from extproc.translate.settings import Translation, dump, parse
from tests.unit.translate.answers import Step, stream, whole

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BODY = {"model": "claude", "messages": [{"role": "user", "content": "hi"}]}
CLAUDE = Translation("anthropic", Options(base_path="/v1", unsupported="drop"))


def _asking(body: dict[str, Any], path: str = "/v1/chat/completions") -> ext_proc.ProcessingRequest:
    message = ext_proc.ProcessingRequest(request_body={"body": json.dumps(body).encode(), "end_of_stream": True})
    said = {attribute(translating.CLIENT_PATH): path, attribute("x-request-id"): "a-b", "request.path": "/other"}
    message.attributes[ATTRIBUTES].update(said)
    return message


def _part(data: bytes, *, ends: bool = False) -> ext_proc.ProcessingRequest:
    return ext_proc.ProcessingRequest(response_body={"body": data, "end_of_stream": ends})


def _told(status: int, kind: str, **more: str) -> bytes:
    headers = {":status": str(status), "content-type": kind} | {k.replace("_", "-"): v for k, v in more.items()}
    return b"\x1e" + "".join(f"{name}:{value}\n" for name, value in headers.items()).encode() + b"\n"


def _split(data: bytes) -> tuple[dict[str, str], bytes]:
    assert data.startswith(b"\x1e")
    head, _, body = data[1:].partition(b"\n\n")
    lines = head.decode().split("\n")
    return {line[: line.index(":", 1)]: line[line.index(":", 1) + 1 :] for line in lines}, body


def begun(body: dict[str, Any], how: Translation = CLAUDE) -> tuple[Translating, dict[str, str], bytes]:
    exchange = Translating(how, counters=Counters(), now=NOW)
    answer = exchange.respond(_asking(body))
    return exchange, *_split(answer.request_body.response.body_mutation.body)


def answered(exchange: Translating, parts: list[bytes]) -> bytes:
    messages = [_part(part, ends=number == len(parts) - 1) for number, part in enumerate(parts)]
    answers = [exchange.respond(message).response_body.response.body_mutation for message in messages]
    assert all(answer.HasField("body") for answer in answers)  # nothing untranslated passes
    return b"".join(answer.body for answer in answers)


def test_a_request_says_path_and_headers_in_front_of_its_body() -> None:
    _, headers, body = begun(BODY | {"seed": 1})
    assert headers[":path"] == "/v1/messages"
    assert headers["anthropic-version"] == "2023-06-01"
    assert json.loads(body)["model"] == "claude"


def test_the_clients_path_says_its_dialect() -> None:
    exchange = Translating(Translation("openai"), counters=Counters(), now=NOW)
    answer = exchange.respond(_asking(BODY | {"max_tokens": 9}, "/v1/messages?beta=true"))
    headers, _ = _split(answer.request_body.response.body_mutation.body)
    assert headers[":path"] == "/v1/chat/completions"
    with pytest.raises(ProtocolError, match="no path"):
        Translating(CLAUDE, counters=Counters(), now=NOW).respond(_asking(BODY, "/v1/responses"))


def test_a_refused_request_is_answered_at_once_in_its_own_words() -> None:
    exchange = Translating(Translation("anthropic"), counters=Counters(), now=NOW)
    answer = exchange.respond(_asking(BODY | {"seed": 1}))
    assert answer.immediate_response.status.code == 400
    assert json.loads(answer.immediate_response.body)["error"]["param"] == "seed"
    assert answer.dynamic_metadata["headgate"]["own_words"] is True


@given(st.lists(st.integers(0, 400), max_size=6), st.booleans())
def test_any_cutting_of_an_answer_gives_the_same(cuts: list[int], streaming: bool) -> None:
    steps = [Step("text", "Hello"), Step("call", "x", "f")]
    data = stream("anthropic", steps) if streaming else whole("anthropic", steps)
    head = _told(200, "text/event-stream" if streaming else "application/json")
    places = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    exchange, _, _ = begun(BODY | {"stream": streaming})
    headers, body = _split(answered(exchange, [head + pieces[0], *pieces[1:], b""]))
    other, _, _ = begun(BODY | {"stream": streaming})
    assert (headers, body) == _split(answered(other, [head + data, b""]))
    assert headers["content-length"] == headers["content-encoding"] == ""
    assert (":status" in headers) is not streaming


def test_what_was_left_out_is_told_with_the_answer() -> None:
    exchange, _, _ = begun(BODY | {"seed": 1})
    headers, _ = _split(answered(exchange, [_told(200, "application/json") + whole("anthropic", []), b""]))
    assert (headers["x-headgate-dropped"], headers[":status"]) == ("seed", "200")


def test_an_error_keeps_its_retry_after_and_gets_the_clients_status() -> None:
    exchange, _, _ = begun(BODY)
    error = b'{"type":"error","error":{"type":"overloaded_error","message":"Busy."}}'
    headers, body = _split(answered(exchange, [_told(529, "application/json", retry_after="3") + error]))
    assert (headers[":status"], headers["retry-after"]) == ("503", "3")
    assert json.loads(body)["error"]["message"] == "Busy."


def test_an_answer_beyond_the_limit_is_an_error_and_held_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translating, "MOST_HELD", 100)
    exchange, _, _ = begun(BODY)
    parts = [_told(200, "application/json") + b"{" + b" " * 99, b" " * 50, b"}", b""]
    headers, body = _split(answered(exchange, parts))
    assert headers[":status"] == "502"
    assert body.count(b'"error"') == 1


@pytest.mark.parametrize("first", [b"", b"{}", b"\x1e\n\n{}", b"\x1econtent-type:x\n\n"])
def test_an_answer_without_its_headers_is_no_answer(first: bytes) -> None:
    exchange, _, _ = begun(BODY)
    with pytest.raises(ProtocolError):
        exchange.respond(_part(first))


def test_messages_out_of_order_are_refused() -> None:
    exchange = Translating(CLAUDE, counters=Counters(), now=NOW)
    with pytest.raises(ProtocolError):
        exchange.respond(_part(b"x"))
    exchange.respond(_asking(BODY))
    with pytest.raises(ProtocolError):
        exchange.respond(_asking(BODY))


@pytest.mark.parametrize(
    "translation",
    [CLAUDE, Translation("openai"), Translation("cohere", Options(embedding_purpose="clustering", stream_usage=False))],
)
def test_settings_survive_their_text(translation: Translation) -> None:
    assert parse(dump(translation)) == translation
    assert dump(translation).isascii()


@pytest.mark.parametrize("text", ["{}", "[]", '{"provider":"what"}', '{"provider":"openai","new":1}', "no json"])
def test_other_settings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"provider|option|json|unexpected|literal"):
        parse(text)
