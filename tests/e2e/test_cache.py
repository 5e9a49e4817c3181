"""The response cache as users meet it: OpenAI's own client, a real Envoy, the workers, the store, a real Redis."""

import itertools
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider
from tests.support.usage import alarms, only_record, unanswered, usage

_POLICY = """
providers:
  p: {{kind: openai, base_url: "{url}"}}
models:
  m: p
  team: p
  everyone: p
  picky: p
  masked: p
  plain: p
  brief: p
keys:
  alice: {{secret: {{env: ALICE}}, team: search, budget: tiny}}
  bob: {{secret: {{env: BOB}}, team: search}}
  eve: {{secret: {{env: EVE}}}}
teams: {{search: {{}}}}
budgets: {{tiny: {{tokens: 1000000, per: day}}}}
rules:
  - {{name: redacted, when: {{model: masked}}, do: [{{mask: [email]}}]}}
  - {{name: own, when: {{model: m}}, do: [{{cache: {{ttl: 10m}}}}]}}
  - {{name: team, when: {{model: team}}, do: [{{cache: {{scope: team}}}}]}}
  - {{name: all, when: {{model: [everyone, masked]}}, do: [{{cache: {{scope: shared}}}}]}}
  - {{name: picky, when: {{model: picky}}, do: [{{cache: {{deterministic: true, tools: false, headers: false}}}}]}}
  - {{name: brief, when: {{model: brief}}, do: [{{cache: {{ttl: 1s}}}}]}}
prices: {{"*": {{input: 1, output: 1}}}}
"""
_KEYS = {"ALICE": "key-of-alice", "BOB": "key-of-bob", "EVE": "key-of-eve"}
_texts = itertools.count(1)


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProvider]:
    with MockProvider("--record", "2000") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(mock: MockProvider) -> Iterator[Gateway]:
    policy, settings = _POLICY.format(url=mock.base_url), "rule_timeout: 3s\nmessages: true"
    with Gateway(policy, settings=settings, env=_KEYS, key="key-of-alice") as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.client() as made:
        yield made


@pytest.fixture(autouse=True)
def _forget(mock: MockProvider) -> None:
    mock.forget()


def _new() -> str:
    """A text that nobody sent before."""
    return f"text number {next(_texts)}"


def _body(text: str, model: str = "m", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def _ask(gateway: Gateway, body: dict[str, Any], key: str = "", **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {key or gateway.key}"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return gateway.http.post("/v1/chat/completions", json=body, headers=sent)


def _word(answer: httpx.Response) -> str | None:
    return answer.headers.get("x-headgate-cache")


def test_an_equal_request_is_answered_without_the_provider(gateway: Gateway, mock: MockProvider) -> None:
    text = _new()
    first = _ask(gateway, _body(text))
    second = _ask(gateway, {**_body(text), "user": "someone", "temperature": 1})
    assert (first.status_code, second.status_code) == (200, 200)
    assert (_word(first), _word(second)) == ("miss", "hit")
    assert second.json() == first.json()
    assert int(second.headers["age"]) >= 0
    assert second.headers["x-request-id"]
    assert len(mock.requests()) == 1


def test_streams_and_documents_answer_each_other(client: openai.OpenAI, mock: MockProvider) -> None:
    for streamed_first in (True, False):
        text = _new()
        messages: Any = _body(text)["messages"]

        def plain(messages: Any = messages) -> tuple[str | None, int]:
            answer = client.chat.completions.create(model="m", messages=messages)
            assert answer.usage is not None
            return answer.choices[0].message.content, answer.usage.total_tokens

        def streamed(messages: Any = messages) -> tuple[str | None, int]:
            chunks = list(
                client.chat.completions.create(
                    model="m", messages=messages, stream=True, stream_options={"include_usage": True}
                )
            )
            assert chunks[-1].usage is not None
            assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
            said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            return said, chunks[-1].usage.total_tokens

        mock.forget()
        asks = (streamed, plain, streamed) if streamed_first else (plain, streamed, plain)
        answers = [ask() for ask in asks]
        assert answers == [answers[0]] * 3
        assert answers[0][0] == f"You said: {text}"
        assert len(mock.requests()) == 1


def test_a_stream_that_is_told_again_has_no_usage_that_nobody_asked_for(gateway: Gateway) -> None:
    body = _body(_new(), stream=True)
    answers = [_ask(gateway, body) for _ in range(2)]
    assert [_word(answer) for answer in answers] == ["miss", "hit"]
    for answer in answers:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "total_tokens" not in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")


def test_clients_bypass_and_refresh(gateway: Gateway, mock: MockProvider) -> None:
    body = _body(_new())
    said = [
        _word(_ask(gateway, body, **headers))
        for headers in (
            {},
            {"cache_control": "no-store"},
            {"x_headgate_cache": "bypass"},
            {"x_headgate_cache": "refresh"},
            {"cache_control": "no-cache"},
            {"cache_control": "max-age=0"},
            {},
        )
    ]
    assert said == ["miss", "bypass", "bypass", "refresh", "refresh", "miss", "hit"]
    assert len(mock.requests()) == 6
    none = _ask(gateway, _body(_new()), cache_control="only-if-cached")
    assert (none.status_code, none.json()["error"]["code"]) == (504, "not_cached")
    assert _ask(gateway, body, cache_control="only-if-cached").status_code == 200


def test_a_rule_may_be_deaf_and_picky(gateway: Gateway, mock: MockProvider) -> None:
    body = _body(_new(), "picky", temperature=0)
    assert [_word(_ask(gateway, body, x_headgate_cache="bypass")) for _ in range(2)] == ["miss", "hit"]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for other in (_body(_new(), "picky"), {**body, "tools": [tool]}):
        assert [_word(_ask(gateway, other)) for _ in range(2)] == [None, None]


def test_answers_stay_within_their_scope(gateway: Gateway) -> None:
    alice, bob, eve = _KEYS.values()

    def words(model: str) -> list[str | None]:
        body = _body(_new(), model)
        return [_word(_ask(gateway, body, key)) for key in (alice, bob, eve, alice, eve)]

    assert words("m") == ["miss", "miss", "miss", "hit", "hit"]
    assert words("team") == ["miss", "hit", None, "hit", None]
    assert words("everyone") == ["miss", "hit", "hit", "hit", "hit"]


def test_a_mask_is_lifted_for_whom_it_hides(gateway: Gateway, mock: MockProvider) -> None:
    alice, bob, _ = _KEYS.values()
    text = _new()
    for stream in (False, True):
        for key, address in ((alice, "ada@example.com"), (bob, "bob@example.org")):
            answer = _ask(gateway, _body(f"{text} {address}", "masked", stream=stream), key)
            said = "".join(_said(answer))
            assert said == f"You said: {text} {address}"
    assert len(mock.requests()) == 1
    assert b"@" not in mock.requests()[0].body


def _said(answer: httpx.Response) -> list[str]:
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return [answer.json()["choices"][0]["message"]["content"]]
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return [choice["delta"].get("content") or "" for event in events for choice in json.loads(event)["choices"]]


@pytest.mark.parametrize(
    ("more", "headers"),
    [
        ({"max_tokens": 1}, {}),  # cut off at its cap
        ({"max_tokens": 1, "stream": True}, {}),
        ({}, {"x_mock_status": "400"}),
        ({}, {"x_mock_body": "%3Chtml%3E", "x_mock_content_type": "text/html"}),
        ({}, {"x_mock_body": "%7B%22error%22%3A%7B%22message%22%3A%22no%22%7D%7D"}),
        ({"stream": True}, {"x_mock_error_after": "1"}),
    ],
)
def test_what_is_no_whole_answer_is_not_stored(gateway: Gateway, more: dict[str, Any], headers: dict[str, str]) -> None:
    body = _body(_new(), **more)
    _ask(gateway, body, **headers)
    assert _word(_ask(gateway, body)) == "miss"


def test_a_stream_that_breaks_off_is_not_stored(gateway: Gateway) -> None:
    body = _body(_new(), stream=True)
    with pytest.raises(httpx.RemoteProtocolError):
        _ask(gateway, body, x_mock_fail_after="2")
    assert _word(_ask(gateway, body)) == "miss"


def test_answers_expire(gateway: Gateway) -> None:
    body = _body(_new(), "brief")
    assert _word(_ask(gateway, body)) == "miss"
    # At the second time, unless a second went by: then the answer is stored anew.
    eventually(lambda: _word(_ask(gateway, body)) == "hit", "the answer is told again")
    eventually(lambda: _word(_ask(gateway, body)) == "miss", "the answer expires")


@pytest.mark.parametrize("stream", [False, True])
def test_of_64_equal_requests_one_reaches_the_provider(gateway: Gateway, mock: MockProvider, stream: bool) -> None:
    body = _body(_new(), "everyone", stream=stream)
    # The provider takes longer than a message of an exchange may: Envoy is told to wait.
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: _ask(gateway, body, x_mock_delay="5s"), range(64)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({"".join(_said(answer)) for answer in answers}) == 1
    assert len(mock.requests()) == 1
    assert sorted(map(_word, answers)) == ["hit"] * 63 + ["miss"]


def test_who_waits_asks_when_the_first_one_got_no_answer(gateway: Gateway, mock: MockProvider) -> None:
    body = _body(_new())
    with ThreadPoolExecutor(3) as pool:
        failing = pool.submit(_ask, gateway, body, x_mock_status="400", x_mock_delay="1s")
        eventually(mock.requests, "the first one is asked for")
        others = [pool.submit(_ask, gateway, body) for _ in range(2)]
        assert failing.result().status_code == 400
        answers = [other.result() for other in others]
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(map(_word, answers)) == ["hit", "miss"]
    assert len(mock.requests()) == 2


def test_who_waits_asks_when_the_first_one_leaves(gateway: Gateway, mock: MockProvider) -> None:
    body = _body(_new())
    with ThreadPoolExecutor(1) as pool:
        with unanswered(gateway, mock, **body):
            before = _waited(gateway)
            waiting = pool.submit(_ask, gateway, body)
            eventually(lambda: _waited(gateway) == before + 1, "the second one waits")
            assert len(mock.requests()) == 1
        answer = waiting.result(60)
    assert (answer.status_code, _word(answer)) == (200, "miss")


def _waited(gateway: Gateway) -> int:
    """How many requests waited for the answer to another one."""
    rows = gateway.admin.get("/cache").raise_for_status().json()["rules"]
    return sum(row["waited"] for row in rows)


def test_a_hit_costs_nothing_and_shows(gateway: Gateway) -> None:
    body = _body(_new(), "team")
    first, second = f"first-{_new()}".replace(" ", "-"), f"second-{_new()}".replace(" ", "-")
    _ask(gateway, body, x_request_id=first)
    _ask(gateway, body, x_request_id=second)
    paid, hit = only_record(gateway, first), only_record(gateway, second)
    assert (paid["cache_hit"], paid["provider"], paid["attempts"]) == (False, "p", 1)
    assert paid["input"] > 0 and paid["cost"] != "0"
    assert (hit["cache_hit"], hit["provider"], hit["attempts"], hit["cost"]) == (True, "", 0, "0")
    assert (hit["input"], hit["output"], hit["key"], hit["model"], hit["status"]) == (0, 0, "alice", "team", 200)
    (row,) = [row for row in usage(gateway, "model") if row["model"] == "team"]
    records = [each for each in usage(gateway, "model,provider") if each["model"] == "team"]
    assert row["cache_hits"] == sum(each["requests"] for each in records if each["provider"] == "") > 0
    told = _ctl(gateway, "usage", "--by", "model")
    assert "cached" in told


def _ctl(gateway: Gateway, *arguments: str) -> str:
    done = gateway.ctl(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ctl_shows_and_clears(gateway: Gateway) -> None:
    mine, theirs = _body(_new()), _body(_new(), "everyone")
    for body in (mine, theirs, mine):
        _ask(gateway, body)
    shown = {row["rule"]: row for row in json.loads(_ctl(gateway, "cache", "show", "--format", "json"))["rules"]}
    assert shown["own"]["entries"] > 0 and shown["own"]["hits"] > 0 and shown["own"]["stored"] > 0
    assert "own" in _ctl(gateway, "cache", "show", "--rule", "own")
    cleared = json.loads(_ctl(gateway, "cache", "clear", "--rule", "own", "--format", "json"))
    assert cleared == {"cleared": shown["own"]["entries"], "redis": "unused"}
    assert (_word(_ask(gateway, mine)), _word(_ask(gateway, theirs))) == ("miss", "hit")
    assert "removed" in _ctl(gateway, "cache", "clear")
    assert _word(_ask(gateway, theirs)) == "miss"


def test_other_apis_are_cached_too(client: openai.OpenAI, mock: MockProvider) -> None:
    text = _new()
    vectors = [client.embeddings.create(model="m", input=text).data[0].embedding for _ in range(2)]
    responses = [client.responses.create(model="m", input=text).output_text for _ in range(2)]
    events = [event.type for event in client.responses.create(model="m", input=text, stream=True)]
    assert vectors[0] == vectors[1]
    assert responses[0] == responses[1]
    assert events[0] == "response.created" and events[-1] == "response.completed"
    assert len(mock.requests()) == 2


def test_anthropics_messages_are_cached_in_their_own_shape(gateway: Gateway, mock: MockProvider) -> None:
    body = _body(_new(), max_tokens=100)
    plain, again, streamed = (
        gateway.http.post("/v1/messages", json={**body, **more}, headers={"x-api-key": gateway.key})
        for more in ({}, {}, {"stream": True})
    )
    assert [_word(answer) for answer in (plain, again, streamed)] == ["miss", "hit", "hit"]
    assert again.json() == plain.json()
    assert plain.json()["content"][0]["text"] in streamed.text
    assert "message_stop" in streamed.text
    assert _word(_ask(gateway, body)) == "miss"
    assert len(mock.requests()) == 2


def test_workers_that_die_take_no_answer_with_them(gateway: Gateway) -> None:
    body = _body(_new())
    _ask(gateway, body)
    for name, pid in gateway.processes().items():
        if name.startswith("rules-"):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: _word(_ask(gateway, body)) == "hit", "a new worker finds it")


def test_without_its_store_requests_pass(gateway: Gateway) -> None:
    body = _body(_new())
    _ask(gateway, body)
    os.kill(gateway.process("cache"), signal.SIGKILL)
    answer = _ask(gateway, body)
    assert (answer.status_code, _word(answer)) == (200, "miss")
    eventually(lambda: _word(_ask(gateway, body)) == "hit", "a new store is filled")
    eventually(lambda: "cache" not in alarms(gateway), "no alarm is left")


def test_a_store_that_hangs_delays_nobody_for_long(gateway: Gateway) -> None:
    body = _body(_new())
    store = gateway.process("cache")
    os.kill(store, signal.SIGSTOP)
    try:
        answer = _ask(gateway, body)
        assert (answer.status_code, _word(answer)) == (200, "miss")
        assert answer.elapsed.total_seconds() < 10  # and not for ever
        eventually(lambda: "cache" in alarms(gateway), "an alarm")
    finally:
        os.kill(store, signal.SIGCONT)
    eventually(lambda: _word(_ask(gateway, body)) == "hit", "the store answers again")
