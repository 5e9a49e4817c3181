"""Tokens of an outside issuer as keys, from a real issuer over TLS through the real gateway, with OpenAI's client."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.issuer import OutsideIssuer
from tests.support.mock import MockProvider
from tests.support.usage import ask, budgets, ctl, only_record, records, wait_records

_POLICY = """
providers:
  p: {{kind: openai, base_url: "{base_url}"}}
models:
  m: p
  other: p
  gpt-4o: p
  "llama-*": p
organizations:
  acme: {{}}
teams:
  search: {{organization: acme}}
  ads: {{}}
  poor: {{budget: few}}
limits:
  standard: {{requests: 1000/m}}
  tight: {{requests: 2/h}}
  counted: {{tokens: 1M/m}}
budgets:
  few: {{requests: 2, per: month}}
  own: {{requests: 3, per: month}}
keys:
  alice: {{secret: {{env: ALICE}}}}
issuers:
  corp:
    issuer: {issuer}
    audience: headgate
    jwks: {{url: "{jwks_uri}", ca: {{file: ca.pem}}, refresh: 1s}}
    claims: {{key: profile.name, team: groups, limits: tier, models: models}}
    teams: {{eng: search, "Ads & Co": ads, poor: poor}}
    limits: [standard, counted]
    models: [m, "llama-*"]
  kept:
    issuer: https://kept.example
    audience: [headgate, other]
    jwks: {{file: kept.json}}
    budget: own
"""
_ENV = {"ALICE": "sk-alice-0123456789abcdef"}


@pytest.fixture(scope="module")
def provider() -> Iterator[MockProvider]:
    with MockProvider() as mock:
        yield mock


@pytest.fixture(scope="module")
def issuer() -> Iterator[OutsideIssuer]:
    with OutsideIssuer() as running:
        yield running


@pytest.fixture(scope="module")
def kept() -> OutsideIssuer:
    """An issuer that publishes nothing: its keys are kept in a file."""
    return OutsideIssuer()


@pytest.fixture(scope="module")
def gateway(provider: MockProvider, issuer: OutsideIssuer, kept: OutsideIssuer) -> Iterator[Gateway]:
    policy = _policy(provider, issuer)
    files = {"ca.pem": issuer.ca, "kept.json": json.dumps(kept.jwks())}
    with Gateway(policy, env=_ENV, files=files, key=_ENV["ALICE"]) as running:
        eventually(lambda: ask(running, "m", key=_bob(issuer)).status_code == 200, "the issuer's keys are there")
        yield running


def _policy(provider: MockProvider, issuer: OutsideIssuer) -> str:
    found = httpx.get(f"{issuer.url}/.well-known/openid-configuration", verify=issuer.context()).json()
    return _POLICY.format(base_url=provider.base_url, issuer=found["issuer"], jwks_uri=found["jwks_uri"])


def _bob(issuer: OutsideIssuer, **claims: Any) -> str:
    said = {"profile": {"name": "bob"}, "groups": ["staff", "eng"], **claims}
    return issuer.token(**said)


def _kept(kept: OutsideIssuer, name: str) -> str:
    return kept.token(iss="https://kept.example", sub=name)


def _is_refused(answer: httpx.Response, words: str = "") -> bool:
    if answer.status_code != 401:
        return False
    error = answer.json()["error"]
    assert answer.headers["x-request-id"]
    assert words in error["message"], error
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    return True


def _record(gateway: Gateway, token: str) -> dict[str, Any]:
    answer = ask(gateway, "m", key=token)
    assert answer.status_code == 200, answer.text
    return only_record(gateway, answer.headers["x-request-id"])


def test_openais_client_uses_a_token_as_its_key(gateway: Gateway, issuer: OutsideIssuer) -> None:
    message: Any = [{"role": "user", "content": "hi"}]
    with gateway.client(_bob(issuer)) as client:
        assert client.chat.completions.create(model="m", messages=message).choices
        assert [model.id for model in client.models.list()] == ["m"]
        with pytest.raises(openai.PermissionDeniedError, match="may not use the model 'other'"):
            client.chat.completions.create(model="other", messages=message)
    with gateway.client(_bob(issuer, aud="elsewhere")) as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_usage_bears_the_claims(gateway: Gateway, issuer: OutsideIssuer) -> None:
    record = _record(gateway, _bob(issuer))
    assert (record["key"], record["team"], record["organization"]) == ("corp:bob", "search", "acme")
    record = _record(gateway, _bob(issuer, profile={"name": "eve@x"}, groups="Ads & Co"))
    assert (record["key"], record["team"], record["organization"]) == ("corp:eve@x", "ads", "")
    own = gateway.http.get("/v1/usage", headers={"authorization": f"Bearer {_bob(issuer, profile={'name': 'eve@x'})}"})
    assert [(row["model"], row["requests"]) for row in own.json()["rows"]] == [("m", 1)]


def test_static_and_issued_keys_go_on_beside(gateway: Gateway, issuer: OutsideIssuer) -> None:
    issued = json.loads(ctl(gateway, "keys", "issue", "dora", "--format", "json").stdout)["secret"]
    for _ in range(2):
        assert ask(gateway, "other", key=_ENV["ALICE"]).status_code == 200
        assert ask(gateway, "other", key=issued).status_code == 200
        assert ask(gateway, "m", key=_bob(issuer)).status_code == 200
    assert ctl(gateway, "keys", "revoke", "dora").returncode == 0
    assert _is_refused(ask(gateway, "m", key=issued), "was revoked")
    assert ask(gateway, "m", key=_bob(issuer)).status_code == 200


def test_the_provider_sees_nothing_of_it(gateway: Gateway, issuer: OutsideIssuer, provider: MockProvider) -> None:
    provider.forget()
    token = _bob(issuer)
    assert ask(gateway, "m", key=token).status_code == 200
    (seen,) = provider.requests()
    assert not any(name.lower().startswith("x-headgate") or token in value for name, value in seen.headers)


def test_a_client_cannot_say_what_only_a_token_may(gateway: Gateway, issuer: OutsideIssuer) -> None:
    body = {"model": "other", "messages": [{"role": "user", "content": "hi"}]}
    forged = {
        "x-headgate-client": "alice", "x-headgate-grant": ";other;", "x-headgate-issuer": issuer.url
    }  # fmt: skip
    for sent in (forged, {**forged, "authorization": "Bearer nothing"}):
        assert _is_refused(gateway.http.post("/v1/chat/completions", json=body, headers=sent))
    sent = {**forged, "authorization": f"Bearer {_bob(issuer)}"}
    assert gateway.http.post("/v1/chat/completions", json=body, headers=sent).status_code == 403


def test_models_of_a_claim_take_the_place_of_the_issuers(gateway: Gateway, issuer: OutsideIssuer) -> None:
    token = _bob(issuer, models=["other", "llama-*"])
    assert [ask(gateway, m, key=token).status_code for m in ("other", "llama-3", "m", "gpt-4o")] == [200, 200, 403, 403]
    everything = _bob(issuer, models="*")
    assert [ask(gateway, m, key=everything).status_code for m in ("m", "gpt-4o", "llama-3", "x")] == [
        200,
        200,
        200,
        404,
    ]
    own = _bob(issuer)
    assert [ask(gateway, m, key=own).status_code for m in ("m", "llama-3", "gpt-4o")] == [200, 200, 403]
    with gateway.client(_bob(issuer, models=["gpt-4o"])) as client:
        assert [model.id for model in client.models.list()] == ["gpt-4o"]
    for bad in (["gpt-*"], [1], {"a": "b"}, ["a;b"], True, [""]):
        assert _is_refused(ask(gateway, "m", key=_bob(issuer, models=bad)), "`models` must name models"), bad


def test_limits_of_a_claim_take_the_place_of_the_issuers(gateway: Gateway, issuer: OutsideIssuer) -> None:
    tight = {"profile": {"name": "hasty"}, "tier": ["tight"]}
    found = [ask(gateway, "m", key=_bob(issuer, **tight)).status_code for _ in range(3)]
    assert found == [200, 200, 429]
    other = ask(gateway, "m", key=_bob(issuer, profile={"name": "other"}, tier="tight"))
    assert (other.status_code, other.headers["x-ratelimit-limit-requests"][:1]) == (200, "2")
    assert ask(gateway, "m", key=_bob(issuer)).headers["x-ratelimit-limit-requests"].startswith("1000")
    for bad in ("none", "counted", ["standard", "none"], 5, {"a": 1}):
        assert _is_refused(ask(gateway, "m", key=_bob(issuer, tier=bad)), "`tier` must name limits"), bad


def test_a_token_without_what_is_needed_says_so(gateway: Gateway, issuer: OutsideIssuer) -> None:
    for name in (None, "", "a;tight;", "a/b", "a b", "a,b", "a\nb", "é", "a" * 129, 17, ["bob"], {"x": "y"}):
        bad = _bob(issuer, profile={"name": name})
        assert _is_refused(ask(gateway, "m", key=bad), "`profile.name` must be a text"), name
    assert _is_refused(ask(gateway, "m", key=_bob(issuer, profile=None)), "The token of `corp` is not accepted")
    for groups in (None, [], ["staff"], "", 1, {"eng": "eng"}, [["eng"]]):
        bad = _bob(issuer, groups=groups)
        assert _is_refused(ask(gateway, "m", key=bad), "`groups` names no team that this gateway knows"), groups


def _forgeries(issuer: OutsideIssuer) -> Iterator[tuple[str, str]]:
    good = _bob(issuer)
    said = issuer.claims(profile={"name": "bob"}, groups=["eng"])
    claims, signature = good.split(".")[1:]
    stranger = OutsideIssuer()
    yield "expired", _bob(issuer, exp=int(time.time()) - 120)
    yield "without an end", _bob(issuer, exp=None)
    yield "of tomorrow", _bob(issuer, nbf=int(time.time()) + 3600)
    yield "another audience", _bob(issuer, aud="elsewhere")
    yield "no audience", _bob(issuer, aud=None)
    yield "another issuer", _bob(issuer, iss="https://nobody.example")
    yield "the other issuer's name", _bob(issuer, iss="https://kept.example")
    yield "our own name", _bob(issuer, iss="headgate", hg="alice", jti="1")
    yield "an unknown kid", _bob(issuer, kid="unknown")
    yield "another's key under its kid", stranger.token(kid=issuer.kid, **said)
    yield "no signature", f"{_b64({'alg': 'none'})}.{claims}."
    yield "no algorithm", f"{_b64({'alg': 'none', 'kid': issuer.kid})}.{claims}.{signature}"
    for secret in (issuer.public_pem(), json.dumps(issuer.jwks()).encode()):
        signed = f"{_b64({'alg': 'HS256', 'typ': 'JWT', 'kid': issuer.kid})}.{claims}"
        mac = hmac.digest(secret, signed.encode(), hashlib.sha256)
        yield "the public key as a secret", f"{signed}.{_b64(mac)}"
    yield "other claims", f"{good.split('.')[0]}.{_b64({**said, 'profile': {'name': 'root'}})}.{signature}"
    yield "half of it", good[: len(good) // 2]
    yield "no token at all", "eyJ"
    yield "as an issued key", f"hg-{good}"


def _b64(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_a_bad_token_is_refused(gateway: Gateway, issuer: OutsideIssuer) -> None:
    assert ask(gateway, "m", key=_bob(issuer)).status_code == 200
    for what, token in _forgeries(issuer):
        assert _is_refused(ask(gateway, "m", key=token)), what
        assert _is_refused(gateway.http.get("/v1/models", headers={"authorization": f"Bearer {token}"})), what
    assert _is_refused(ask(gateway, "m", key=_bob(issuer, exp=int(time.time()) - 120)), "expired")


def test_a_teams_budget_ends_the_requests_of_its_clients(gateway: Gateway, issuer: OutsideIssuer) -> None:
    poor = {"groups": ["poor"]}
    for name in ("one", "two"):
        assert ask(gateway, "m", key=_bob(issuer, profile={"name": name}, **poor)).status_code == 200
    late = _bob(issuer, profile={"name": "three"}, **poor)
    eventually(lambda: ask(gateway, "m", key=late).status_code == 429, "the team's budget is spent")
    assert ask(gateway, "m", key=late).json()["error"]["code"] == "insufficient_quota"
    assert ask(gateway, "m", key=_bob(issuer)).status_code == 200


def test_each_client_has_a_budget_of_its_own_also_after_a_restart(gateway: Gateway, kept: OutsideIssuer) -> None:
    ann, ben = _kept(kept, "ann"), _kept(kept, "ben")
    for _ in range(3):
        assert ask(gateway, "gpt-4o", key=ann).status_code == 200
    eventually(lambda: ask(gateway, "m", key=ann).status_code == 429, "ann's budget is spent")
    assert ask(gateway, "m", key=ben).status_code == 200
    eventually(lambda: budgets(gateway).get(("own", "kept:ben"), {}).get("used") == 1, "ben's is counted")
    # Those that passed before it was refused are counted, too, as they come in.
    assert len(wait_records(gateway, 3, key="kept:ann")) >= 3
    eventually(
        lambda: budgets(gateway)["own", "kept:ann"]["used"] == len(records(gateway, key="kept:ann")), "all are counted"
    )
    gateway.stop()
    gateway.start()
    assert ask(gateway, "m", key=ann).json()["error"]["code"] == "insufficient_quota"
    assert ask(gateway, "m", key=ben).status_code == 200
    eventually(lambda: budgets(gateway).get(("own", "kept:ben"), {}).get("used") == 2, "ben's is counted on")


def test_a_kept_key_set_is_read_again_when_it_changes(gateway: Gateway, kept: OutsideIssuer) -> None:
    before = _kept(kept, "cleo")
    assert ask(gateway, "m", key=before).status_code == 200
    kept.rotate()
    assert _is_refused(ask(gateway, "m", key=_kept(kept, "cleo")))
    gateway.write("kept.json", json.dumps(kept.jwks()))
    eventually(lambda: ask(gateway, "m", key=_kept(kept, "cleo")).status_code == 200, "the new key counts")
    assert _is_refused(ask(gateway, "m", key=before))


def test_keys_rotate_at_the_issuer(gateway: Gateway, issuer: OutsideIssuer) -> None:
    before = _bob(issuer)
    issuer.rotate(keep=True)
    eventually(lambda: ask(gateway, "m", key=_bob(issuer)).status_code == 200, "the new key is fetched")
    assert ask(gateway, "m", key=before).status_code == 200
    issuer.rotate()
    eventually(lambda: _is_refused(ask(gateway, "m", key=before)), "the old keys are gone")
    assert ask(gateway, "m", key=_bob(issuer)).status_code == 200


def test_an_issuer_that_is_away_takes_nothing_down(
    gateway: Gateway, issuer: OutsideIssuer, provider: MockProvider
) -> None:
    away = OutsideIssuer()
    away.start()
    away.stop()
    policy = _POLICY.format(base_url=provider.base_url, issuer=issuer.url, jwks_uri=f"{away.url}/keys")
    gateway.write("ca.pem", away.ca)
    gateway.apply_edit(policy)
    assert ask(gateway, "m", key=_ENV["ALICE"]).status_code == 200
    stranger = away.token(iss=issuer.url, profile={"name": "x"}, groups="eng")
    assert _is_refused(ask(gateway, "m", key=stranger))
    assert gateway.http.get("/health").status_code == 200
    away.start()
    try:
        eventually(lambda: ask(gateway, "m", key=stranger).status_code == 200, "its keys are fetched once it is back")
    finally:
        away.stop()
        gateway.write("ca.pem", issuer.ca)
        gateway.apply_edit(_policy(provider, issuer))
        eventually(lambda: ask(gateway, "m", key=_bob(issuer)).status_code == 200, "the other one counts again")
