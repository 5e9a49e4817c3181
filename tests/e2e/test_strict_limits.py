"""Strict limits and budgets through the edge: never over, and never refused while there is room."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from decimal import Decimal

import httpx
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider
from tests.support.redis import RedisServer, redis_server, shared_redis
from tests.support.usage import abandon, alarms, ctl, records

__all__ = ["shared_redis"]

_CLIENTS = 64
_CAP = 40
_USED = 15  # tokens of each answer
_CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": _CAP}
_BODY = json.dumps({"model": "m", **_CHAT}, separators=(",", ":")).encode()
_RESERVED = -(-len(_BODY) // 3) + _CAP
_AMOUNT = 3000
_KEY = {"ALICE": "sk-alice-0123456789abcdef"}
_POLICY = """
providers: {{p: {{kind: openai, base_url: "{base_url}"}}}}
models: {{m: p}}
prices: {{m: {{input: 1, output: 2}}}}
keys: {{alice: {{secret: {{env: ALICE}}, {key}}}}}
{rules}
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[MockProvider]:
    with MockProvider() as mock:
        yield mock


def _gateway(provider: MockProvider, key: str, rules: str, redis: str = "") -> Gateway:
    policy = _POLICY.format(base_url=provider.base_url, key=key, rules=rules)
    env = _KEY | {"REDIS_URL": redis}
    settings = "redis: {env: REDIS_URL}" if redis else ""
    return Gateway(policy, settings=settings, env=env, key=_KEY["ALICE"])


def _headers(gateway: Gateway, **mock: str) -> dict[str, str]:
    controls = {"usage": "10,5", **mock}.items()
    sent = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
    return sent | {f"x-mock-{name.replace('_', '-')}": value for name, value in controls}


def _ask(gateway: Gateway, client: httpx.Client | None = None, **mock: str) -> httpx.Response:
    url = f"{gateway.base_url}/chat/completions"
    return (client or gateway.http).post(url, content=_BODY, headers=_headers(gateway, **mock))


def _crowd(gateways: list[Gateway], requests: int, clients: int = _CLIENTS) -> Counter[int]:
    """The statuses that many clients at once get, each asking so many times."""

    def one(number: int) -> Counter[int]:
        with httpx.Client(timeout=30) as client:
            return Counter(_ask(gateways[number % len(gateways)], client).status_code for _ in range(requests))

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(one, range(clients)), Counter())


def _fill(gateway: Gateway, settled: Callable[[int, httpx.Response], bool]) -> tuple[int, httpx.Response]:
    """Asks until it stays refused; how many more were served, and the refusal.

    Envoy tells of the end of a stream after the client has its answer, so what was reserved may come back a little
    later: only what is refused for a while is refused, and not before these two are `settled`, if they ever are.
    """
    served, last = 0, _ask(gateway)
    quiet, deadline = time.monotonic() + 1.0, time.monotonic() + 60
    while time.monotonic() < quiet or (time.monotonic() < deadline and not settled(served, last)):
        if last.status_code == 200:
            served, quiet = served + 1, time.monotonic() + 1.0
        last = _ask(gateway)
    return served, last


def _filled(gateway: Gateway, least: int = 0) -> int:
    """How many more are served until it stays refused; `least`: so many have to be."""
    return _fill(gateway, lambda served, _: served >= least)[0]


_LIMIT = f"limits: {{strict: {{tokens: {_AMOUNT}/d, enforce: strict}}}}"
_BUDGETS = {
    "tokens": ("limits: [strict]", _LIMIT),
    "a budget of tokens": ("budget: b", f"budgets: {{b: {{tokens: {_AMOUNT}, per: month, enforce: strict}}}}"),
    # An answer costs 10 x $1 + 5 x $2 for 1,000,000: 20 microdollars; a reservation input x 1 + cap x 2.
    "money": ("budget: b", "budgets: {b: {usd: 0.004, per: day, window: rolling, enforce: strict}}"),
    "requests": ("budget: b", "budgets: {b: {requests: 100, per: month, enforce: strict}}"),
}
_FITS = {  # answers that fit at all, and that fit beside one reservation
    "tokens": (_AMOUNT // _USED, (_AMOUNT - _RESERVED) // _USED + 1),
    "a budget of tokens": (_AMOUNT // _USED, (_AMOUNT - _RESERVED) // _USED + 1),
    "money": (200, (4000 - (_RESERVED - _CAP) - 2 * _CAP) // 20 + 1),
    "requests": (100, 100),
}


@pytest.mark.parametrize("what", list(_BUDGETS))
def test_64_clients_are_never_over_and_never_refused_with_room(provider: MockProvider, what: str) -> None:
    most, least = _FITS[what]
    with _gateway(provider, *_BUDGETS[what]) as gateway:
        statuses = _crowd([gateway], 8)
        assert set(statuses) == {200, 429}
        assert statuses[200] <= most

        def settled(more: int, refusal: httpx.Response) -> bool:
            left = refusal.headers.get("x-ratelimit-remaining-tokens")
            served = statuses[200] + more
            return served >= least and (what != "tokens" or left == str(_AMOUNT - served * _USED))

        more, refusal = _fill(gateway, settled)
        served = statuses[200] + more
        assert least <= served <= most
        error = refusal.json()["error"]
        if what == "tokens":
            assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
            assert refusal.headers["x-ratelimit-limit-tokens"] == str(_AMOUNT)
            assert int(refusal.headers["x-ratelimit-remaining-tokens"]) == _AMOUNT - served * _USED
        else:
            assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
            assert refusal.headers["x-should-retry"] == "false"
        assert "`strict`" in error["message"] or "`b`" in error["message"]
        assert int(refusal.headers["retry-after"]) >= 1
        eventually(lambda: len(records(gateway)) == served, "each is in the ledger")
        assert sum(record["input"] + record["output"] for record in records(gateway)) == served * _USED
        assert sum(Decimal(record["cost"]) for record in records(gateway)) == served * Decimal("0.00002")


def test_two_nodes_share_one_count(provider: MockProvider, shared_redis: RedisServer) -> None:
    limit = f"limits: {{strict: {{tokens: {_AMOUNT}/d, enforce: strict, scope: fleet}}}}"
    most, least = _FITS["tokens"]
    with shared_redis.client() as redis, ExitStack() as stack:
        redis.flushall()
        nodes = [stack.enter_context(_gateway(provider, "limits: [strict]", limit, shared_redis.url)) for _ in range(2)]
        statuses = _crowd(nodes, 8)
        served = statuses[200]
        for node in nodes:
            served += _filled(node, least - served)
        assert set(statuses) == {200, 429}
        assert least <= served <= most
        assert {_ask(node).status_code for node in nodes} == {429}


@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("deny", 503)])
def test_redis_goes_and_comes_back(provider: MockProvider, on_error: str, status: int) -> None:
    limit = f"limits: {{l: {{requests: 5/d, scope: fleet, on_error: {on_error}}}}}"
    with redis_server() as redis, _gateway(provider, "limits: [l]", limit, redis.url) as gateway:
        assert _ask(gateway).headers["x-ratelimit-remaining-requests"] == "4"
        eventually(lambda: not alarms(gateway), "all is well")
        redis.stop()
        assert {_ask(gateway).status_code for _ in range(10)} == {status}
        assert "Redis" in eventually(lambda: alarms(gateway).get("redis"), "an alarm")
        if status == 503:
            answer = _ask(gateway)
            assert answer.json()["error"]["code"] == "limits_unavailable"
            assert answer.json()["error"]["type"] == "server_error"
        redis.start()
        eventually(lambda: not alarms(gateway), "it is back")
        # A Redis that was killed forgets what it had not stored.
        assert [_ask(gateway).status_code for _ in range(6)] == [200] * 5 + [429]


def test_another_redis_is_taken_over_when_its_file_changes(shared_redis: RedisServer) -> None:
    policy = (
        "providers: {p: {kind: mock}}\nmodels: {m: p}\nlimits: {l: {requests: 5/h, scope: fleet}}\n"
        "keys: {alice: {secret: {env: ALICE}, limits: [l]}}\n"
    )
    settings, key = "redis: {file: redis-url}", _KEY["ALICE"]
    with (
        redis_server() as other,
        Gateway(policy, settings=settings, env=_KEY, files={"redis-url": shared_redis.url}, key=key) as gateway,
    ):
        shared_redis.client().flushall()
        assert gateway.chat().headers["x-ratelimit-remaining-requests"] == "4"
        gateway.write("redis-url", other.url)
        eventually(lambda: gateway.chat().status_code == 200 and other.client().keys("*:l:*"), "the other one counts")


def test_a_gateway_starts_without_its_redis_and_says_so(provider: MockProvider) -> None:
    limit = "limits: {l: {requests: 5/d, scope: fleet}}"
    with _gateway(provider, "limits: [l]", limit, "redis://:hush-hush@127.0.0.1:1/0") as gateway:
        assert _ask(gateway).status_code == 200
        assert "Redis" in str(eventually(lambda: alarms(gateway).get("redis"), "an alarm"))
        told = gateway.output() + json.dumps(gateway.status())
        assert "Redis (gateway.redis) is away" in told
        logs = b"".join(gateway.files("run/headgate-*/*/*.log").values()).decode()
        assert "hush-hush" not in told + logs


def test_the_service_is_killed_under_load(provider: MockProvider) -> None:
    budget = f"budgets: {{b: {{tokens: {_AMOUNT}, per: month, enforce: strict}}}}"
    with _gateway(provider, "budget: b", budget) as gateway:
        over = threading.Event()

        def kill() -> int:
            kills = 0
            while not over.is_set():
                pid = eventually(lambda: over.is_set() or _pid(gateway), "it runs")
                if not over.is_set():
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
                    eventually(lambda dead=pid: over.is_set() or _pid(gateway) != dead, "its end is seen")
            return kills

        with ThreadPoolExecutor(1) as pool:
            killing = pool.submit(kill)
            statuses = _crowd([gateway], 60, clients=8)
            over.set()
            assert killing.result() >= 1
        assert set(statuses) <= {200, 429, 503}
        assert statuses[200] <= _AMOUNT // _USED
        eventually(lambda: _ask(gateway).status_code != 503, "it answers again")
        assert statuses[200] + _filled(gateway) <= _AMOUNT // _USED


def _pid(gateway: Gateway) -> int:
    """Of the service; 0 while it does not run."""
    return next((p["pid"] or 0 for p in gateway.status()["processes"] if p["name"] == "limits"), 0)


def test_a_service_that_is_down_is_an_alarm(provider: MockProvider) -> None:
    with _gateway(provider, "limits: [l]", "limits: {l: {concurrent: 5}}") as gateway:
        os.kill(gateway.process("limits"), signal.SIGSTOP)
        try:
            assert "does not answer" in str(eventually(lambda: alarms(gateway).get("limits"), "an alarm"))
            assert _ask(gateway).status_code == 200  # allowed
        finally:
            os.kill(gateway.process("limits"), signal.SIGCONT)
        eventually(lambda: not alarms(gateway), "it is over")


def test_what_is_spent_stays_spent_when_everything_is_killed(provider: MockProvider) -> None:
    budget = f"budgets: {{b: {{tokens: {_RESERVED + 2 * _USED}, per: month, enforce: strict}}}}"
    with _gateway(provider, "budget: b", budget) as gateway:
        assert _filled(gateway, 3) == 3
        left = gateway.processes()
        gateway.kill()
        for pid in left.values():
            with suppress(ProcessLookupError):  # it ended by itself
                os.kill(pid, signal.SIGKILL)
        (gateway.folder / "state/usage/ledger.db").unlink()  # the count is the service's own
        (gateway.folder / "state/usage/requests.log").unlink()
        gateway.start()
        assert _ask(gateway).status_code == 429


def test_concurrency_is_given_back_when_a_client_leaves(provider: MockProvider) -> None:
    with _gateway(provider, "limits: [l]", "limits: {l: {concurrent: 1}}") as gateway:
        slowly = _headers(gateway, chunks="500", chunk_delay="20ms")
        body = {"model": "m", **_CHAT, "stream": True}
        with gateway.http.stream("POST", "/v1/chat/completions", headers=slowly, json=body) as answer:
            lines = answer.iter_lines()  # kept: httpx hangs up when it is forgotten
            assert next(lines)
            refused = _ask(gateway)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        eventually(lambda: _ask(gateway).status_code == 200, "the place is free again")
        for _ in range(3):
            abandon(gateway, "m", 1, chunks="500", chunk_delay="20ms")
            eventually(lambda: _ask(gateway).status_code == 200, "the place is free again")


def test_streams_and_failures_settle(provider: MockProvider) -> None:
    limit = f"limits: {{l: {{tokens: {_AMOUNT}/d, enforce: strict}}}}"
    with _gateway(provider, "limits: [l]", limit) as gateway:

        def left() -> int:
            return int(_ask(gateway, status="400").headers["x-ratelimit-remaining-tokens"]) + _RESERVED

        body = {"model": "m", **_CHAT, "stream": True}
        with gateway.http.stream("POST", "/v1/chat/completions", headers=_headers(gateway), json=body) as answer:
            assert answer.read().endswith(b"data: [DONE]\n\n")
        eventually(lambda: left() == _AMOUNT - _USED, "a stream is charged what it used")
        assert _ask(gateway, status="500").status_code == 500
        eventually(lambda: left() == _AMOUNT - _USED, "a failure costs nothing")
        assert _ask(gateway, no_usage="1").status_code == 200
        eventually(lambda: left() == _AMOUNT - _USED - _RESERVED, "what is not told counts as it was reserved")


def test_a_limit_in_front_of_others_is_taken_over_at_once(provider: MockProvider) -> None:
    last = "l: {tokens: 1k/d, enforce: strict}}"
    with _gateway(provider, "limits: [l]", f"limits: {{{last}") as gateway:
        front = f"limits: {{a: {{concurrent: 5}}, {last}"
        gateway.apply_edit(_POLICY.format(base_url=provider.base_url, key="limits: [a, l]", rules=front))
        assert _ask(gateway).status_code == 200
        assert "does not start" not in gateway.output()


def test_edits_under_load_lose_no_request_and_keep_the_count(provider: MockProvider) -> None:
    def rules(amount: int) -> str:
        strict = "enforce: strict"
        return (
            f"limits: {{l: {{tokens: 1M/d, {strict}}}, n: {{concurrent: 50}}, few: {{tokens: {amount}/d, {strict}}}}}"
        )

    def policy(key: str, amount: int = 1) -> str:
        return _POLICY.format(base_url=provider.base_url, key=key, rules=rules(amount))

    with _gateway(provider, "models: [m]", rules(1)) as gateway:
        assert "limits" not in gateway.processes()
        over, seen = threading.Event(), Counter[int]()

        def load() -> None:
            with httpx.Client(timeout=30) as client:
                while not over.is_set():
                    seen[_ask(gateway, client).status_code] += 1

        with ThreadPoolExecutor(2) as pool:
            loads = [pool.submit(load) for _ in range(2)]
            for key in ("limits: [l]", "limits: [l, n]", "limits: [n]", "models: [m]"):
                gateway.apply_edit(policy(key))
            over.set()
            for each in loads:
                each.result()
        assert set(seen) == {200}
        eventually(lambda: "limits" not in gateway.processes(), "nobody needs the service")
        gateway.apply_edit(policy("limits: [few]", _RESERVED + _USED))
        assert _filled(gateway, 2) == 2
        gateway.apply_edit(policy("limits: [few]", _RESERVED + 3 * _USED))
        assert _filled(gateway, 2) == 2


def test_an_issued_key_brings_limits_that_nobody_had(provider: MockProvider) -> None:
    rules = (
        f"limits: {{l: {{tokens: {_RESERVED}/d, enforce: strict}}, routed: {{requests: 1/s, per: provider}}}}\n"
        f"budgets: {{b: {{requests: 2, per: month, enforce: strict}}}}"
    )
    with _gateway(provider, "models: [m]", rules) as gateway:
        assert "limits" not in gateway.processes()
        secrets = {
            name: json.loads(ctl(gateway, "keys", "issue", name, *bears, "--format", "json").stdout)["secret"]
            for name, bears in {"dora": ("--limits", "l"), "emil": ("--budget", "b")}.items()
        }
        refused = ctl(gateway, "keys", "issue", "otto", "--limits", "routed")
        assert refused.returncode == 1
        assert "only providers can name it" in refused.stderr + refused.stdout

        def statuses(key: str) -> list[int]:
            gateway.key = secrets.get(key, _KEY["ALICE"])
            return [_ask(gateway).status_code for _ in range(4)]

        assert statuses("emil") == [200, 200, 429, 429]
        assert statuses("dora").count(429) >= 2
        assert statuses("alice") == [200] * 4
