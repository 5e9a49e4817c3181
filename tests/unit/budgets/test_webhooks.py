"""Webhooks against a real HTTP server on a free port, and a sender that is killed."""

import asyncio
import base64
import hashlib
import hmac
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from email.utils import format_datetime
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from extproc.usage.budgets import Account, Event, Restored, Spent, Warned
from extproc.usage.record import PICO
from extproc.usage.webhooks.body import event_id, headers, payload, signing_key
from extproc.usage.webhooks.endpoints import Endpoint
from extproc.usage.webhooks.outbox import Delivery, FolderOutbox
from extproc.usage.webhooks.sending import Retries, Webhooks
from extproc.usage.windows import SECOND, Window, utc
from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
AT = 1_772_366_400 * SECOND  # 2026-03-01T12:00:00Z
DAY_OF_AT = (AT - 12 * 3600 * SECOND, AT + 12 * 3600 * SECOND)
QUICK = Retries(first_us=2_000, longest_us=20_000)
DEADLINE_S = 120

ACCOUNT = Account(
    "daily", "key", "alice", "pico", 50 * PICO, Window.calendar("day"), (Decimal("0.8"),), "downgrade:small",
    webhooks=("ops", "a", "b", "slow", "quick"),
)  # fmt: skip
SPENT = Spent(ACCOUNT, 50 * PICO + PICO // 4, DAY_OF_AT[1], DAY_OF_AT, AT)
WARNED = Warned(ACCOUNT, Fraction(4, 5), 40 * PICO, DAY_OF_AT, AT)
RESTORED = Restored(ACCOUNT, 0, DAY_OF_AT, AT)


def now_us() -> int:
    return time.time_ns() // 1000


@dataclass
class Receiver:
    """Answers with `answers` in turn, then 204."""

    answers: list[int] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/SECRETPATH"

    def ids(self) -> list[str]:
        return [head["webhook-id"] for head, _ in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = state.answers.pop(0) if state.answers else 204
            state.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(answer)
            for name, value in state.extra.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@asynccontextmanager
async def running(
    folder: Path, *endpoints: Endpoint, retries: Retries = QUICK, now: Callable[[], int] = now_us
) -> AsyncIterator[Webhooks]:
    async with httpx.AsyncClient(follow_redirects=True) as client:  # which must not make a difference
        hooks = Webhooks(client, now, endpoints=endpoints, outbox=FolderOutbox(folder), retries=retries)
        task = asyncio.create_task(hooks.run())
        try:
            yield hooks
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  the server is in another thread
            await asyncio.sleep(0.005)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def verified(head: dict[str, str], body: bytes) -> bool:
    """As a receiver does it, by the specification alone."""
    signed = b".".join([head["webhook-id"].encode(), head["webhook-timestamp"].encode(), body])
    mine = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    fresh = abs(time.time() - int(head["webhook-timestamp"])) < 300
    return fresh and any(hmac.compare_digest(f"v1,{mine}", found) for found in head["webhook-signature"].split(" "))


async def test_an_event_is_signed_and_delivered_once(receiver: Receiver, tmp_path: Path) -> None:
    async with running(tmp_path, Endpoint("ops", receiver.url, SECRET)) as hooks:
        hooks.send(SPENT)
        assert len(files(tmp_path)) == 1  # before anything was sent
        await until(lambda: hooks.waiting == 0)
    ((head, body),) = receiver.got
    assert verified(head, body)
    assert head["content-type"] == "application/json"
    assert files(tmp_path) == []
    assert json.loads(body) == {
        "id": head["webhook-id"],
        "type": "budget.spent",
        "at": "2026-03-01T12:00:00.000000Z",
        "account": {
            "budget": "daily",
            "owner_kind": "key",
            "owner": "alice",
            "unit": "usd",
            "on_spent": "downgrade:small",
        },
        "used": "50.25",
        "amount": "50",
        "window": {"start": "2026-03-01T00:00:00.000000Z", "end": "2026-03-02T00:00:00.000000Z"},
        "until": "2026-03-02T00:00:00.000000Z",
    }


async def test_a_receiver_that_fails_is_tried_again_with_the_same_id(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = [500, 503, 408, 429, 502]
    async with running(tmp_path, Endpoint("ops", receiver.url, SECRET)) as hooks:
        hooks.send(WARNED)
        await until(lambda: hooks.waiting == 0)
    assert receiver.ids() == [event_id(WARNED)] * 6
    assert all(verified(head, body) for head, body in receiver.got)
    assert len({body for _, body in receiver.got}) == 1


async def test_a_receiver_that_is_gone_for_good_ends_it_with_an_error(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = [410]
    with capture_logs() as logs:
        async with running(tmp_path, Endpoint("ops", receiver.url, SECRET)) as hooks:
            hooks.send(SPENT)
            await until(lambda: hooks.waiting == 0)
            assert hooks.troubles() == {"ops": "1 events were given up"}
    assert len(receiver.got) == 1
    assert files(tmp_path) == []
    (line,) = logs
    assert (line["log_level"], line["endpoint"], line["reason"]) == ("error", "ops", "status 410")


@pytest.mark.parametrize("status", [400, 401, 404, 301, 307])
async def test_other_answers_may_be_mended(receiver: Receiver, tmp_path: Path, status: int) -> None:
    receiver.answers = [status] * 3
    receiver.extra = {"location": receiver.url}
    async with running(tmp_path, Endpoint("ops", receiver.url, SECRET)) as hooks:
        hooks.send(SPENT)
        await until(lambda: hooks.waiting == 0)
    assert receiver.ids() == [event_id(SPENT)] * 4


async def test_an_endpoint_that_fails_for_long_is_in_trouble_until_it_takes_one(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answers = [500] * 1000
    async with running(tmp_path, Endpoint("ops", receiver.url, SECRET)) as hooks:
        hooks.send(SPENT)
        hooks.send(WARNED)
        assert hooks.troubles() == {}
        await until(lambda: bool(hooks.troubles()))
        assert "attempts in a row failed (status 500); 2 events wait" in hooks.troubles()["ops"]
        receiver.answers = []
        await until(lambda: hooks.waiting == 0)
        assert hooks.troubles() == {}


async def test_only_what_was_asked_for_is_told_and_only_to_those_named(receiver: Receiver, tmp_path: Path) -> None:
    ops, other = Endpoint("ops", receiver.url, SECRET, ("spent", "reset")), Endpoint("other", receiver.url, SECRET)
    async with running(tmp_path, ops, other) as hooks:
        for event in (WARNED, SPENT, RESTORED):
            hooks.send(event)
        await until(lambda: hooks.waiting == 0)
    assert sorted(receiver.ids()) == sorted(map(event_id, (SPENT, RESTORED)))


async def test_an_absent_receiver_is_waited_for_and_nothing_secret_is_logged(tmp_path: Path) -> None:
    port = free_port()
    with capture_logs() as logs:
        async with running(
            tmp_path, Endpoint("ops", f"http://u:PASSWORD@127.0.0.1:{port}/SECRETPATH", SECRET)
        ) as hooks:
            hooks.send(SPENT)
            await until(lambda: len(logs) >= 3)
            assert hooks.waiting == 1
    assert {line["reason"] for line in logs} == {"ConnectError"}
    kept = "".join(path.read_text() for path in tmp_path.iterdir())
    for place in (str(logs), kept, repr(hooks), repr(Endpoint("ops", "http://h/SECRETPATH", SECRET))):
        assert not any(secret in place for secret in ("SECRETPATH", "PASSWORD", SECRET, SECRET.removeprefix("whsec_")))


async def test_after_the_last_try_it_is_given_up(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = [500] * 1000
    with capture_logs() as logs:
        quick, clock = replace(QUICK, give_up_us=100_000), count(AT, 1000)  # it goes on with every look
        ops = Endpoint("ops", receiver.url, SECRET)
        async with running(tmp_path, ops, retries=quick, now=lambda: next(clock)) as hooks:
            hooks.send(SPENT)
            await until(lambda: hooks.waiting == 0)
    assert logs[-1]["event"] == "webhook given up"
    assert 2 <= logs[-1]["attempts"] == len(receiver.got)


async def test_a_hanging_endpoint_holds_up_nobody(receiver: Receiver, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        slow = Endpoint("slow", f"http://127.0.0.1:{silent.getsockname()[1]}/", SECRET)
        async with running(tmp_path, slow, Endpoint("quick", receiver.url, SECRET)) as hooks:
            hooks.send(WARNED)
            hooks.send(RESTORED)
            await until(lambda: hooks.waiting == 2)
        assert sorted(receiver.ids()) == sorted([event_id(WARNED), event_id(RESTORED)])
    waits = FolderOutbox(tmp_path).pending()  # cancelled in the middle: the next one sends it again
    assert [delivery.endpoint for delivery in waits] == ["slow", "slow"]


async def test_every_endpoint_gets_the_event_by_itself(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = [500]
    async with running(tmp_path, *(Endpoint(name, receiver.url, SECRET) for name in ("a", "b"))) as hooks:
        hooks.send(SPENT)
        await until(lambda: hooks.waiting == 0)
    assert receiver.ids() == [event_id(SPENT)] * 3


async def test_beyond_the_capacity_the_oldest_goes(tmp_path: Path) -> None:
    async with httpx.AsyncClient() as client:
        ends = [Endpoint("ops", "https://127.0.0.1:1/", SECRET)]
        hooks = Webhooks(client, now_us, endpoints=ends, outbox=FolderOutbox(tmp_path), capacity=2)
        with capture_logs() as logs:
            for number in range(4):
                hooks.send(replace(RESTORED, at_us=AT + number))
    assert [line["log_level"] for line in logs] == ["error", "error"]
    kept = [json.loads(delivery.body)["at"] for delivery in FolderOutbox(tmp_path).pending()]
    assert kept == ["2026-03-01T12:00:00.000002Z", "2026-03-01T12:00:00.000003Z"]


async def test_without_a_disk_events_are_still_delivered(receiver: Receiver, tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    with capture_logs() as logs:
        async with running(folder, Endpoint("ops", receiver.url, SECRET)) as hooks:
            folder.rmdir()
            folder.write_text("not a folder")
            hooks.send(SPENT)
            await until(lambda: len(receiver.got) == 1 and hooks.waiting == 0)
    assert [line["log_level"] for line in logs] == ["error", "error"]


SENDER = """
import asyncio, sys, time, httpx
from decimal import Decimal
from pathlib import Path
from extproc.usage.budgets import Account, Restored
from extproc.usage.webhooks.endpoints import Endpoint
from extproc.usage.webhooks.outbox import FolderOutbox
from extproc.usage.webhooks.sending import Webhooks
from extproc.usage.windows import Window

async def main(folder, url, secret):
    account = Account("daily", "", "", "tokens", 5, Window.calendar("day"), webhooks=("ops",))
    async with httpx.AsyncClient() as client:
        hooks = Webhooks(client, lambda: time.time_ns() // 1000, endpoints=[Endpoint("ops", url, secret)],
                         outbox=FolderOutbox(Path(folder)))
        running = asyncio.create_task(hooks.run())
        for at in range(900):  # fewer than an endpoint may have waiting
            hooks.send(Restored(account, 0, (0, 1), at))
            print('sent', at, flush=True)  # among lines of the log
            await asyncio.sleep(0)
        await running

asyncio.run(main(*sys.argv[1:]))
"""


async def test_events_survive_kill_9(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = [503, 503]
    command = [sys.executable, "-c", SENDER, str(tmp_path), receiver.url, SECRET]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:  # noqa: ASYNC220
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if line == "sent 200\n":
                    break
        finally:
            child.send_signal(signal.SIGKILL)
        later = [int(line.split()[1]) for line in child.stdout if line.startswith("sent ") and line.endswith("\n")]
    sent = max([200, *later]) + 1
    async with running(tmp_path, Endpoint("ops", receiver.url, SECRET)) as hooks:
        await until(lambda: hooks.waiting == 0)
    assert files(tmp_path) == []
    account = Account("daily", "", "", "tokens", 5, Window.calendar("day"))
    assert {event_id(Restored(account, 0, (0, 1), at)) for at in range(sent)} <= set(receiver.ids())


def delivery(**others: object) -> Delivery:
    return replace(Delivery("1", "evt_1", "ops", "{}", AT, 1, AT), **others)  # type: ignore[arg-type]


async def test_the_outbox_keeps_attempts_and_sets_aside_what_it_cannot_read(tmp_path: Path) -> None:
    outbox = FolderOutbox(tmp_path / "outbox")
    outbox.put(delivery(id="b", created_us=AT + 1))
    outbox.put(delivery(id="a", attempts=1))
    outbox.put(delivery(id="a", attempts=2))
    for name, text in (("c.json", ""), ("d.json", "[1]"), ("e.json", '{"id": 1}'), ("f.part", "{")):
        (tmp_path / "outbox" / name).write_text(text)
    with capture_logs() as logs:
        assert outbox.pending() == [delivery(id="a", attempts=2), delivery(id="b", created_us=AT + 1)]
    assert {line["file"] for line in logs} == {"c.json", "d.json", "e.json"}
    outbox.remove("a")
    outbox.remove("a")
    assert files(tmp_path / "outbox") == ["b.json", "c.broken", "d.broken", "e.broken"]
    assert (tmp_path / "outbox").stat().st_mode & 0o077 == 0


async def test_what_waits_for_an_endpoint_that_is_gone_is_dropped(tmp_path: Path) -> None:
    FolderOutbox(tmp_path).put(delivery(endpoint="old"))
    with capture_logs() as logs:
        async with running(tmp_path, Endpoint("ops", "http://127.0.0.1:1/", SECRET)) as hooks:
            assert hooks.waiting == 0
    assert logs[0]["endpoint"] == "old"
    assert files(tmp_path) == []


@pytest.mark.parametrize("dated", [False, True])
async def test_retry_after_is_honoured(receiver: Receiver, tmp_path: Path, dated: bool) -> None:
    receiver.answers = [429]
    receiver.extra = {"retry-after": format_datetime(utc(now_us() + 3600 * SECOND), usegmt=True) if dated else "3600"}
    with capture_logs() as logs:
        async with running(tmp_path, Endpoint("ops", receiver.url, SECRET)) as hooks:
            hooks.send(SPENT)
            await until(lambda: len(logs) == 1)
    (waits,) = FolderOutbox(tmp_path).pending()
    assert 3500 * SECOND < waits.next_us - now_us() <= 3600 * SECOND


@pytest.mark.parametrize("value", ["soon", "", "-5", "1e3", "Sun, 99 Foo 2026", "Mon, 01 Jan 0001 00:00:00 -2359", "²"])
async def test_a_senseless_retry_after_counts_as_absent(receiver: Receiver, tmp_path: Path, value: str) -> None:
    receiver.answers = [503]
    receiver.extra = {"retry-after": value.encode().decode("latin-1")}
    async with running(tmp_path, Endpoint("ops", receiver.url, SECRET)) as hooks:
        hooks.send(SPENT)
        await until(lambda: hooks.waiting == 0)
    assert len(receiver.got) == 2


@given(st.integers(1, 10**4), st.integers(0, 30 * 3600 * SECOND), st.floats(0, 1), st.integers(0, 10**13))
def test_the_schedule(attempts: int, age: int, spread: float, retry_after: int) -> None:
    tried, now, retries = delivery(attempts=attempts), AT + age, Retries()
    at = retries.next_us(tried, now, spread, retry_after)
    longest = min(2 * SECOND * 2 ** min(attempts - 1, 40), 3600 * SECOND)
    if at is None:
        assert age + max(longest, retry_after) > retries.give_up_us
    else:
        assert at <= AT + retries.give_up_us
        assert max(longest // 2, retry_after) <= at - now <= max(longest, retry_after)


def test_a_day_of_failures_is_some_forty_attempts() -> None:
    tried, now, attempts = delivery(attempts=0), AT, 0
    while True:
        tried = replace(tried, attempts=tried.attempts + 1)
        again = Retries().next_us(tried, now, 0.5)
        if again is None:
            break
        now, attempts = again, attempts + 1
    assert 30 <= attempts <= 60
    assert now - AT > 22 * 3600 * SECOND


def test_the_signature_of_the_specification() -> None:
    """The example of the reference libraries."""
    head = headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert head["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "whsec_short", "hunter2hunter2hunter2hunter2hunter2", "whsec_" + "!" * 40, "whsec_é" + "A" * 40],
)
def test_a_bad_secret_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(ValueError, match="'ops': expected a secret of whsec_") as caught:
        Endpoint("ops", "https://example.com/", secret)
    assert len(secret) < 7 or secret not in str(caught.value)
    assert signing_key(SECRET) == KEY


@pytest.mark.parametrize(
    "url", ["ftp://h/TOP", "file:///TOP", "h/TOP", "http:///TOP", "http://h:x/TOP", "", "javascript:TOP"]
)
def test_only_http_urls_are_taken(url: str) -> None:
    with pytest.raises(ValueError, match="webhook 'ops'") as caught:
        Endpoint("ops", url, SECRET)
    assert "TOP" not in str(caught.value)


def test_ids_are_the_same_for_the_same_and_differ_for_others() -> None:
    assert event_id(SPENT) == event_id(replace(SPENT, at_us=AT + 5, spent=99 * PICO))
    rolling = replace(ACCOUNT, window=Window.rolling("day"))
    events: list[Event] = [
        SPENT,
        WARNED,
        RESTORED,
        replace(WARNED, threshold=Fraction(1, 2)),
        replace(SPENT, window=(0, 1)),
        replace(SPENT, account=replace(ACCOUNT, owner="bob")),
        replace(SPENT, account=rolling),
        replace(SPENT, account=rolling, at_us=AT + 1),
        replace(RESTORED, at_us=AT + 1),
    ]
    assert len({event_id(event) for event in events}) == len(events)
    assert not any("." in event_id(event) for event in events)


@given(st.integers(0, 10**30))
def test_money_is_told_exactly(amount: int) -> None:
    used = json.loads(payload(replace(RESTORED, spent=amount)))["used"]
    assert Fraction(used) * PICO == amount


def test_each_kind_has_its_own_fields() -> None:
    warned, restored = json.loads(payload(WARNED)), json.loads(payload(RESTORED))
    assert (warned["type"], warned["threshold"], "until" in warned) == ("budget.warn", 0.8, False)
    assert (restored["type"], "threshold" in restored, "until" in restored) == ("budget.reset", False, False)
    tokens = json.loads(payload(replace(SPENT, account=replace(ACCOUNT, unit="tokens", amount=100), spent=120)))
    assert (tokens["account"]["unit"], tokens["used"], tokens["amount"]) == ("tokens", "120", "100")
