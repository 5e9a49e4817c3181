"""What a provider sees of a request, and what a client sees of the provider."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.support.gateway import Gateway
from tests.support.mock import MockProvider, SeenRequest

_POLICY = """
providers:
  one: {{kind: openai, base_url: "{one}/v1", api_key: {{env: ONE}}, headers: {{x-first-only: "1"}}}}
  deep: {{kind: openai, base_url: "{two}/openai/v1", api_key: {{env: TWO}}}}
  bare: {{kind: openai, base_url: "{two}/v1"}}
models:
  same: one
  renamed: {{provider: one, model: "vendor/very-long-upstream-name"}}
  shorter-upstream: {{provider: one, model: z}}
  elsewhere: deep
  keyless: bare
  over:
    try:
      - {{provider: one, model: mock+status=503}}
      - {{provider: deep, model: b}}
  over-same:
    try: [{{provider: one, model: mock+status=500}}, {{provider: bare, model: "mock-free"}}]
keys:
  alice: {{secret: {{env: ALICE}}}}
"""
_ENV = {"ALICE": "sk-alice-0123456789abcdef", "ONE": "provider-one-secret", "TWO": "provider-two-secret"}


@pytest.fixture(scope="module")
def one() -> Iterator[MockProvider]:
    with MockProvider(name="one") as mock:
        yield mock


@pytest.fixture(scope="module")
def two() -> Iterator[MockProvider]:
    with MockProvider(name="two") as mock:
        yield mock


@pytest.fixture(scope="module")
def gateway(one: MockProvider, two: MockProvider) -> Iterator[Gateway]:
    policy = _POLICY.format(one=f"http://{one.address}", two=f"http://{two.address}")
    with Gateway(policy, env=_ENV, key=_ENV["ALICE"]) as running:
        yield running


@pytest.fixture(autouse=True)
def _forget(one: MockProvider, two: MockProvider) -> None:
    one.forget()
    two.forget()


def _post(gateway: Gateway, body: str | bytes, **headers: str) -> None:
    sent = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    content = body.encode() if isinstance(body, str) else body
    answer = gateway.http.post("/v1/chat/completions", content=content, headers=sent)
    assert "x-mock-name" in answer.headers, answer.text  # a provider answered, whatever it says


def _only(mock: MockProvider) -> SeenRequest:
    (seen,) = mock.requests()
    return seen


_MESSAGES = '"messages":[{"role":"user","content":"hi"}]'
_BODIES = {
    "order of keys": '{"z":1,"model":"NAME",' + _MESSAGES + ',"a":2}',
    "model last": "{" + _MESSAGES + ',"user":"u","model":"NAME"}',
    "white space": '\n {  "model"\t:\r\n  "NAME" , ' + _MESSAGES + '  ,\n\n  "seed" :  1  } \n',
    "numbers": '{"model":"NAME","seed":9007199254740993,"x":1e400,"y":1.10,"z":-0.0,"w":1E+2,' + _MESSAGES + "}",
    "escapes": '{"model":"NAME","user":"\\u00e9\\/\\ud83d\\ude00 \\"model\\":\\"b\\"",' + _MESSAGES + "}",
    "escapes before": '{"user":"\\\\","note":"\\"model\\": \\"x\\"","model":"NAME",' + _MESSAGES + "}",
    "nested": '{"metadata":{"model":"inner","deep":[{"model":"x"}]},"model":"NAME","tools":[],' + _MESSAGES + "}",
    "nested after": '{"model":"NAME","metadata":{"model":"inner"},' + _MESSAGES + "}",
    "as a value": '{"user":"model","model":"NAME",' + _MESSAGES + "}",
    "unicode": '{"model":"NAME","messages":[{"role":"user","content":"żółć 🦆 \u2028 ﷽"}]}',
    "two same others": '{"model":"NAME","user":"a","user":"b",' + _MESSAGES + "}",
}


@pytest.mark.parametrize(
    ("model", "upstream"),
    [("same", "same"), ("renamed", "vendor/very-long-upstream-name"), ("shorter-upstream", "z")],
)
@pytest.mark.parametrize("case", _BODIES)
def test_only_the_model_name_of_a_body_changes(
    gateway: Gateway, one: MockProvider, case: str, model: str, upstream: str
) -> None:
    _post(gateway, _BODIES[case].replace("NAME", model))
    seen = _only(one)
    expected = _BODIES[case].replace("NAME", upstream).encode()
    assert seen.body == expected
    assert seen.header("content-length") == str(len(expected))


def test_a_large_body_arrives_whole(gateway: Gateway, one: MockProvider) -> None:
    long = json.dumps({"messages": [{"role": "user", "content": '"model":{[' * 300_000}], "model": "renamed"})
    _post(gateway, long)
    assert _only(one).body == long.replace('"renamed"', '"vendor/very-long-upstream-name"').encode()


def test_a_body_sent_in_pieces_arrives_whole(gateway: Gateway, one: MockProvider) -> None:
    body = _BODIES["nested"].replace("NAME", "renamed").encode()
    pieces = (body[at : at + 7] for at in range(0, len(body), 7))
    headers = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
    assert gateway.http.post("/v1/chat/completions", content=pieces, headers=headers).status_code == 200
    assert _only(one).body == _BODIES["nested"].replace("NAME", "vendor/very-long-upstream-name").encode()


_PRIVATE = {
    "cookie": "session=1",
    "x_forwarded_for": "203.0.113.9",
    "x_forwarded_host": "intern",
    "x_real_ip": "203.0.113.9",
    "forwarded": "for=203.0.113.9",
    "openai_organization": "org-mine",
    "x_headgate_client": "bob;",
    "x_headgate_model": "keyless",
    "x_envoy_upstream_rq_timeout_ms": "1",
}


@pytest.mark.parametrize("model", ["same", "keyless", "over"])
def test_nothing_about_the_client_reaches_a_provider(
    gateway: Gateway, one: MockProvider, two: MockProvider, model: str
) -> None:
    _post(gateway, '{"model":"' + model + '",' + _MESSAGES + "}", **_PRIVATE, x_api_key=_ENV["ALICE"])
    seen = [*one.requests(), *two.requests()]
    assert seen
    for request in seen:
        names = {name.lower() for name, _ in request.headers}
        assert not names & {name.replace("_", "-") for name in _PRIVATE}
        assert not names & {"x-api-key", "x-forwarded-proto", "x-envoy-external-address"}
        assert not {name for name in names if name.startswith("x-headgate-")} - (
            {"x-envoy-original-path"} if model == "over" else set()
        )
        assert _ENV["ALICE"] not in str(request.headers)


def test_what_is_meant_for_the_provider_reaches_it(gateway: Gateway, one: MockProvider) -> None:
    _post(gateway, '{"model":"same",' + _MESSAGES + "}", user_agent="my-app/1", openai_beta="x=1")
    seen = _only(one)
    assert (seen.header("user-agent"), seen.header("openai-beta")) == ("my-app/1", "x=1")
    assert seen.header("x-first-only") == "1"
    assert seen.header("host") == one.address


def test_a_provider_gets_its_own_credential(gateway: Gateway, one: MockProvider, two: MockProvider) -> None:
    for model in ("same", "elsewhere"):
        gateway.chat(model)
    assert [value for name, value in _only(one).headers if name.lower() == "authorization"] == [f"Bearer {_ENV['ONE']}"]
    assert [value for name, value in _only(two).headers if name.lower() == "authorization"] == [f"Bearer {_ENV['TWO']}"]


def test_a_provider_without_a_credential_gets_none(gateway: Gateway, two: MockProvider) -> None:
    assert gateway.chat("keyless").status_code == 200
    assert _only(two).header("authorization") is None


@pytest.mark.parametrize("query", ["", "?api-version=1&x=%2F"])
def test_a_base_path_replaces_v1_and_keeps_the_query(gateway: Gateway, two: MockProvider, query: str) -> None:
    body = {"model": "elsewhere", "input": "x"}
    gateway.http.post(f"/v1/embeddings{query}", json=body, headers={"authorization": f"Bearer {gateway.key}"})
    assert _only(two).path == f"/openai/v1/embeddings{query}"


def test_failover_says_to_each_provider_what_it_expects(gateway: Gateway, one: MockProvider, two: MockProvider) -> None:
    body = '{ "user" : "é", "model" : "over" , ' + _MESSAGES + "}"
    headers = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
    gateway.http.post("/v1/chat/completions?a=b", content=body.encode(), headers=headers)
    first, second = _only(one), _only(two)
    for seen, path, model in (
        (first, "/v1/chat/completions?a=b", "mock+status=503"),
        (second, "/openai/v1/chat/completions?a=b", "b"),
    ):
        expected = body.replace('"over"', f'"{model}"').encode()
        assert seen.path == path
        assert seen.body == expected
        assert [value for name, value in seen.headers if name.lower() == "content-length"] == [str(len(expected))]
    assert (first.header("host"), second.header("host")) == (one.address, two.address)


def test_failover_takes_no_credential_or_header_to_the_next_provider(
    gateway: Gateway, one: MockProvider, two: MockProvider
) -> None:
    for model, expected in (("over", f"Bearer {_ENV['TWO']}"), ("over-same", None)):
        two.forget()
        gateway.chat(model)
        seen = _only(two)
        assert seen.header("authorization") == expected
        assert seen.header("x-first-only") is None
        assert _ENV["ONE"] not in str(seen.headers)
    assert {r.header("authorization") for r in one.requests()} == {f"Bearer {_ENV['ONE']}"}


def test_clients_do_not_see_the_providers_own_headers(gateway: Gateway, one: MockProvider) -> None:
    hidden = ("x-ratelimit-", "openai-org", "set-cookie", "x-envoy")
    direct = httpx.post(f"{one.base_url}/embeddings", json={"model": "same", "input": "x"})
    assert any(name.startswith(hidden) for name in direct.headers)
    answer = gateway.chat("same")
    assert answer.headers["x-mock-name"] == "one"
    assert answer.headers["server"] == "headgate"
    assert not [name for name in answer.headers if name.startswith(hidden)]
