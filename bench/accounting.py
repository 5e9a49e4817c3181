"""What accounting costs: the collector's CPU per record, and how many records a second its ledger keeps up with."""

import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.procs import cpu_us, running
from extproc.usage import accounting, log
from extproc.usage.accounting import Accounting, Provider
from extproc.usage.entries import BEGIN, END, FIELDS, SEPARATOR
from extproc.usage.ledger import Ledger

RECORDS = 100_000
_TURNS = 3
_DEADLINE_S = 120.0
_ACCOUNTING = Accounting(
    {"up": Provider("up", "openai", "api.openai.com")}, prices={"": {"gpt-*": {"input": "1", "output": "2"}}}
)


@dataclass(frozen=True, slots=True)
class Collecting:
    """CPU microseconds of the collector per record, and records per second, on SQLite."""

    cpu_us: float
    per_second: float


def collector_costs(folder: Path) -> Collecting:
    """The collector takes a log of answers by 10 models to 100 keys: all ids are random, no two answers are alike.

    The least of some turns, each with a database of its own.
    """
    turns = []
    for turn in range(_TURNS):
        own = folder / f"collector-{turn}"
        own.mkdir()
        turns.append(_turn(own))
    return min(turns, key=lambda turn: turn.cpu_us)


def _turn(folder: Path) -> Collecting:
    path, document = folder / "requests.log", folder / "accounting.json"
    document.write_bytes(accounting.dump(_ACCOUNTING))
    argv = [sys.executable, "-m", "extproc.usage", "--log", str(path), "--document", str(document)]
    argv += ["--standing", str(folder / "standing.json"), "--memory", str(folder / "memory.json")]
    argv += ["--heartbeat", str(folder / "beat"), "--outbox", str(folder / "outbox")]
    argv += ["--envoy-admin", str(folder / "no.sock")]
    url = f"sqlite:///{folder / 'ledger.db'}"
    with running(argv, folder / "usage.log", env={**os.environ, "HEADGATE_LEDGER": url}) as process:
        _wait((folder / "standing.json").exists)
        before = cpu_us(process.pid)
        path.write_bytes(_entries())
        began = time.perf_counter()
        name = log.identify(path)
        with Ledger.open(url) as ledger:
            _wait(lambda: ledger.position(str(name)) == path.stat().st_size)
        took = time.perf_counter() - began
        used = cpu_us(process.pid) - before
        process.send_signal(signal.SIGTERM)
    return Collecting(used / RECORDS, RECORDS / took)


def _entries() -> bytes:
    now, chance = time.time_ns() // 1000, random.Random(1)
    lines = []
    for number in range(RECORDS):
        put_in, put_out = chance.randrange(10, 3000), chance.randrange(5, 500)
        usage = (
            f'{{"prompt_tokens":{put_in},"completion_tokens":{put_out},"total_tokens":{put_in + put_out},'
            '"prompt_tokens_details":{"cached_tokens":0}}'
        )
        known = {
            "id": uuid.UUID(int=chance.getrandbits(128), version=4), "at": now + number * 10, "cluster": "up",
            "attempts": 1, "status": 200, "flags": "-", "details": "via_upstream", "path": "/v1/chat/completions",
            "type": "application/json", "first": 410_000 + number % 9000, "took": 410_000 + put_out * 8_000, "ms": 900,
            "in": put_in * 4 + number % 200, "out": put_out * 4 + 350 + number % 40, "from": "10.0.0.9",
        }  # fmt: skip
        values = [known[name] for name, _ in FIELDS]
        values += [f"key-{number % 100}", f"gpt-{number % 10}", "", "gpt-4o-mini", usage]
        lines.append(BEGIN + SEPARATOR.join(map(str, values)) + END)
    return ("\n".join(lines) + "\n").encode()


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the collector does not keep up")
        time.sleep(0.05)
