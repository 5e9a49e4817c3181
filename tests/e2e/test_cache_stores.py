"""The cache in Redis, shared by gateways, and by meaning: a real Redis that goes away, a model that compares texts."""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider
from tests.support.redis import RedisServer, redis_server
from tests.support.usage import alarms, records

_SHARED = """
providers: {{p: {{kind: openai, base_url: "{url}"}}}}
models: {{m: p}}
keys: {{alice: {{secret: {{env: ALICE}}, limits: [strict]}}}}
limits: {{strict: {{tokens: 100000/d, enforce: strict}}}}
rules: [{{name: shared, do: [{{cache: {{ttl: 10m, scope: shared, store: redis}}}}]}}]
"""
_ENV = {"ALICE": "key-of-alice"}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProvider]:
    with MockProvider() as running:
        yield running


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@contextmanager
def _gateway(mock: MockProvider, redis: RedisServer) -> Iterator[Gateway]:
    env = {**_ENV, "REDIS": redis.url}
    policy = _SHARED.format(url=mock.base_url)
    with Gateway(policy, settings="redis: {env: REDIS}", env=env, key="key-of-alice") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(mock: MockProvider, redis: RedisServer) -> Iterator[Gateway]:
    with _gateway(mock, redis) as running:
        yield running


def _ask(gateway: Gateway, text: str, model: str = "m", key: str = "", **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    headers = {"authorization": f"Bearer {key or gateway.key}"}
    answer = gateway.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def _word(answer: httpx.Response) -> str | None:
    return answer.headers.get("x-headgate-cache")


def test_gateways_share_what_is_in_redis(gateway: Gateway, mock: MockProvider, redis: RedisServer) -> None:
    mock.forget()
    with redis.client() as client:
        client.flushdb()
    first = _ask(gateway, "shared by two")
    with _gateway(mock, redis) as other:
        second = _ask(other, "shared by two", stream=True)
    assert (_word(first), _word(second)) == ("miss", "hit")
    assert len(mock.requests()) == 1
    with redis.client() as client:
        (name,) = client.keys("headgate:cache:shared:*")
        assert 0 < client.ttl(name) <= 600
    shown = gateway.admin.get("/cache").json()
    assert (shown["redis"], shown["rules"][0]["redis_entries"]) == ("here", 1)


def test_without_redis_requests_pass_and_an_alarm_says_so(gateway: Gateway, redis: RedisServer) -> None:
    assert [_word(_ask(gateway, "before")) for _ in range(2)] == ["miss", "hit"]
    redis.stop()
    try:
        assert _word(_ask(gateway, "before")) == "miss"
        assert _word(_ask(gateway, "during")) == "miss"
        eventually(lambda: "cache-redis" in alarms(gateway), "an alarm")
        assert gateway.admin.delete("/cache").json()["redis"] == "away"
    finally:
        redis.start()
    eventually(lambda: "cache-redis" not in alarms(gateway), "the alarm ends")
    eventually(lambda: _word(_ask(gateway, "after")) == "hit", "what is stored is found again")
    assert gateway.admin.delete("/cache", params={"rule": "shared"}).json()["cleared"] >= 1
    assert _word(_ask(gateway, "after")) == "miss"


def test_a_hit_is_not_counted_by_a_strict_limit(gateway: Gateway) -> None:
    _ask(gateway, "counted once")
    for stream in (False, True) * 5:
        assert _word(_ask(gateway, "counted once", stream=stream)) == "hit"

    def left() -> bool:
        """Each request holds some 4,100 tokens as long as it runs."""
        return int(_ask(gateway, "counted once").headers["x-ratelimit-remaining-tokens"]) > 90_000

    eventually(left, "what hits held is given back")


class _Meaning(BaseHTTPRequestHandler):
    """An embedding says which of a few words a text holds."""

    words = ("sea", "blue", "why", "capital", "france", "old")
    away = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["input"].lower()
        vector = [1.0 if word in text else 0.0 for word in self.words] + [0.01]
        told = {
            "data": [{"embedding": vector}],
            "model": body["model"],
            "usage": {"prompt_tokens": 7, "total_tokens": 7},
        }
        answer = json.dumps(told).encode()
        self.send_response(500 if type(self).away else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def meaning() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Meaning)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


_ALIKE = """
providers:
  p: {{kind: openai, base_url: "{url}"}}
  e: {{kind: openai, base_url: "{meaning}"}}
models: {{inside: p, outside: p, meaning: {{provider: e, model: words}}}}
keys:
  alice: {{secret: {{env: ALICE}}}}
  bob: {{secret: {{env: BOB}}}}
  carol: {{secret: {{env: CAROL}}}}
rules:
  - {{name: inside, when: {{model: inside}}, do: [{{cache: {{semantic: {{model: meaning, threshold: 0.9}}}}}}]}}
  - name: outside
    when: {{model: outside}}
    do: [{{cache: {{scope: shared, semantic: {{model: words, threshold: 0.9, address: "{meaning}"}}}}}}]
"""


@pytest.fixture(scope="module")
def alike(mock: MockProvider, meaning: str) -> Iterator[Gateway]:
    policy = _ALIKE.format(url=mock.base_url, meaning=meaning)
    with Gateway(policy, env={**_ENV, "BOB": "key-of-bob", "CAROL": "key-of-carol"}, key="key-of-alice") as running:
        yield running


@pytest.mark.parametrize("model", ["inside", "outside"])
def test_what_means_the_same_is_answered_the_same(alike: Gateway, mock: MockProvider, model: str) -> None:
    mock.forget()
    first = _ask(alike, "Why is the sea blue?", model)
    near = _ask(alike, "Tell me why the sea looks so BLUE", model)
    streamed = _ask(alike, "the sea is blue, but why", model, stream=True)
    far = _ask(alike, "What is the capital of France?", model)
    other = _ask(alike, "Why is the sea blue?", model, temperature=0.5)
    assert [_word(each) for each in (first, near, streamed, far, other)] == ["miss", "hit", "hit", "miss", "miss"]
    assert near.json() == first.json()
    assert float(near.headers["x-headgate-cache-similarity"]) > 0.9
    assert "x-headgate-cache-similarity" not in first.headers
    assert len(mock.requests()) == 3


def test_gateways_share_what_means_the_same(mock: MockProvider, meaning: str, redis: RedisServer) -> None:
    policy = f"""
providers: {{p: {{kind: openai, base_url: "{mock.base_url}"}}}}
models: {{m: p}}
keys: {{alice: {{secret: {{env: ALICE}}}}}}
rules:
  - name: alike
    do: [{{cache: {{scope: shared, store: redis, semantic: {{model: words, threshold: 0.9, address: "{meaning}"}}}}}}]
"""
    made = {"settings": "redis: {env: REDIS}", "env": {**_ENV, "REDIS": redis.url}, "key": "key-of-alice"}
    with Gateway(policy, **made) as one, Gateway(policy, **made) as other:
        first = _ask(one, "How old is the blue sea?")
        eventually(lambda: _word(_ask(other, "the blue sea, how old")) == "hit", "the other one finds it")
        near = _ask(other, "how old the sea so blue", stream=True)
        assert float(near.headers["x-headgate-cache-similarity"]) > 0.9
        assert (_word(first), _word(_ask(other, "the capital"))) == ("miss", "miss")
        assert one.admin.delete("/cache").json()["cleared"] >= 2
        assert _word(_ask(other, "the blue sea, so old")) == "miss"


def test_embeddings_are_paid_by_whom_they_are_for(alike: Gateway) -> None:
    _ask(alike, "How old is the capital?", "inside", key="key-of-carol")

    def paid() -> list[Any]:
        return [each for each in records(alike, key="carol") if each["surface"] == "embeddings"]

    (record,) = eventually(paid, "a record")
    assert (record["model"], record["provider"], record["input"]) == ("meaning", "e", 7)


def test_what_is_alike_stays_within_its_scope(alike: Gateway) -> None:
    _ask(alike, "old old sea", "inside")
    assert _word(_ask(alike, "the old sea", "inside", key="key-of-bob")) == "miss"


def test_without_embeddings_equal_requests_are_still_found(alike: Gateway) -> None:
    _Meaning.away = True
    try:
        assert [_word(_ask(alike, "a capital", "outside")) for _ in range(2)] == ["miss", "hit"]
        assert _word(_ask(alike, "the capital", "outside")) == "miss"

        def told() -> bool:
            """No embedding is asked for in the second after a failure, and the alarm is as short."""
            _ask(alike, "a capital", "outside", temperature=next(_numbers))
            return "cache-embeddings" in alarms(alike)

        eventually(told, "an alarm")
    finally:
        _Meaning.away = False
    eventually(lambda: "cache-embeddings" not in alarms(alike), "the alarm ends")
