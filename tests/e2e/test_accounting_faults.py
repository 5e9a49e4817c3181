"""What the ledger, the collector or a provider does wrong: traffic goes on, and every request counts once."""

import json
import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider
from tests.support.postgres import PostgresServer
from tests.support.usage import alarms, ask, budgets, ctl, only_record, records, request_id, usage, wait_records

_POLICY = """
providers: {{p: {{kind: openai, base_url: "{base_url}"}}}}
models: {{"m-*": p}}
prices:
  m-dear: {{input: 10, output: 20}}
  m-cheap: {{input: 0.1, output: 0.2}}
budgets: {{all: {{tokens: 1000000000, per: month, window: rolling}}}}
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[MockProvider]:
    with MockProvider() as mock:
        yield mock


@pytest.fixture(scope="module")
def gateway(provider: MockProvider) -> Iterator[Gateway]:
    with _gateway(provider) as running:
        yield running


def _gateway(provider: MockProvider, *settings: str, **env: str) -> Gateway:
    return Gateway(_POLICY.format(base_url=provider.base_url), settings="\n".join(("budget: all", *settings)), env=env)


def _served(gateway: Gateway, count: int, delay: str = "0s") -> list[str]:
    """So many requests, all answered as ever; their ids."""
    answers = [ask(gateway, "m-a", delay=delay) for _ in range(count)]
    assert {each.status_code for each in answers} == {200}
    return [each.headers["x-request-id"] for each in answers]


def _all_once(gateway: Gateway, sent: list[str]) -> None:
    """Every request is in the ledger, once, sooner or later."""
    wait_records(gateway, len(sent))
    assert Counter(map(request_id, records(gateway))) == dict.fromkeys(sent, 1)
    (row,) = usage(gateway)
    assert row["requests"] == len(sent)


def _alarm(gateway: Gateway, name: str) -> str:
    return eventually(lambda: alarms(gateway).get(name, ""), f"the alarm {name} is told")


def _no_alarm(gateway: Gateway) -> None:
    eventually(lambda: not alarms(gateway), "no alarm is left")


def _kill_collector(gateway: Gateway) -> None:
    before = gateway.process("usage")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: gateway.process("usage") != before, "another collector runs")


def test_a_ledger_that_cannot_be_opened_at_the_start(provider: MockProvider) -> None:
    gateway = _gateway(provider)
    blocked = gateway.folder / "state/usage/ledger.db"
    blocked.mkdir(parents=True)
    with gateway:
        sent = _served(gateway, 20)
        assert "ledger.db" in _alarm(gateway, "ledger")
        answer = gateway.admin.get("/usage")
        assert (answer.status_code, answer.json()["error"]) == (503, "ledger-unavailable")
        _kill_collector(gateway)
        sent += _served(gateway, 20)
        assert "ledger.db" in _alarm(gateway, "ledger")
        blocked.rmdir()
        _all_once(gateway, sent)
        _no_alarm(gateway)


def test_a_ledger_that_somebody_locks(provider: MockProvider) -> None:
    with _gateway(provider) as gateway:
        sent = _served(gateway, 5)
        wait_records(gateway, 5)
        with closing(sqlite3.connect(gateway.folder / "state/usage/ledger.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            sent += _served(gateway, 20)
            assert "locked" in _alarm(gateway, "ledger")
            sent += _served(gateway, 5)
        _all_once(gateway, sent)
        _no_alarm(gateway)


def test_a_database_server_that_goes_and_comes_back(provider: MockProvider) -> None:
    with (
        PostgresServer() as server,
        _gateway(provider, "ledger: {env: LEDGER}", LEDGER=server.database()) as gateway,
    ):
        sent = _served(gateway, 10)
        wait_records(gateway, 10)
        server.stop(signal.SIGQUIT)
        sent += _served(gateway, 20)
        assert "usage waits" in _alarm(gateway, "ledger")
        _kill_collector(gateway)
        gateway.kill()
        sent += _served(gateway, 5)
        gateway.start()
        _alarm(gateway, "ledger")
        sent += _served(gateway, 5)
        server.start()
        _all_once(gateway, sent)
        _no_alarm(gateway)
        eventually(lambda: budgets(gateway)["all", ""]["used"] == 4 * len(sent), "budgets count them too")


def test_a_collector_that_hangs(provider: MockProvider) -> None:
    with _gateway(provider) as gateway:
        sent = _served(gateway, 5)
        wait_records(gateway, 5)
        os.kill(gateway.process("usage"), signal.SIGSTOP)
        try:
            sent += _served(gateway, 50)
            log = gateway.folder / "state/usage/requests.log"
            eventually(lambda: sent[-1].encode() in log.read_bytes(), "Envoy wrote its log")
            assert len(records(gateway)) == 5
        finally:
            os.kill(gateway.process("usage"), signal.SIGCONT)
        _all_once(gateway, sent)


def test_logs_that_are_put_aside_under_load(provider: MockProvider) -> None:
    with _gateway(provider) as gateway, _load(gateway) as sent:
        log = gateway.folder / "state/usage/requests.log"
        for number in range(1, 4):
            eventually(partial(_more_than, sent, len(sent) + 40), "requests were served")
            log.rename(log.with_name(f"{log.name}.{number}"))
            if number % 2:
                os.kill(gateway.process("usage"), signal.SIGKILL)
            eventually(log.exists, "Envoy began a new one")
        eventually(lambda: not list(log.parent.glob(f"{log.name}.*")), "those put aside are read and gone")
    assert len(sent) >= 120


def _more_than(sent: list[str], count: int) -> bool:
    return len(sent) > count


@contextmanager
def _load(gateway: Gateway) -> Iterator[list[str]]:
    """Serves requests meanwhile; in the end all of them are in the ledger, once."""
    sent: list[str] = []
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            sent.extend(_served(gateway, 1, delay="50ms"))  # fewer than are listed at once

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        done.set()
        for thread in threads:
            thread.join()
    _all_once(gateway, sent)


def _says(usage: Any, model: str = "m-odd", *, stream: bool = False) -> dict[str, Any]:
    """The mock's controls for an answer with this usage."""
    text = "some words that were generated "
    if not stream:
        message = {"role": "assistant", "content": text * 20}
        whole = {"object": "chat.completion", "model": model, "choices": [{"index": 0, "message": message}]}
        return {"body": quote(json.dumps({**whole, "usage": usage}))}
    chunk: dict[str, Any] = {"object": "chat.completion.chunk", "model": model}
    events = [{**chunk, "choices": [{"index": 0, "delta": {"content": f"{word} "}}]} for word in (text * 5).split()]
    events.append({**chunk, "choices": [], "usage": usage})
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return {"body": quote(lines), "content_type": "text/event-stream"}


_ABSURD = [
    {"prompt_tokens": -5, "completion_tokens": 10},
    {"prompt_tokens": 5, "completion_tokens": -10, "total_tokens": -5},
    {"prompt_tokens": 10**15, "completion_tokens": 3},
    {"prompt_tokens": "many", "completion_tokens": 3},
    {"prompt_tokens": 5.5, "completion_tokens": 3},
    {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 50}},
    {"prompt_tokens": 5, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 50}},
    {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 3},
]


def test_a_collector_that_hangs_is_told(provider: MockProvider) -> None:
    with _gateway(provider) as gateway:
        _all_once(gateway, _served(gateway, 1))
        assert "collector" not in alarms(gateway)
        os.kill(gateway.process("usage"), signal.SIGSTOP)
        eventually(lambda: "collector" in alarms(gateway), "the alarm stands")
        shown = ctl(gateway, "status").stdout
        assert "alarm collector: the collector hangs" in shown
        os.kill(gateway.process("usage"), signal.SIGCONT)
        eventually(lambda: "collector" not in alarms(gateway), "the alarm is over")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("found", _ABSURD, ids=str)
def test_usage_that_cannot_be_is_estimated_and_told(gateway: Gateway, found: dict[str, Any], stream: bool) -> None:
    answer = ask(gateway, "m-odd", **_says(found, stream=stream))
    assert answer.status_code == 200
    record = only_record(gateway, answer.headers["x-request-id"])
    assert record["estimated"], record
    assert 0 < record["input"] < 1000
    assert 0 < record["output"] < 1000
    assert min(record[name] for name in ("cached", "cache_write", "reasoning")) >= 0
    assert _alarm(gateway, "usage/p")


def test_a_provider_that_names_another_model_is_paid_for_the_one_asked(gateway: Gateway) -> None:
    told = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}
    answer = ask(gateway, "m-dear", **_says(told, "m-cheap"))
    record = only_record(gateway, answer.headers["x-request-id"])
    assert (record["model"], record["served_model"], record["cost"]) == ("m-dear", "m-cheap", "30")


@pytest.mark.parametrize("damage", [b"\0\xff\x1e", b"\x1e\x1f\x1d\n", b"\x1emine\x1f1795\x1f", b"\n\n"])
def test_a_damaged_log_costs_no_other_entry(gateway: Gateway, damage: bytes) -> None:
    before = _served(gateway, 1)
    only_record(gateway, before[0])
    log = gateway.folder / "state/usage/requests.log"
    with log.open("ab") as file:
        file.write(damage)
    after = _served(gateway, 2)
    for request in after:
        only_record(gateway, request)


@pytest.mark.parametrize("name", ["memory.json", "standing.json"])
def test_a_damaged_file_of_the_collectors_own(gateway: Gateway, name: str) -> None:
    _served(gateway, 1)
    path = gateway.folder / "state/usage" / name
    eventually(path.exists, f"{name} is written")
    path.write_bytes(b'{"version":1,"acc')
    _kill_collector(gateway)
    (request,) = _served(gateway, 1)
    only_record(gateway, request)
    assert gateway.admin.get("/budgets").status_code == 200
    eventually(lambda: ("all", "") in budgets(gateway), "accounts are told again")


def test_a_request_id_that_is_a_uuid_of_version_7_stays_as_it_is(gateway: Gateway) -> None:
    request = "01890a5d-ac96-774b-bcce-b302099a8057"
    body = {"model": "m-a", "messages": [{"role": "user", "content": "hi"}]}
    answer = gateway.http.post("/v1/chat/completions", json=body, headers={"x-request-id": request})
    assert answer.headers["x-request-id"] == request
    only_record(gateway, request)
