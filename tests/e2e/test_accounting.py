"""The ledger against a provider that counts what it served, while processes are killed; estimates; cost."""

import csv
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.support.gateway import Gateway, alive, eventually
from tests.support.mock import MockProvider
from tests.support.usage import (
    Row,
    abandon,
    abandon_unanswered,
    ask,
    ctl,
    headers,
    only_record,
    records,
    request_id,
    usage,
)

_POLICY = """
providers:
  good: {{kind: openai, base_url: "{good}"}}
  bad: {{kind: openai, base_url: "{bad}"}}
models:
  "m-*": good
  over: {{try: [{{provider: bad, model: mock+status=503}}, {{provider: good, model: m-over}}]}}
teams: {{red: {{organization: acme}}, blue: {{}}}}
organizations: {{acme: {{}}}}
keys:
  alice: {{secret: {{env: KEY_ALICE}}, team: red}}
  bob: {{secret: {{env: KEY_BOB}}, team: blue}}
"""
_ENV = {"KEY_ALICE": "sk-alice-0123456789abcdef", "KEY_BOB": "sk-bob-0123456789abcdef"}
_ROUNDS = 25  # of each kind of request
_WORKERS = 8
_CHUNKS = 40  # of a stream that the provider breaks off
_ENDLESS = 2000  # chunks of a stream that is left in the middle, however long its client takes to
_ERROR = 0.1  # of the estimates in sum: 30 finished streams of the model come before

_PRICES = """
prices:
  m-dear: {input: 0.15, output: 0.60, cached_input: 0.075, reasoning: 1.2, request: 0.000123456789}
  m-tiny: {input: 0.000001, output: 0.000007}
  m-free: {input: 0}
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent, and what its record must say: tokens None where they are to be estimated."""

    id: str
    key: str
    status: int
    tokens: tuple[int, int] | None
    complete: bool = True


class Clients:
    """Sends requests of all kinds. A prompt of n words is answered with n + 2, each a token."""

    def __init__(self, gateway: Gateway, provider: MockProvider) -> None:
        self._gateway, self._provider = gateway, provider
        self._http = httpx.Client(base_url=gateway.url, timeout=60)

    def close(self) -> None:
        self._http.close()

    def _post(self, number: int, path: str, body: Row, expect: int = 200, **mock: str) -> tuple[str, str]:
        """The id of the request and its key's name."""
        name = ("alice", "bob")[number % 2]
        sent = headers(self._gateway, _ENV[f"KEY_{name.upper()}"], **mock)
        answer = self._http.post(f"/v1/{path}", json=body, headers=sent)
        assert answer.status_code == expect, answer.text
        return sent["x-request-id"], name

    def _chat(self, number: int, model: str, expect: int = 200, **mock: str) -> tuple[str, str]:
        return self._post(number, "chat/completions", _chat(number, model), expect, **mock)

    def plain(self, number: int) -> Sent:
        return Sent(*self._chat(number, "m-plain"), 200, (_words(number), _words(number) + 2))

    def stream(self, number: int, **more: Any) -> Sent:
        body = {**_chat(number, "m-stream"), "stream": True, **more}
        length = 10 + number * 7 % 50
        return Sent(*self._post(number, "chat/completions", body, chunks=str(length)), 200, (_words(number), length))

    def stream_with_usage(self, number: int) -> Sent:
        return self.stream(number, stream_options={"include_usage": True})

    def completion(self, number: int) -> Sent:
        body = {"model": "m-legacy", "prompt": _prompt(number), "stream": number % 2 == 0}
        return Sent(*self._post(number, "completions", body), 200, (_words(number), _words(number) + 2))

    def embedding(self, number: int) -> Sent:
        body = {"model": "m-embed", "input": [_prompt(number)]}
        return Sent(*self._post(number, "embeddings", body), 200, (_words(number), 0))

    def response(self, number: int) -> Sent:
        body = {"model": "m-response", "input": _prompt(number), "stream": number % 2 == 0}
        return Sent(*self._post(number, "responses", body), 200, (_words(number), _words(number) + 2))

    def refused(self, number: int) -> Sent:
        return Sent(*self._chat(number, "m-refused", 400, status="400"), 400, (0, 0))

    def broken(self, number: int) -> Sent:
        return Sent(*self._chat(number, "m-broken", 500, status="500"), 500, (0, 0))

    def retried(self, number: int) -> Sent:
        sent = self._chat(number, "m-retried", first_status="429")
        return Sent(*sent, 200, (_words(number), _words(number) + 2))

    def failed_over(self, number: int) -> Sent:
        return Sent(*self._chat(number, "over"), 200, (_words(number), _words(number) + 2))

    def left_in_the_middle(self, number: int) -> Sent:
        name = ("alice", "bob")[number % 2]
        request = abandon(
            self._gateway, "m-stream", 5 + number % 20, key=_ENV[f"KEY_{name.upper()}"],
            chunks=str(_ENDLESS), chunk_delay="20ms",
        )  # fmt: skip
        return Sent(request, name, 200, None, complete=False)

    def left_before_the_first_byte(self, number: int) -> Sent:
        name = ("alice", "bob")[number % 2]
        request = abandon_unanswered(self._gateway, self._provider, "m-never", key=_ENV[f"KEY_{name.upper()}"])
        return Sent(request, name, 0, None, complete=False)

    def cut_by_the_provider(self, number: int) -> Sent:
        name = ("alice", "bob")[number % 2]
        sent = headers(self._gateway, _ENV[f"KEY_{name.upper()}"], chunks=str(_CHUNKS), fail_after="15")
        with pytest.raises(httpx.RemoteProtocolError):
            self._http.post("/v1/chat/completions", json={**_chat(0, "m-stream"), "stream": True}, headers=sent)
        return Sent(sent["x-request-id"], name, 200, None, complete=False)

    def kinds(self) -> tuple[Callable[[int], Sent], ...]:
        return (
            self.plain, self.stream, self.stream_with_usage, self.completion, self.embedding, self.response,
            self.refused, self.broken, self.retried, self.failed_over, self.left_in_the_middle,
            self.left_before_the_first_byte, self.cut_by_the_provider,
        )  # fmt: skip


def _words(number: int) -> int:
    return 1 + number % 7


def _prompt(number: int) -> str:
    return " ".join(["word"] * _words(number))


def _chat(number: int, model: str) -> Row:
    return {"model": model, "messages": [{"role": "user", "content": _prompt(number)}]}


@pytest.fixture
def mocks() -> Iterator[tuple[MockProvider, MockProvider]]:
    with MockProvider("--record", "5000", name="good") as good, MockProvider("--record", "5000", name="bad") as bad:
        yield good, bad


def test_what_was_served_is_in_the_ledger_once_though_processes_are_killed(
    mocks: tuple[MockProvider, MockProvider],
) -> None:
    good, bad = mocks
    policy = _POLICY.format(good=good.base_url, bad=bad.base_url)
    with Gateway(policy, env=_ENV, key=_ENV["KEY_ALICE"]) as gateway:
        clients = Clients(gateway, good)
        try:
            sent = _run(gateway, clients)
        finally:
            clients.close()
        _kill_usage(gateway)  # once more with nothing to do, so that what was read is not read again
        eventually(lambda: len(records(gateway)) >= len(sent), "every request is in the ledger")
        good.wait_for(lambda stats: stats["open_requests"] == 0)
        _check_requests(gateway, sent, (good, bad))
        _check_tokens(gateway, sent, (good, bad))
        _check_sums(gateway, sent)


def _run(gateway: Gateway, clients: Clients) -> list[Sent]:
    """All requests; meanwhile the collector is killed, then the control plane and the collector, and come back."""
    sent = [clients.stream(number) for number in range(30)]
    with ThreadPoolExecutor(_WORKERS) as pool:
        waiting: list[Future[Sent]] = [
            pool.submit(kind, number) for number in range(_ROUNDS) for kind in clients.kinds()
        ]

        def done(share: float) -> None:
            eventually(lambda: sum(each.done() for each in waiting) >= share * len(waiting), f"{share} is done", 90)

        done(0.2)
        _kill_usage(gateway)
        done(0.4)
        gateway.kill()
        os.kill(gateway.process("usage"), signal.SIGKILL)
        done(0.6)
        gateway.start()
        done(0.8)
        _kill_usage(gateway)
    return sent + [each.result() for each in waiting]


def _kill_usage(gateway: Gateway) -> None:
    """Kills the collector, and waits for the one after it."""
    before = gateway.process("usage")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: gateway.process("usage") != before, "another collector runs")
    assert alive(gateway.process("usage"))


def _check_requests(gateway: Gateway, sent: list[Sent], mocks: tuple[MockProvider, ...]) -> None:
    """Each request that a provider saw has one record, and no other has any."""
    found = records(gateway)
    seen = Counter(request.header("x-request-id") for mock in mocks for request in mock.requests())
    assert Counter(map(request_id, found)) == dict.fromkeys(seen, 1)
    assert set(seen) == {each.id for each in sent}
    assert {request_id(each): each["attempts"] for each in found} == seen
    by_id = {request_id(each): each for each in found}
    for each in sent:
        record = by_id[each.id]
        assert (record["key"], record["status"], record["complete"]) == (each.key, each.status, each.complete), record
        assert record["estimated"] == (each.tokens is None), record
        if each.tokens is not None:
            assert (record["input"], record["output"]) == each.tokens, record


def _check_tokens(gateway: Gateway, sent: list[Sent], mocks: tuple[MockProvider, ...]) -> None:
    """What the providers counted, less what was reported exactly, is what was estimated."""
    served = {"prompt": 0, "completion": 0}
    for mock in mocks:
        for name, count in mock.stats()["tokens"].items():
            served[name] += count
    exact = [each.tokens for each in sent if each.tokens is not None]
    rest = served["completion"] - sum(output for _, output in exact)
    found = [each for each in records(gateway) if each["estimated"]]
    assert served["prompt"] - sum(given for given, _ in exact) == 2 * _ROUNDS  # of the broken streams: one word each
    assert sum(each["output"] for each in found) == pytest.approx(rest, rel=_ERROR)
    assert not [each for each in found if each["model"] == "m-never" and each["output"]]


def _check_sums(gateway: Gateway, sent: list[Sent]) -> None:
    """Rollups say the same as the records."""
    by_key = {row["key"]: row for row in usage(gateway, "key")}
    assert {key: row["requests"] for key, row in by_key.items()} == Counter(each.key for each in sent)
    found = records(gateway)
    for row in usage(gateway, "team,model,served_model"):
        mine = [each for each in found if all(each[name] == row[name] for name in ("team", "model", "served_model"))]
        assert row["requests"] == len(mine)
        for name in ("input", "output"):
            assert row[f"{name}_tokens"] == sum(each[name] for each in mine)
        assert row["estimated"] == sum(each["estimated"] for each in mine)
        assert row["abandoned"] == sum(not each["complete"] for each in mine)
    assert (
        sum(row["requests"] for row in usage(gateway, "organization", organization="acme"))
        == by_key["alice"]["requests"]
    )
    (bad,) = usage(gateway, model="m-broken")
    assert (bad["errors"], bad["error_rate"]) == (_ROUNDS, 1.0)
    (retried,) = usage(gateway, model="m-retried")
    assert (retried["errors"], retried["requests"]) == (0, _ROUNDS)


@pytest.fixture(scope="module")
def provider() -> Iterator[MockProvider]:
    with MockProvider(name="good") as good:
        yield good


@pytest.fixture(scope="module")
def gateway(provider: MockProvider) -> Iterator[Gateway]:
    policy = _POLICY.format(good=provider.base_url, bad=provider.base_url) + _PRICES
    with Gateway(policy, env=_ENV, key=_ENV["KEY_ALICE"]) as running:
        yield running


def _served(mock: MockProvider, model: str) -> int:
    """Completion tokens that the mock counted, once nothing is open any more."""
    stats = mock.wait_for(lambda stats: stats["open_requests"] == 0)
    return sum(row["tokens"]["completion"] for row in stats["by"] if row["model"] == model)


def test_what_an_abandoned_stream_took_is_estimated(gateway: Gateway, provider: MockProvider) -> None:
    for number in range(30):
        ask(gateway, "m-long", content={**_chat(number, "m-long"), "stream": True}, chunks=str(20 + number))
    errors = {}
    for chunks in (3, 10, 40, 90):
        before = _served(provider, "m-long")
        record = only_record(gateway, abandon(gateway, "m-long", chunks, chunks=str(_ENDLESS), chunk_delay="5ms"))
        sent = _served(provider, "m-long") - before
        assert (record["estimated"], record["complete"], record["status"]) == (True, False, 200)
        assert sent >= chunks
        errors[sent] = record["output"] / sent - 1
    assert max(map(abs, errors.values())) < 0.5, errors


def test_a_stream_whose_usage_never_comes_is_estimated(gateway: Gateway) -> None:
    for number in range(30):
        ask(gateway, "m-mute", content={**_chat(number, "m-mute"), "stream": True}, chunks=str(20 + number))
    answer = ask(gateway, "m-mute", content={**_chat(0, "m-mute"), "stream": True}, chunks="50", no_usage="1")
    record = only_record(gateway, answer.headers["x-request-id"])
    assert (record["estimated"], record["complete"]) == (True, True)
    assert record["output"] == pytest.approx(50, rel=0.2)


def test_a_plain_answer_without_usage_is_estimated(gateway: Gateway) -> None:
    for number in range(30):
        ask(gateway, "m-still", size=f"{1000 + 200 * number}")
    words = len(ask(gateway, "m-still", size="4000").json()["choices"][0]["message"]["content"].split())
    answer = ask(gateway, "m-still", size="4000", no_usage="1")
    record = only_record(gateway, answer.headers["x-request-id"])
    assert (record["estimated"], record["complete"]) == (True, True)
    assert record["output"] == pytest.approx(words, rel=0.2)


@pytest.mark.parametrize("stream", [False, True])
def test_cost_is_exact_to_the_last_digit(gateway: Gateway, stream: bool) -> None:
    body = {**_chat(0, "m-dear"), "stream": stream}
    answer = ask(gateway, "m-dear", content=body, usage="1234567,8901", cached_tokens="1003", reasoning_tokens="777")
    dear = only_record(gateway, answer.headers["x-request-id"])
    rates = ((1234567 - 1003, "0.15"), (1003, "0.075"), (8901 - 777, "0.60"), (777, "1.2"))
    exact = sum(count * Decimal(rate) / 10**6 for count, rate in rates) + Decimal("0.000123456789")
    assert Decimal(dear["cost"]) == exact
    tiny = only_record(gateway, ask(gateway, "m-tiny", content=body, usage="3,5").headers["x-request-id"])
    assert tiny["cost"] == "0.000000000038"


def test_sums_of_cost_are_exact(gateway: Gateway) -> None:
    for number in range(20):
        ask(gateway, "m-tiny", key=_ENV["KEY_BOB"], usage=f"{number},1")
    eventually(lambda: [row["requests"] for row in usage(gateway, key="bob", model="m-tiny")] == [20], "all are there")
    (row,) = usage(gateway, key="bob", model="m-tiny")
    assert (row["cost"], row["unpriced"]) == ("0.00000000033", 0)


@pytest.mark.parametrize(("model", "mock"), [("m-free", {"usage": "5,0"}), ("m-dear", {"status": "400"})])
def test_free_models_and_refused_requests_cost_nothing(gateway: Gateway, model: str, mock: dict[str, Any]) -> None:
    record = only_record(gateway, ask(gateway, model, **mock).headers["x-request-id"])
    assert record["cost"] == "0"


def test_a_model_without_a_price_costs_null_and_is_listed(gateway: Gateway) -> None:
    answer = ask(gateway, "m-nobody-sells-this", usage="11,7")
    record = only_record(gateway, answer.headers["x-request-id"])
    assert record["cost"] is None
    (row,) = usage(gateway, "key,model", model="m-nobody-sells-this")
    assert (row["cost"], row["unpriced"], row["input_tokens"]) == (None, 1, 11)
    told = json.loads(ctl(gateway, "usage", "--unpriced", "--format", "json").stdout)["rows"]
    assert told == gateway.admin.get("/usage/unpriced").json()["rows"]
    assert [row for row in told if row["model"] == "m-nobody-sells-this"] == [
        {
            "model": "m-nobody-sells-this", "provider": "good", "served_model": "m-nobody-sells-this",
            "requests": 1, "input_tokens": 11, "output_tokens": 7,
        }
    ]  # fmt: skip
    assert not [row for row in told if row["model"] in ("m-dear", "m-tiny", "m-free")]


def test_the_command_line_shows_usage(gateway: Gateway) -> None:
    for key, model in (("KEY_ALICE", "m-cli"), ("KEY_BOB", "m-cli"), ("KEY_BOB", "m-dear")):
        only_record(gateway, ask(gateway, model, key=_ENV[key], usage="4,2").headers["x-request-id"])
    done = ctl(gateway, "usage", "--by", "key,model", "--format", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["rows"]
    assert told == usage(gateway, "key,model")
    mine = [row for row in told if row["model"] == "m-cli"]
    wanted = ("key", "model", "requests", "input_tokens", "output_tokens", "cost")
    assert [[row[name] for name in wanted] for row in mine] == [
        ["alice", "m-cli", 1, 4, 2, None],
        ["bob", "m-cli", 1, 4, 2, None],
    ]
    table = list(csv.DictReader(ctl(gateway, "usage", "--by", "key,model", "--format", "csv").stdout.splitlines()))
    assert [[row["key"], row["model"], row["requests"], row["cost"]] for row in table] == [
        [row["key"], row["model"], str(row["requests"]), row["cost"] or ""] for row in told
    ]
    (only,) = json.loads(ctl(gateway, "usage", "--by", "team", "--team", "red", "--format", "json").stdout)["rows"]
    assert only["team"] == "red"
    shown = ctl(gateway, "usage", "--by", "key,model")
    assert (shown.returncode, "m-cli" in shown.stdout) == (0, True)


@pytest.mark.parametrize("words", [("--by", "colour"), ("--since", "yesterday"), ("--until", "x")])
def test_the_command_line_says_what_it_does_not_know(gateway: Gateway, words: tuple[str, ...]) -> None:
    done = ctl(gateway, "usage", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error")
    assert words[1] in done.stderr
