"""Counting as users meet it: `/v1/tokenize`, Anthropic's count_tokens, tokenizers of the policy; no provider helps."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anthropic
import httpx
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider
from tests.support.usage import only_record, records, request_id
from tests.support.wired import Answer, Asked, WiredProvider
from tests.support.words import tokenizer_json

_POLICY = """
providers:
  p: {{kind: openai, base_url: "{openai}"}}
  claude: {{kind: anthropic, base_url: "{anthropic}/v1"}}
models:
  gpt-4o: p
  smart: {{provider: p, model: gpt-4o-mini}}
  llama: {{provider: p, model: meta/llama-3}}
  either: {{try: [{{provider: p, model: gpt-4o}}, {{provider: p, model: meta/llama-3}}]}}
  "free-*": p
  sonnet: {{provider: claude, model: claude-sonnet-4-5}}
keys:
  alice: {{secret: {{env: ALICE}}}}
  bob: {{secret: {{env: BOB}}, models: [smart]}}
tokenizers:
  words: {{file: words.json, models: ["meta/llama-*"]}}
rules:
  - name: window
    when: {{model: llama}}
    do: [{{tokens: {{models: {{llama: {{window: 4}}}}}}}}]
"""
_ENV = {"ALICE": "key-of-alice", "BOB": "key-of-bob"}
_HI: list[Any] = [{"role": "user", "content": "hello world"}]


def _counted(asked: Asked) -> Answer:
    """Anthropic, which has its own number."""
    return Answer(200, json.dumps({"input_tokens": 4711 if asked.path.endswith("count_tokens") else 0}).encode())


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProvider]:
    with MockProvider() as running:
        yield running


@pytest.fixture(scope="module")
def claude() -> Iterator[WiredProvider]:
    with WiredProvider(_counted) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(mock: MockProvider, claude: WiredProvider) -> Iterator[Gateway]:
    policy = _POLICY.format(openai=mock.base_url, anthropic=claude.url)
    with Gateway(policy, env=_ENV, key="key-of-alice", files={"words.json": tokenizer_json()}) as running:
        yield running


def _ask(gateway: Gateway, body: object, path: str = "/v1/tokenize", key: str = "") -> httpx.Response:
    headers = {"authorization": f"Bearer {key or gateway.key}", "content-type": "application/json"}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return gateway.http.post(path, content=content, headers=headers)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"model": "gpt-4o", "prompt": "hello world"}, (2, True, "o200k_base", [24912, 2375])),
        ({"model": "smart", "prompt": "hello world"}, (2, True, "o200k_base", [24912, 2375])),
        ({"model": "free-gpt-4", "input": ["hello world", "hello"]}, (3, False, "estimate by o200k_base", None)),
        ({"model": "gpt-4o", "input": ["hello world", "hello"]}, (3, True, "o200k_base", [[24912, 2375], [24912]])),
        ({"model": "gpt-4o", "messages": _HI}, (9, True, "o200k_base", None)),
        ({"model": "llama", "prompt": "hello world"}, (3, True, "words", [1, 2, 3])),
        ({"model": "llama", "prompt": "hello world", "add_special_tokens": False}, (2, True, "words", [2, 3])),
        ({"model": "llama", "messages": _HI}, (9, False, "words", None)),
        ({"model": "either", "prompt": "hello world"}, (2, False, "estimate by o200k_base", None)),
    ],
)
def test_tokenize(gateway: Gateway, mock: MockProvider, body: dict[str, Any], answer: tuple[Any, ...]) -> None:
    mock.forget()
    told = _ask(gateway, body)
    assert told.status_code == 200, told.text
    assert told.headers["content-type"] == "application/json"
    assert told.headers["x-request-id"]
    count, exact, tokenizer, tokens = answer
    expected = {"model": body["model"], "count": count, "exact": exact, "tokenizer": tokenizer}
    assert told.json() == expected | ({"tokens": tokens} if tokens else {})
    assert mock.requests() == []


@pytest.mark.parametrize(
    ("body", "key", "status", "code"),
    [
        ({"model": "gpt-4o", "prompt": "hi"}, "wrong", 401, "invalid_api_key"),
        ({"model": "gpt-4o", "prompt": "hi"}, "key-of-bob", 403, "model_not_allowed"),
        ({"model": "gpt-5", "prompt": "hi"}, "", 404, "model_not_found"),
        ({"prompt": "hi"}, "", 400, "model_required"),
        ({"model": "gpt-4o"}, "", 400, "missing_required_parameter"),
        ({"model": "gpt-4o", "prompt": 7}, "", 400, "invalid_type"),
        ({"model": "gpt-4o", "prompt": "hi", "messages": _HI}, "", 400, "invalid_value"),
        ({"model": "gpt-4o", "prompt": "hi", "add_special_tokens": 1}, "", 400, "invalid_type"),
        (b'{"model": "gpt-4o", "prompt": "hi}', "", 400, "invalid_json"),
    ],
)
def test_errors_of_tokenize(gateway: Gateway, body: object, key: str, status: int, code: str) -> None:
    answer = _ask(gateway, body, key=key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_only_post(gateway: Gateway) -> None:
    answer = gateway.http.get("/v1/tokenize", headers={"authorization": "Bearer key-of-alice"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def test_a_query_changes_nothing(gateway: Gateway) -> None:
    assert _ask(gateway, {"model": "gpt-4o", "prompt": "hello"}, "/v1/tokenize?beta=true").json()["count"] == 1


def test_long_texts_are_counted_without_their_tokens(gateway: Gateway) -> None:
    answer = _ask(gateway, {"model": "llama", "prompt": "hello world " * 100_000}).json()
    assert answer == {"model": "llama", "count": 200_001, "exact": True, "tokenizer": "words"}


def _client(gateway: Gateway, key: str = "key-of-alice") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0, timeout=60)


def test_anthropics_client_counts_for_every_model(gateway: Gateway, mock: MockProvider) -> None:
    mock.forget()
    with _client(gateway) as client:
        for model in ("gpt-4o", "smart", "free-x"):
            counted = client.messages.count_tokens(model=model, system="hello", messages=_HI)
            assert counted.input_tokens == 10
        beta = client.beta.messages.count_tokens(model="gpt-4o", messages=_HI)
        assert beta.input_tokens == 9
    assert mock.requests() == []


def test_anthropic_is_asked_for_its_own_models(gateway: Gateway, claude: WiredProvider) -> None:
    with _client(gateway) as client:
        assert client.messages.count_tokens(model="sonnet", messages=_HI).input_tokens == 4711
    assert claude.asked[-1].json()["model"] == "claude-sonnet-4-5"
    # The endpoint of the gateway itself does not ask it.
    asked = len(claude.asked)
    answer = _ask(gateway, {"model": "sonnet", "messages": _HI}).json()
    assert (answer["count"], answer["exact"], len(claude.asked)) == (9, False, asked)


def test_errors_of_count_tokens_are_anthropics(gateway: Gateway) -> None:
    with _client(gateway) as client:
        with pytest.raises(anthropic.NotFoundError) as unknown:
            client.messages.count_tokens(model="gpt-5", messages=_HI)
        with pytest.raises(anthropic.BadRequestError) as wrong:
            client.messages.count_tokens(model="gpt-4o", messages="hi")  # type: ignore[arg-type]
        with pytest.raises(anthropic.NotFoundError) as absent:
            client.messages.batches.list()
    with _client(gateway, "key-of-bob") as client, pytest.raises(anthropic.PermissionDeniedError) as denied:
        client.messages.count_tokens(model="gpt-4o", messages=_HI)
    with _client(gateway, "wrong") as client, pytest.raises(anthropic.AuthenticationError) as unauthenticated:
        client.messages.count_tokens(model="gpt-4o", messages=_HI)
    errors = [unknown, wrong, absent, denied, unauthenticated]
    types = [
        "not_found_error", "invalid_request_error", "not_found_error", "permission_error", "authentication_error"
    ]  # fmt: skip
    assert [each.value.body["error"]["type"] for each in errors] == types  # type: ignore[index]


def test_counting_costs_nothing(gateway: Gateway) -> None:
    counted = _ask(gateway, {"model": "llama", "prompt": "hello"}).raise_for_status()
    chat = gateway.chat("gpt-4o").raise_for_status()
    only_record(gateway, chat.headers["x-request-id"])
    assert counted.headers["x-request-id"] not in map(request_id, records(gateway))


def test_the_context_guard_counts_with_the_tokenizer_of_the_policy(gateway: Gateway) -> None:
    def asked(prompt: str) -> httpx.Response:
        return _ask(gateway, {"model": "llama", "prompt": prompt}, "/v1/completions")

    # Four words and the token before them are one too many; an encoding of OpenAI's would need eight for these.
    assert asked("hello world hello").status_code == 200
    refused = asked("hello world hello world")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "The request has 5" in refused.json()["error"]["message"]


def test_an_edit_of_a_tokenizer_is_live_without_an_edit_of_the_policy(mock: MockProvider) -> None:
    policy = f"""
providers: {{p: {{kind: openai, base_url: "{mock.base_url}"}}}}
models: {{m: p}}
tokenizers: {{words: {{file: t/words.json, models: [m]}}}}
"""
    with Gateway(policy, settings="tokenize: true", files={"t/words.json": tokenizer_json(["hello"])}) as gateway:

        def tokens() -> list[int]:
            found: list[int] = _ask(gateway, {"model": "m", "prompt": "world hello"}).json()["tokens"]
            return found

        assert tokens() == [1, 0, 2]
        gateway.write("t/words.json", tokenizer_json(["hello", "world"]))
        eventually(lambda: tokens() == [1, 3, 2], "the edit is live")
        gateway.write("t/words.json", "{")
        eventually(lambda: "invalid-tokenizer" in gateway.output(), "the broken file is told")
        assert tokens() == [1, 3, 2]
        gateway.write("t/words.json", tokenizer_json(["world"]))
        eventually(lambda: tokens() == [1, 2, 0], "the next edit is live")


def test_without_need_there_are_no_workers(mock: MockProvider) -> None:
    policy = f'providers: {{p: {{kind: openai, base_url: "{mock.base_url}"}}}}\nmodels: {{m: p}}'
    with Gateway(policy) as gateway:
        answer = _ask(gateway, {"model": "m", "prompt": "hi"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
        assert "gateway.tokenize" in answer.json()["error"]["message"]
        assert not any(name.startswith("rules") for name in gateway.processes())
        gateway.apply_edit(policy, "tokenize: true")
        assert _ask(gateway, {"model": "m", "prompt": "hello"}).json()["count"] == 1
        assert gateway.chat("m").status_code == 200


def test_workers_that_are_away_are_told_in_both_dialects(gateway: Gateway) -> None:
    def refused() -> list[httpx.Response]:
        for name, pid in gateway.processes().items():
            if name.startswith("rules-"):
                with suppress(ProcessLookupError):  # it has not come back yet
                    os.kill(pid, signal.SIGKILL)
        answers = [
            _ask(gateway, {"model": "gpt-4o", "prompt": "hi"}),
            _ask(gateway, {"model": "gpt-4o", "messages": _HI}, "/v1/messages/count_tokens"),
        ]
        return answers if all(answer.status_code == 503 for answer in answers) else []

    openais, anthropics = (answer.json() for answer in eventually(refused, "nobody counts"))
    assert openais["error"]["code"] == "rules_unavailable"
    assert (anthropics["type"], anthropics["error"]["type"]) == ("error", "overloaded_error")
    eventually(lambda: _ask(gateway, {"model": "gpt-4o", "prompt": "hi"}).is_success, "it is counted again")
