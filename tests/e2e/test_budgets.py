"""Budgets and token limits through the edge: who is refused or served something cheaper, when, and until when."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider
from tests.support.usage import Row, ask, budgets, ctl, headers, only_record, records, usage

_MODELS = """
providers: {{p: {{kind: openai, base_url: "{base_url}"}}}}
models: {{dear: p, cheap: p, "m-*": p}}
prices:
  dear: {{input: 0, output: 0, request: 0.01}}
  cheap: {{input: 0, output: 0, request: 0.001}}
"""
_BUDGETS = """
budgets:
  requests: {{requests: {requests}, per: day, window: rolling}}
  tokens: {{tokens: 20, per: day, window: rolling}}
  money: {{usd: 0.02, per: month, warn: [0.5]}}
  team: {{requests: 3, per: week, window: rolling}}
  organization: {{tokens: 12, per: week, window: rolling}}
  warning: {{requests: 2, per: day, window: rolling, on_spent: warn}}
  cheaper: {{usd: 0.02, per: day, window: rolling, on_spent: {{downgrade: cheap}}}}
  large: {{requests: 1000000, per: day}}
limits:
  tokens: {{tokens: 40/s}}
  both: {{requests: 100/h, tokens: 40/s}}
organizations: {{acme: {{budget: organization}}}}
teams: {{red: {{budget: team}}, blue: {{organization: acme}}, green: {{organization: acme}}}}
keys:
  by-requests: {{secret: {{env: BY_REQUESTS}}, budget: requests}}
  growing: {{secret: {{env: GROWING}}, budget: requests}}
  client: {{secret: {{env: CLIENT}}, budget: requests}}
  by-tokens: {{secret: {{env: BY_TOKENS}}, budget: tokens}}
  by-money: {{secret: {{env: BY_MONEY}}, budget: [large, money]}}
  by-month: {{secret: {{env: BY_MONTH}}, budget: money}}
  red-1: {{secret: {{env: RED_1}}, team: red}}
  red-2: {{secret: {{env: RED_2}}, team: red}}
  blue-1: {{secret: {{env: BLUE_1}}, team: blue}}
  green-1: {{secret: {{env: GREEN_1}}, team: green}}
  warned: {{secret: {{env: WARNED}}, budget: warning}}
  thrifty: {{secret: {{env: THRIFTY}}, budget: cheaper}}
  shown: {{secret: {{env: SHOWN}}, budget: cheaper}}
  limited: {{secret: {{env: LIMITED}}, limits: [tokens]}}
  twice: {{secret: {{env: TWICE}}, limits: [both]}}
  other: {{secret: {{env: OTHER}}}}
"""
_NAMES = (
    "by-requests", "by-tokens", "by-money", "red-1", "red-2", "blue-1", "green-1", "warned", "thrifty", "limited",
    "twice", "growing", "client", "by-month", "shown", "other",
)  # fmt: skip
_KEYS = {name: f"sk-{name}-0123456789abcdef" for name in _NAMES}
_ENV = {name.upper().replace("-", "_"): secret for name, secret in _KEYS.items()}
_CLIENTS = 8


@pytest.fixture(scope="module")
def provider() -> Iterator[MockProvider]:
    with MockProvider() as mock:
        yield mock


def _policy(provider: MockProvider, requests: int = 3) -> str:
    return _MODELS.format(base_url=provider.base_url) + _BUDGETS.format(requests=requests)


@pytest.fixture(scope="module")
def gateway(provider: MockProvider) -> Iterator[Gateway]:
    with Gateway(_policy(provider), env=_ENV, key=_KEYS["other"]) as running:
        yield running


def _status(gateway: Gateway, key: str, model: str = "m-a") -> int:
    return ask(gateway, model, key=_KEYS[key]).status_code


def _refusal(look: Callable[[], httpx.Response]) -> httpx.Response:
    """Asks until it is refused; that answer."""
    last: list[httpx.Response] = []

    def refused() -> bool:
        last[:] = [look()]
        assert last[0].status_code in (200, 429), last[0].text
        return last[0].status_code == 429

    eventually(refused, "it is refused")
    return last[0]


def _refused(gateway: Gateway, key: str, model: str = "m-a") -> httpx.Response:
    """The answer to a key of which everything is spent."""
    return _refusal(lambda: ask(gateway, model, key=_KEYS[key]))


def _is_spent(answer: httpx.Response, budget: str, within: timedelta) -> None:
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("insufficient_quota", "insufficient_quota", None)
    assert f"`{budget}`" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert 0 < int(answer.headers["retry-after"]) <= within.total_seconds()
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("key", "budget", "model", "mock", "fits"),
    [
        ("by-requests", "requests", "m-a", {}, 3),
        ("by-tokens", "tokens", "m-a", {"usage": "6,4"}, 2),
        ("by-money", "money", "dear", {}, 2),
    ],
)
def test_a_key_whose_budget_is_spent_is_refused(
    gateway: Gateway, key: str, budget: str, model: str, mock: dict[str, Any], fits: int
) -> None:
    assert [ask(gateway, model, key=_KEYS[key], **mock).status_code for _ in range(fits)] == [200] * fits
    answer = _refused(gateway, key, model)
    _is_spent(answer, budget, timedelta(days=31 if budget == "money" else 1, hours=1))
    assert _status(gateway, "other") == 200
    row = budgets(gateway)[budget, key]
    assert row["spent_until"] is not None
    assert Decimal(row["used"]) >= Decimal(row["amount"])


def test_the_budget_of_a_month_is_available_again_with_the_next(gateway: Gateway) -> None:
    begun = datetime.now(UTC)
    answer = _refused(gateway, "by-month", "dear")
    until = datetime.fromisoformat(budgets(gateway)["money", "by-month"]["until"])
    ended = datetime.now(UTC)
    assert until in (_next_month(begun), _next_month(ended))
    wait = timedelta(seconds=int(answer.headers["retry-after"]))
    assert begun - timedelta(seconds=1) <= until - wait <= ended + timedelta(seconds=1)


def _next_month(now: datetime) -> datetime:
    return (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def test_a_team_shares_its_budget(gateway: Gateway) -> None:
    assert [_status(gateway, key) for key in ("red-1", "red-2", "red-1")] == [200] * 3
    for key in ("red-1", "red-2"):
        _is_spent(_refused(gateway, key), "team", timedelta(days=7, hours=3))
    assert _status(gateway, "other") == 200


def test_an_organization_shares_its_budget(gateway: Gateway) -> None:
    for key in ("blue-1", "green-1"):
        assert ask(gateway, "m-a", key=_KEYS[key], usage="3,3").status_code == 200
    for key in ("blue-1", "green-1"):
        _is_spent(_refused(gateway, key), "organization", timedelta(days=7, hours=3))


def test_a_warning_is_only_that(gateway: Gateway) -> None:
    for _ in range(3):
        assert _status(gateway, "warned") == 200
    eventually(lambda: budgets(gateway)["warning", "warned"]["spent_until"], "it is spent")
    seen = {_status(gateway, "warned") for _ in range(5)}
    assert seen == {200}


def test_a_cheaper_model_is_served_at_its_own_price(gateway: Gateway) -> None:
    def served() -> str:
        answers.append(ask(gateway, "dear", key=_KEYS["thrifty"]))
        assert answers[-1].status_code == 200, answers[-1].text
        model: str = answers[-1].json()["model"]
        return model

    answers: list[httpx.Response] = []
    assert [served(), served()] == ["dear"] * 2
    eventually(lambda: served() == "cheap", "it is downgraded")
    record = only_record(gateway, answers[-1].headers["x-request-id"])
    assert (record["model"], record["served_model"], record["cost"]) == ("dear", "cheap", "0.001")
    assert ask(gateway, "m-a", key=_KEYS["thrifty"]).json()["model"] == "cheap"
    assert ask(gateway, "dear").json()["model"] == "dear"


def test_openais_client_neither_retries_nor_mistakes_it(gateway: Gateway) -> None:
    _refused(gateway, "client")
    sent: list[Any] = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with (
        openai.OpenAI(base_url=gateway.base_url, api_key=_KEYS["client"], max_retries=3, http_client=http) as client,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        client.chat.completions.create(model="m-a", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "insufficient_quota"
    assert len(sent) == 1


def test_more_budget_lets_requests_pass_and_keeps_the_count(gateway: Gateway, provider: MockProvider) -> None:
    def used() -> int:
        count: int = budgets(gateway)["requests", "growing"]["used"]
        return count

    def served() -> int:
        return sum(row["requests"] for row in provider.stats()["by"] if row["model"] == "m-growing")

    _refused(gateway, "growing", "m-growing")
    before = served()
    eventually(lambda: used() == before, "all are counted")
    gateway.apply_edit(_policy(provider, before + 2))
    try:
        eventually(lambda: _status(gateway, "growing", "m-growing") == 200, "it passes again")
        eventually(lambda: used() == before + 1, "the count goes on")
        assert budgets(gateway)["requests", "growing"]["amount"] == before + 2
        assert _status(gateway, "growing", "m-growing") == 200
        _refused(gateway, "growing", "m-growing")
    finally:
        gateway.apply_edit(_policy(provider))


def test_budgets_are_shown_by_the_command_line(gateway: Gateway) -> None:
    for _ in range(2):
        ask(gateway, "dear", key=_KEYS["shown"])
    eventually(lambda: budgets(gateway)["cheaper", "shown"]["spent_until"], "it is spent")
    done = ctl(gateway, "budgets")
    assert done.returncode == 0, done.stderr
    for name in ("requests", "team red", "organization acme", "key shown", "downgrade:cheap"):
        assert name in done.stdout, done.stdout
    rows = json.loads(ctl(gateway, "budgets", "--format", "json").stdout)["rows"]
    assert {(row["budget"], row["owner"]) for row in rows} == set(budgets(gateway))


def _limited(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) >= 1
    assert "x-should-retry" not in answer.headers


def _spend(gateway: Gateway, key: str) -> httpx.Response:
    """Takes more tokens than a second has until it is refused: a second may be over before anybody counted."""
    return _refusal(partial(ask, gateway, "m-a", key=_KEYS[key], usage="30,30"))


def test_a_token_limit_refuses_until_its_window_has_moved_on(gateway: Gateway) -> None:
    answer = _spend(gateway, "limited")
    _limited(answer)
    assert int(answer.headers["retry-after"]) <= 2
    assert _status(gateway, "other") == 200
    eventually(lambda: _status(gateway, "limited") == 200, "the window has moved on")


def test_a_limit_of_tokens_and_requests_is_both(gateway: Gateway) -> None:
    def again() -> httpx.Response:
        return ask(gateway, "m-a", key=_KEYS["twice"], usage="0,0")

    answer = _spend(gateway, "twice")
    _limited(answer)
    assert "the tokens of `both`" in answer.json()["error"]["message"]
    eventually(lambda: again().status_code == 200, "the window has moved on")
    answer = _refusal(again)
    _limited(answer)
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    eventually(lambda: len(records(gateway, key="twice")) == 100, "a refusal for tokens took nothing of the requests")


_EVERYONE = """
budgets: {everyone: {requests: 3, per: day, window: rolling}}
keys: {a: {secret: {env: A}}, b: {secret: {env: B}}}
"""
_BOTH = {"A": "sk-a-0123456789abcdef", "B": "sk-b-0123456789abcdef"}


def _everyone(provider: MockProvider) -> Gateway:
    policy = _MODELS.format(base_url=provider.base_url) + _EVERYONE
    return Gateway(policy, settings="budget: everyone", env=_BOTH, key=_BOTH["A"])


def _kill_everything(gateway: Gateway) -> None:
    left = gateway.processes()
    gateway.kill()
    for pid in left.values():
        os.kill(pid, signal.SIGKILL)


def test_what_is_spent_stays_spent_when_everything_is_killed(provider: MockProvider) -> None:
    with _everyone(provider) as gateway:
        assert [ask(gateway, "m-a", key=key).status_code for key in (*_BOTH.values(), _BOTH["A"])] == [200] * 3
        for key in _BOTH.values():
            _refusal(partial(ask, gateway, "m-a", key=key))
        used = budgets(gateway)["everyone", ""]["used"]
        _kill_everything(gateway)
        gateway.start()
        seen = [ask(gateway, "m-a", key=key).status_code for key in _BOTH.values()]
        started = datetime.now(UTC).isoformat()
        eventually(lambda: budgets(gateway)["everyone", ""]["until"] > started, "the new collector tells")
        seen += [ask(gateway, "m-a", key=key).status_code for key in _BOTH.values()]
        assert seen == [429] * 4
        assert budgets(gateway)["everyone", ""]["used"] >= used

        _kill_everything(gateway)  # and without what the collector told and learned: the ledger knows
        for name in ("standing.json", "memory.json"):
            (gateway.folder / "state/usage" / name).unlink(missing_ok=True)
        gateway.start()
        _is_spent(_refusal(lambda: ask(gateway, "m-a", key=_BOTH["B"])), "everyone", timedelta(days=1, hours=1))


_EACH = """
budgets: {each: {requests: 40, per: day, window: rolling}}
keys:
  first: {secret: {env: FIRST}, budget: each}
  second: {secret: {env: SECOND}, budget: each}
  third: {secret: {env: THIRD}, budget: each}
"""
_TRIALS = {name: f"sk-{name}-0123456789abcdef" for name in ("first", "second", "third")}


def test_overshoot_is_bounded(provider: MockProvider) -> None:
    """At most what is in flight, and what passes in one second. Whoever else works on the machine may delay one."""
    policy = _MODELS.format(base_url=provider.base_url) + _EACH
    env = {name.upper(): secret for name, secret in _TRIALS.items()}
    seen = []
    with Gateway(policy, env=env, key=_TRIALS["first"]) as gateway:
        eventually(lambda: len(budgets(gateway)) == len(_TRIALS), "the collector runs")
        for key in _TRIALS:
            served, took = _overshot(gateway, key)
            seen.append((served, took))
            if served - 40 <= _CLIENTS + served / took:
                return
    raise AssertionError(f"requests served, and seconds until all were refused: {seen}")


def _overshot(gateway: Gateway, key: str) -> tuple[int, float]:
    """How many requests of a key were served, and how long it took until all its clients were refused."""
    began = time.monotonic()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        counts = [pool.submit(_until_refused, gateway, _TRIALS[key]) for _ in range(_CLIENTS)]
        served = sum(each.result() for each in counts)
    took = time.monotonic() - began
    assert served >= 40
    eventually(lambda: budgets(gateway)["each", key]["used"] == served, "all are counted")
    assert sum(row["requests"] for row in usage(gateway, key=key)) == served
    return served, took


def _until_refused(gateway: Gateway, key: str) -> int:
    """Asks one request after the other; how many were served."""
    with httpx.Client(base_url=gateway.url, timeout=60) as http:
        body: Row = {"model": "m-a", "messages": [{"role": "user", "content": "hi"}]}
        for served in range(10_000):
            answer = http.post("/v1/chat/completions", json=body, headers=headers(gateway, key, delay="50ms"))
            if answer.status_code == 429:
                return served
            assert answer.status_code == 200, answer.text
    raise AssertionError("never refused")
