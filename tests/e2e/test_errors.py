"""Every error that the gateway itself answers: status, OpenAI's shape, and a code that programs can use."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import Gateway
from tests.support.mock import MockProvider
from tests.support.ports import free_port

_POLICY = """
providers:
  up: {{kind: openai, base_url: "{base_url}"}}
  down: {{kind: openai, base_url: "http://127.0.0.1:{free}/v1"}}
  rude: {{kind: openai, base_url: "http://127.0.0.1:{rude}/v1"}}
models:
  m: up
  secret-model: up
  "open-*": up
  absent: {{provider: down, retries: 0}}
  resetting: {{provider: up, model: mock+fail-after=0, retries: 0}}
  babbling: {{provider: rude, retries: 0}}
  slow: {{provider: up, model: mock+hang=headers, retries: 0, timeouts: {{first_byte: 300ms, idle: 300ms}}}}
keys:
  alice: {{secret: {{env: ALICE}}}}
  bob: {{secret: {{env: BOB}}, models: [m, "open-*"]}}
  tight: {{secret: {{env: TIGHT}}, limits: [few]}}
limits:
  few: {{requests: 2/h}}
"""
_ENV = {"ALICE": "sk-alice-0123456789abcdef", "BOB": "sk-bob-0123456789abcdef", "TIGHT": "sk-tight-0123456789abcdef"}
_BOB = f"Bearer {_ENV['BOB']}"


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockProvider]:
    with MockProvider() as mock:
        yield mock


@pytest.fixture(scope="module")
def rude() -> Iterator[int]:
    """The port of a server whose answers are not HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, suppress(OSError):  # Envoy may have left
                    connection.recv(65536)
                    connection.sendall(b"hello, who is there?\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.fixture(scope="module")
def gateway(upstream: MockProvider, rude: int) -> Iterator[Gateway]:
    policy = _POLICY.format(base_url=upstream.base_url, free=free_port(), rude=rude)
    with Gateway(policy, env=_ENV, key=_ENV["ALICE"]) as running:
        yield running


def _error(answer: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """Checks an error's whole shape; its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].partition(";")[0] == "application/json"
    assert answer.headers["x-request-id"]
    (name, error), = answer.json().items()  # fmt: skip
    assert name == "error"
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    message = error.pop("message")
    assert error == {"type": kind, "param": param, "code": code}
    assert isinstance(message, str)
    assert message
    return message


def _post(gateway: Gateway, content: bytes | str, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.http.post(path, content=content.encode() if isinstance(content, str) else content, headers=sent)


def test_no_key(gateway: Gateway) -> None:
    _error(gateway.http.post("/v1/chat/completions", json={"model": "m"}), 401, "invalid_api_key")
    _error(gateway.http.get("/v1/models"), 401, "invalid_api_key")


@pytest.mark.parametrize("value", ["Bearer sk-wrong", "Bearer", "Basic YTpi", "", f"Bearer {_ENV['ALICE']}x"])
def test_a_wrong_key(gateway: Gateway, value: str) -> None:
    message = _error(_post(gateway, '{"model":"m"}', authorization=value), 401, "invalid_api_key")
    assert "sk-" not in message


def test_the_client_raises_its_own_error_types(gateway: Gateway) -> None:
    with gateway.client("sk-wrong") as client, pytest.raises(openai.AuthenticationError) as raised:
        client.models.list()
    assert raised.value.code == "invalid_api_key"


def test_a_model_that_the_key_may_not_use(gateway: Gateway) -> None:
    message = _error(gateway.chat("secret-model", key=_ENV["BOB"]), 403, "model_not_allowed", "model")
    assert "'secret-model'" in message
    assert gateway.chat("open-anything", key=_ENV["BOB"]).status_code == 200


def test_a_model_that_does_not_exist(gateway: Gateway) -> None:
    message = _error(gateway.chat('no"such\\é'), 404, "model_not_found", "model")
    assert "no" in message


_NAMELESS = {
    "no model": '{"messages":[]}',
    "empty": "",
    "not JSON": "hello",
    "model is a number": '{"model":1}',
    "model is null": '{"model":null}',
    "empty name": '{"model":""}',
    "name is cut": '{"model":"m',
    "array": '[{"model":"m"}]',
    "only nested": '{"x":{"model":"m"}}',
    "two models": '{"model":"m","model":"secret-model"}',
    "two models, other case": '{"model":"m","Model":"secret-model"}',
    "second key escaped": '{"model":"m","mod\\u0065l":"secret-model"}',
    "second value no text": '{"model":"m","model":{"a":1}}',
    "control character": '{"model":"m\\u000a"}',
    "far too long": json.dumps({"model": "m" * 300}),
}


@pytest.mark.parametrize("case", _NAMELESS)
def test_a_body_without_exactly_one_model(gateway: Gateway, upstream: MockProvider, case: str) -> None:
    upstream.forget()
    _error(_post(gateway, _NAMELESS[case]), 400, "model_required", "model")
    assert not upstream.requests()


def test_a_form_with_two_models(gateway: Gateway) -> None:
    fields: Any = [("model", (None, "m")), ("model", (None, "secret-model")), ("file", ("a.wav", b"x"))]
    answer = gateway.http.post(
        "/v1/audio/transcriptions", files=fields, headers={"authorization": f"Bearer {gateway.key}"}
    )
    _error(answer, 400, "model_required", "model")


def test_an_escaped_key_or_name_is_the_name_it_stands_for(gateway: Gateway) -> None:
    _error(
        _post(gateway, '{"mod\\u0065l":"s\\u0065cret-model"}', authorization=_BOB), 403, "model_not_allowed", "model"
    )


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nope", "/v2/chat/completions", "/v1/chat/completions/", "/metrics"])
def test_an_unknown_path(gateway: Gateway, path: str) -> None:
    message = _error(_post(gateway, '{"model":"m"}', path), 404, "unknown_url")
    assert path in message


def test_a_path_with_dots_finds_no_way_around(gateway: Gateway, upstream: MockProvider) -> None:
    upstream.forget()
    for path in ("/v1/chat/completions/../../x", "//v1/chat/completions", "/v1/chat%2Fcompletions"):
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: {_BOB}\r\ncontent-type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as raw:
            raw.sendall(f'{head}content-length: 13\r\n\r\n{{"model":"m"}}'.encode())
            assert raw.recv(64).startswith(b"HTTP/1.1 404")
    assert not upstream.requests()


def test_the_wrong_method(gateway: Gateway) -> None:
    headers = {"authorization": f"Bearer {gateway.key}"}
    _error(gateway.http.get("/v1/chat/completions", headers=headers), 405, "method_not_allowed")
    _error(gateway.http.delete("/v1/embeddings?x=1", headers=headers), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (
            "GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket",
            403,
            "upgrade_not_supported",
        ),
        ("GET /v1/models HTTP/1.0\r\nhost: x", 426, "invalid_request"),
        ("GET /v1/models HTTP/1.1", 400, "invalid_request"),
        ("GET /v1/models#x HTTP/1.1\r\nhost: x", 400, "invalid_request"),
    ],
)
def test_a_request_that_envoy_takes_no_further(gateway: Gateway, head: str, status: int, code: str) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as raw:
        raw.sendall(f"{head}\r\nauthorization: {_BOB}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(raw)
        answer.begin()
        _error(httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read()), status, code)


def test_a_body_that_is_too_large(gateway: Gateway) -> None:
    _error(_post(gateway, b'{"model":"m","x":"' + bytes(40 << 20) + b'"}'), 413, "request_too_large")


def test_headers_that_are_too_large(gateway: Gateway) -> None:
    """Envoy's codec answers: such a request never gets as far as an id."""
    answer = _post(gateway, '{"model":"m"}', x_long="y" * 100_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (431, "request_too_large")


def test_a_limit_that_is_exceeded(gateway: Gateway) -> None:
    left = []
    for _ in range(2):
        served = gateway.chat("m", key=_ENV["TIGHT"])
        assert served.status_code == 200
        assert served.headers["x-ratelimit-limit-requests"] == "2"
        left.append(served.headers["x-ratelimit-remaining-requests"])
    assert left == ["1", "0"]
    refused = gateway.chat("m", key=_ENV["TIGHT"])
    _error(refused, 429, "rate_limit_exceeded")
    assert 0 < int(refused.headers["retry-after"]) <= 3600
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"]
    assert not [name for name in refused.headers if name in ("x-ratelimit-limit", "x-ratelimit-remaining")]
    assert gateway.chat("m").status_code == 200  # other keys have buckets of their own


def test_a_provider_that_is_down(gateway: Gateway) -> None:
    _error(gateway.chat("absent"), 503, "upstream_unavailable")


@pytest.mark.parametrize("model", ["resetting", "babbling"])
def test_a_provider_that_gives_no_answer(gateway: Gateway, model: str) -> None:
    _error(gateway.chat(model), 502, "upstream_error")


def test_a_provider_that_is_too_slow(gateway: Gateway) -> None:
    _error(gateway.chat("slow"), 504, "upstream_timeout")


def test_a_providers_own_error_is_passed_on(gateway: Gateway) -> None:
    answer = gateway.chat("open-x", x_mock_status="418")
    assert answer.status_code == 418
    assert answer.headers["x-mock-name"]


@pytest.mark.parametrize(
    "name", ["x-client", "x-model", "x-headgate-client", "x-headgate-model", "x-envoy-original-path"]
)
@pytest.mark.parametrize("value", ["alice", "alice;", "secret-model", "m"])
def test_forged_headers_change_nothing(gateway: Gateway, name: str, value: str) -> None:
    forged = {"authorization": _BOB, name: value}
    refused = gateway.http.post("/v1/chat/completions", json={"model": "secret-model"}, headers=forged)
    _error(refused, 403, "model_not_allowed", "model")
    served = gateway.http.post("/v1/embeddings", json={"model": "m", "input": "x"}, headers=forged)
    assert served.json()["model"] == "m"
    listed = gateway.http.get("/v1/models", headers=forged).json()["data"]
    assert [row["id"] for row in listed] == ["m"]
    _error(gateway.http.get("/v1/chat/completions", headers=forged), 405, "method_not_allowed")
    without = {name: value}
    _error(gateway.http.post("/v1/embeddings", json={"model": "m"}, headers=without), 401, "invalid_api_key")
