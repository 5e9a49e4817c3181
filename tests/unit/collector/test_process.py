"""`python -m extproc.usage`, killed again and again, and ended in order."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from extproc.usage.accounting import AccountSpec
from extproc.usage.collector import now_us
from extproc.usage.ledger import Ledger
from tests.unit.collector.given import Place, line

ROOT = Path(__file__).resolve().parents[3]
ALL = AccountSpec("all", "", "", "tokens", 10**9, period="month")


class Process:
    """The collector on a place, with a log that is put aside every 64 KiB. Ended with the test."""

    def __init__(self, place: Place, url: str | None = None) -> None:
        self._place, self._url = place, place.url if url is None else url
        self._process: subprocess.Popen[bytes] | None = None
        self.output = place.folder / "output"

    def start(self) -> None:
        paths = self._place.paths
        argv = [sys.executable, "-m", "extproc.usage", "--log", paths.log, "--document", paths.document]
        argv += [
            "--standing",
            paths.standing,
            "--memory",
            paths.memory,
            "--heartbeat",
            paths.heartbeat,
            "--outbox",
            paths.log.with_name("outbox"),
            "--rotate",
            str(1 << 16),
        ]
        argv += ["--envoy-admin", self._place.folder / "no-envoy.sock"]
        env = {**os.environ, "HEADGATE_LEDGER": self._url}
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(list(map(str, argv)), cwd=ROOT, env=env, stdout=output, stderr=output)

    def end(self, number: int) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(60)

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(60)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def process(place: Place) -> Iterator[Process]:
    made = Process(place)
    yield made
    made.close()


def until(done: Callable[[], bool], what: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, what
        meanwhile()
        time.sleep(0.005)


class Writer:
    """Writes as Envoy does: any part of a line at a time, and to the file that it has open until it is renamed."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._left = b""
        self.written: list[int] = []
        self._file = place.log.open("ab", buffering=0)

    def some(self) -> None:
        for _ in range(random.randrange(20)):
            number = len(self.written)
            self.written.append(number)
            self._left += line(number, at=str(now_us()), id=f"{number}", **{"in": number + 1})
        size = random.randrange(4000)
        self._file.write(self._left[:size])
        self._left = self._left[size:]

    def rest(self) -> None:
        self._file.write(self._left)
        self._left = b""

    def reopen(self) -> None:
        if not self._place.log.exists():
            self.rest()
            self._file.close()
            self._file = self._place.log.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def writer(place: Place) -> Iterator[Writer]:
    random.seed(11)
    made = Writer(place)
    yield made
    made.close()


def test_each_entry_once_whenever_it_is_killed(place: Place, process: Process, writer: Writer) -> None:
    place.document(ALL)
    with Ledger.open(place.url) as ledger:

        def recorded() -> int:
            return ledger.spent("", "", 0, 1 << 53).requests

        def write() -> None:
            writer.some()
            writer.reopen()

        for _ in range(3):
            process.start()
            before = recorded()
            goal = before + random.randrange(1, 400)
            until(lambda goal=goal: recorded() >= goal, "it reads", write)  # type: ignore[misc]
            process.end(signal.SIGKILL)
        process.start()
        # At least one more: that it is counted says that the last process runs, and so ends in order.
        before = recorded()
        until(lambda: recorded() > before, "it reads", write)
        writer.rest()
        until(lambda: recorded() >= len(writer.written), "it reads everything", writer.reopen)
        assert process.end(signal.SIGTERM) == 0
        spent = ledger.spent("", "", 0, 1 << 53)
    records = place.records()
    assert sorted(int(record.id.split(".")[0]) for record in records) == writer.written
    assert sorted(record.bytes_in for record in records) == [number + 1 for number in writer.written]
    assert (spent.requests, spent.tokens, spent.cost_pico) == (
        len(records),
        15 * len(records),
        20 * 10**6 * len(records),
    )
    assert len(writer.written) > 300, "the log was put aside meanwhile"
    (account,) = orjson.loads(place.paths.standing.read_bytes())["accounts"]
    assert account["used"] == 15 * len(records)
    assert b"damaged" not in process.output.read_bytes()


def test_it_ends_when_it_has_read_what_is_there(place: Place, process: Process) -> None:
    process.start()
    until(place.paths.standing.exists, "it runs")
    place.append(*(line(number) for number in range(5000)))
    assert process.end(signal.SIGTERM) == 0
    assert len(place.records()) == 5000
    assert place.paths.memory.exists()


def test_it_ends_though_the_ledger_is_away(place: Place) -> None:
    place.append(line(1))
    process = Process(place, f"sqlite:///{place.folder}/absent/ledger.db")
    try:
        process.start()
        until(place.paths.standing.exists, "it runs")
        assert process.end(signal.SIGINT) == 0
    finally:
        process.close()
    assert "ledger" in place.alarms()


def test_a_ledger_that_can_never_be_used_ends_it_with_a_reason(place: Place) -> None:
    process = Process(place, "mysql://user:pa55@host/x")
    try:
        process.start()
        assert process.wait() == 1
    finally:
        process.close()
    output = process.output.read_text()
    assert "expected a file, sqlite:///PATH, or postgresql://USER@HOST/NAME" in output
    assert "pa55" not in output and "Traceback" not in output
