"""The format of recordings: what is written is read again; what is none is refused without quoting it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecars.recording.events import Splitter, data_of
from sidecars.recording.exchange import Answer, Body, Exchange, ExchangeError, Request, Times, parse
from sidecars.recording.usage import model_of, usage_in

TEXT = st.text(max_size=20)
MS = st.floats(0, 1e6)
BODIES = st.binary(max_size=30).map(Body.of)
EXCHANGES = st.builds(
    Exchange,
    id=TEXT,
    at=st.just("2026-01-02T03:04:05.678Z"),
    model=TEXT,
    provider=TEXT,
    request=st.builds(
        Request, method=TEXT, path=TEXT.map("/{}".format), headers=st.dictionaries(TEXT, TEXT, max_size=2), body=BODIES
    ),
    answer=st.builds(
        Answer,
        status=st.integers(100, 599),
        headers=st.dictionaries(TEXT, TEXT, max_size=2),
        body=st.none() | BODIES,
        events=st.none() | st.lists(st.tuples(MS, TEXT), max_size=3).map(tuple),
        ended=st.sampled_from(["complete", "cut", "left"]),
    ),
    ms=st.builds(Times, headers=MS, first=MS, total=MS),
    usage=st.none() | st.dictionaries(TEXT, st.integers(0, 9), max_size=2),
)


@given(EXCHANGES)
def test_what_is_written_is_read(exchange: Exchange) -> None:
    line = exchange.line()
    assert line.count(b"\n") == 1
    assert parse(line) == exchange


@given(st.binary(max_size=40))
def test_bodies_are_exact(data: bytes) -> None:
    assert Body.of(data).content() == data


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"version": 2}', '{"version": 1, "id": "canary"}'])
def test_what_is_no_exchange_is_refused(line: str) -> None:
    with pytest.raises(ExchangeError) as caught:
        parse(line)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"at": "yesterday"}, "at"),
        ({"at": "2026-01-02T03:04:05"}, "at"),
        ({"path": "http://elsewhere/v1"}, "request.path"),
    ],
)
def test_what_a_replay_could_not_send_is_refused(change: dict[str, str], place: str) -> None:
    data = json.loads(
        Exchange(
            id="i", at="2026-01-02T03:04:05Z", model="m", provider="p",
            request=Request(method="GET", path="/v1/models", headers={}, body=Body(text="")),
            answer=Answer(status=200, headers={}), ms=Times(headers=1, first=1, total=1),
        ).line()
    )  # fmt: skip
    for name, value in change.items():
        (data["request"] if name == "path" else data)[name] = value
    with pytest.raises(ExchangeError, match=f"^{place}: "):
        parse(json.dumps(data))


def test_a_body_that_is_not_base64_is_refused() -> None:
    with pytest.raises(ExchangeError, match="base64"):
        Body(base64="%%%").content()


@given(
    st.lists(st.sampled_from([b"data: a\n", b"\n", b"\r\n", b"event: x\r\n", b"data: \xff"]), max_size=12), st.data()
)
def test_events_are_whole_however_they_arrive(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    splitter, found, rest = Splitter(), [], whole
    while rest:
        length = data.draw(st.integers(1, len(rest)))
        found += splitter.feed(rest[:length])
        rest = rest[length:]
    found.append(splitter.end())
    assert b"".join(found) == whole
    once = Splitter()
    assert [*once.feed(whole), once.end()] == found or b"\r" in whole


def test_data_of_an_event_is_its_lines() -> None:
    assert data_of("event: x\ndata: a\ndata:b\n\n") == "a\nb"
    assert data_of("event: x\r\ndata: a\u2028b\x85c\r\n\r\n") == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("texts", "usage"),
    [
        (['{"usage": {"prompt_tokens": 3}}'], {"prompt_tokens": 3}),
        (['data: {"usage": null}\n\n', 'data: {"usage": {"prompt_tokens": 3}}\n\n'], {"prompt_tokens": 3}),
        (['event: x\ndata: {"response": {"usage": {"input_tokens": 3}}}\n\n'], {"input_tokens": 3}),
        (
            ['data: {"message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}\n\n',
             'data: {"usage": {"output_tokens": 9}}\n\n'],
            {"input_tokens": 3, "output_tokens": 9},
        ),
        (['{"usage": 3}', "data: [DONE]\n\n", '{"usage"', '["usage"]'], None),
    ],
)  # fmt: skip
def test_usage_of_every_api(texts: list[str], usage: dict[str, Any] | None) -> None:
    assert usage_in(texts) == usage


def test_the_model_is_that_of_the_body() -> None:
    assert model_of(json.dumps({"model": "m"}).encode()) == "m"
    assert model_of(b'{"model": 3}') == model_of(b"[]") == model_of(b"\xff") == ""
