"""Limits through the edge, wherever they are named: what counts together, and what a refusal says."""

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.support.gateway import Gateway
from tests.support.mock import MockProvider
from tests.support.redis import RedisServer, shared_redis
from tests.support.usage import ask

__all__ = ["shared_redis"]

_POLICY = """
providers:
  p: {{kind: openai, base_url: "{base_url}"}}
  q: {{kind: openai, base_url: "{base_url}", limits: [provider]}}
models:
  plain: p
  hot: {{provider: p, limits: [model]}}
  alias: hot
  "wild-*": {{provider: p, limits: [model]}}
  one: q
  two: {{try: [p, q]}}
  watched: {{provider: p, limits: [of-keys]}}
  crowded: {{provider: p, limits: [together]}}
  crowded-too: {{provider: p, limits: [together]}}
limits:
  key: {{requests: 3/d{more}}}
  team: {{requests: 3/d{more}}}
  organization: {{requests: 3/d{more}}}
  model: {{requests: 3/d{more}}}
  provider: {{requests: 3/d{more}}}
  of-keys: {{requests: 3/d, per: key{more}}}
  of-models: {{requests: 3/d, per: model{more}}}
  of-addresses: {{requests: 3/d, per: address{more}}}
  of-teams: {{requests: 3/d, per: team{more}}}
  together: {{requests: 3/d, per: gateway{more}}}
  spread: {{requests: 60/h, burst: 2{more}}}
organizations: {{acme: {{limits: [organization]}}, solo: {{}}}}
teams:
  red: {{limits: [team]}}
  blue: {{organization: acme}}
  green: {{organization: acme}}
  single: {{limits: [of-keys]}}
  violet: {{}}
keys:
{keys}
"""
_KEYS = {
    "limited": "limits: [key]",
    "limited-2": "limits: [key]",
    "red-1": "team: red",
    "red-2": "team: red",
    "blue-1": "team: blue",
    "green-1": "team: green",
    "single-1": "team: single",
    "single-2": "team: single",
    "by-model": "limits: [of-models]",
    "here-1": "limits: [of-addresses]",
    "here-2": "limits: [of-addresses]",
    "team-1": "team: violet, limits: [of-teams]",
    "team-2": "team: violet, limits: [of-teams]",
    "teamless": "limits: [of-teams]",
    "burst": "limits: [spread]",
    "free": "expires: 2100-01-01",
    "free-2": "expires: 2100-01-01",
}
_SECRETS = {name: f"sk-{name}-0123456789abcdef" for name in _KEYS}


def _policy(provider: MockProvider, more: str) -> str:
    keys = "\n".join(f"  {name}: {{secret: {{env: {_env(name)}}}, {of}}}" for name, of in _KEYS.items())
    return _POLICY.format(base_url=provider.base_url, keys=keys, more=more)


def _env(name: str) -> str:
    return name.upper().replace("-", "_")


@pytest.fixture(scope="module", params=["node", "fleet"])
def gateway(request: pytest.FixtureRequest, shared_redis: RedisServer) -> Iterator[Gateway]:
    """One policy, counted by Envoy and counted in Redis: clients cannot tell which."""
    env = {_env(name): secret for name, secret in _SECRETS.items()} | {"REDIS_URL": shared_redis.url}
    fleet = request.param == "fleet"
    with shared_redis.client() as redis:
        redis.flushall()
    with ExitStack() as stack:
        provider = stack.enter_context(MockProvider())
        policy = _policy(provider, ", scope: fleet" if fleet else "")
        settings = "redis: {env: REDIS_URL}" if fleet else ""
        yield stack.enter_context(Gateway(policy, settings=settings, env=env, key=_SECRETS["free"]))


def _ask(gateway: Gateway, model: str, key: str = "free") -> httpx.Response:
    return ask(gateway, model, key=_SECRETS[key])


def _limited(answer: httpx.Response, amount: int = 3) -> None:
    assert answer.status_code == 429, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) > 1
    assert answer.headers["x-ratelimit-limit-requests"] == str(amount)
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(answer.headers["x-ratelimit-reset-requests"]) >= 1
    assert "x-ratelimit-limit" not in answer.headers
    assert "x-should-retry" not in answer.headers


@pytest.mark.parametrize(
    ("together", "apart"),
    [
        pytest.param([("plain", "limited")], ("plain", "limited-2"), id="each key has its own"),
        pytest.param([("plain", "red-1"), ("plain", "red-2")], ("plain", "free"), id="a team shares"),
        pytest.param([("plain", "blue-1"), ("plain", "green-1")], ("plain", "free"), id="an organization shares"),
        pytest.param([("wild-a", "free"), ("wild-a", "free-2")], ("wild-b", "free"), id="a pattern's models"),
        pytest.param([("one", "free"), ("two", "free-2")], ("plain", "free"), id="a provider's models"),
        pytest.param([("watched", "free")], ("watched", "free-2"), id="each key at a model"),
        pytest.param([("crowded", "free"), ("crowded-too", "free-2")], ("plain", "free"), id="models together"),
        pytest.param([("plain", "single-1")], ("plain", "single-2"), id="each key of a team"),
        pytest.param([("wild-c", "by-model")], ("wild-d", "by-model"), id="each model of a key, by its name"),
        pytest.param([("plain", "here-1"), ("plain", "here-2")], ("plain", "free"), id="an address"),
        pytest.param([("plain", "team-1"), ("plain", "team-2")], ("plain", "teamless"), id="teams of keys"),
    ],
)
def test_what_counts_together(gateway: Gateway, together: list[tuple[str, str]], apart: tuple[str, str]) -> None:
    statuses = [_ask(gateway, *together[turn % len(together)]).status_code for turn in range(3)]
    assert statuses == [200] * 3
    for each in together:
        _limited(_ask(gateway, *each))
    assert _ask(gateway, *apart).status_code == 200


def test_an_alias_counts_as_its_model(gateway: Gateway) -> None:
    before = int(_ask(gateway, "hot").headers["x-ratelimit-remaining-requests"])
    assert int(_ask(gateway, "alias").headers["x-ratelimit-remaining-requests"]) == before - 1


def test_a_burst_is_less_than_the_rate(gateway: Gateway) -> None:
    assert [_ask(gateway, "plain", "burst").status_code for _ in range(2)] == [200] * 2
    _limited(_ask(gateway, "plain", "burst"), 2)


@pytest.mark.parametrize("per", ["gateway", "address", "key"])
def test_the_open_gateway_counts_everyone_together(per: str) -> None:
    policy = f"providers: {{p: {{kind: mock}}}}\nmodels: {{m: p}}\nlimits: {{all: {{requests: 3/d, per: {per}}}}}"
    with Gateway(policy, settings="limits: [all]") as gateway:
        for path in ("/health", "/v1/models", "/v1/nothing"):
            assert [gateway.http.get(path).status_code for _ in range(4)].count(429) == 0
        assert [ask(gateway, "m").status_code for _ in range(3)] == [200] * 3
        _limited(ask(gateway, "m"))
        assert gateway.http.get("/health").status_code == 200


def test_unlimited_requests_say_nothing_of_limits(gateway: Gateway) -> None:
    answer = _ask(gateway, "plain")
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
