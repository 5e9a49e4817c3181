"""Keys that may be used from some addresses only, and whose word about the address counts."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.usage import ctl, only_record

_POLICY = """
providers: {p: {kind: mock}}
models: {m: p, n: p}
keys:
  here: {secret: {env: HERE}, addresses: [127.0.0.0/8, "::1"]}
  away: {secret: {env: AWAY}, addresses: [10.0.0.0/8, "2001:db8::/32"]}
  both: {secret: {env: BOTH}, models: [m], addresses: [127.0.0.1]}
  free: {secret: {env: FREE}}
"""
_ENV = {name: f"sk-{name.lower()}-0123456789abcdef" for name in ("HERE", "AWAY", "BOTH", "FREE")}


@pytest.fixture(scope="module")
def direct() -> Iterator[Gateway]:
    with Gateway(_POLICY, env=_ENV, key=_ENV["FREE"]) as running:
        yield running


@pytest.fixture(scope="module")
def behind() -> Iterator[Gateway]:
    """Behind a load balancer on this machine."""
    settings = "trusted_proxies: [127.0.0.1, 10.9.0.0/16]"
    with Gateway(_POLICY, settings=settings, env=_ENV, key=_ENV["FREE"]) as running:
        yield running


def _is_elsewhere(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (403, "address_not_allowed", "invalid_request_error")
    assert "x-request-id" in answer.headers


def test_a_key_is_refused_from_elsewhere(direct: Gateway) -> None:
    assert direct.chat("m", _ENV["HERE"]).status_code == 200
    assert direct.chat("m", _ENV["FREE"]).status_code == 200
    _is_elsewhere(direct.chat("m", _ENV["AWAY"]))


def test_models_are_bound_besides(direct: Gateway) -> None:
    assert direct.chat("m", _ENV["BOTH"]).status_code == 200
    answer = direct.chat("n", _ENV["BOTH"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_allowed")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", "/v1/usage"])
def test_other_answers_are_bound_too(direct: Gateway, path: str) -> None:
    answers = [
        direct.http.get(path, headers={"authorization": f"Bearer {_ENV[name]}"}) for name in ("HERE", "AWAY", "FREE")
    ]
    assert [answer.status_code for answer in answers] == [200, 403, 200]
    _is_elsewhere(answers[1])


@pytest.mark.parametrize("header", ["x-forwarded-for", "x-real-ip", "forwarded", "x-envoy-external-address"])
def test_a_client_cannot_say_where_it_is(direct: Gateway, header: str) -> None:
    _is_elsewhere(direct.chat("m", _ENV["AWAY"], **{header.replace("-", "_"): "10.0.0.1"}))


def test_an_issued_key_is_bound_also_after_its_rotation(direct: Gateway) -> None:
    def issued(*words: str) -> str:
        done = ctl(direct, "keys", *words, "--format", "json")
        assert done.returncode == 0, done.stderr
        secret: str = json.loads(done.stdout)["secret"]
        return secret

    local = issued("issue", "local", "--addresses", "127.0.0.1")
    # The first key that is issued changes the listener: a connection of before drains.
    eventually(lambda: direct.chat("m", local).status_code == 200, "the issued key is served")
    away = issued("issue", "remote", "--addresses", "10.0.0.0/8,2001:db8::/32", "--models", "m")
    _is_elsewhere(direct.chat("m", away))
    again = issued("rotate", "remote")
    _is_elsewhere(direct.chat("m", again))
    _is_elsewhere(direct.chat("m", away))
    assert "10.0.0.0/8, 2001:db8::/32" in ctl(direct, "keys", "list").stdout
    refused = ctl(direct, "keys", "issue", "odd", "--addresses", "10.0.0.7/8")
    assert (refused.returncode, "10.0.0.0/8 holds this one" in refused.stderr) == (1, True)


def test_a_trusted_proxy_can(behind: Gateway) -> None:
    for named in ("10.0.0.1", "8.8.8.8, 10.0.0.1", "10.0.0.1, 10.9.1.1", "2001:db8::7"):
        assert behind.chat("m", _ENV["AWAY"], x_forwarded_for=named).status_code == 200, named
        _is_elsewhere(behind.chat("m", _ENV["HERE"], x_forwarded_for=named))
    for named in ("8.8.8.8", "10.0.0.1, 8.8.8.8", "10.0.0.1, 8.8.8.8, 10.9.1.1"):
        _is_elsewhere(behind.chat("m", _ENV["AWAY"], x_forwarded_for=named))
    assert behind.chat("m", _ENV["HERE"]).status_code == 200  # the proxy itself


def test_headers_of_the_gateways_own_stay_out_behind_a_proxy(behind: Gateway) -> None:
    answer = behind.chat(
        "m", _ENV["FREE"], x_forwarded_for="8.8.8.8", x_envoy_upstream_rq_timeout_ms="1", x_mock_delay="200ms"
    )
    assert answer.status_code == 200
    assert only_record(behind, answer.headers["x-request-id"])["status"] == 200
