"""What accounting costs: the collector's CPU per record, and how many records a second its ledger keeps up with."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.procs import cpu_us, running
from extproc.usage import accounting, log
from extproc.usage.accounting import Accounting, Provider
from extproc.usage.ledger import Ledger

RECORDS = 100_000
_DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Collecting:
    """CPU microseconds of the collector per record, and records per second, on SQLite."""

    cpu_us: float
    per_second: float


def collector_costs(folder: Path) -> Collecting:
    """The collector takes a log of answers by 10 models to 100 keys."""
    path, document = folder / "requests.log", folder / "accounting.json"
    document.write_bytes(accounting.dump(Accounting({"up": Provider("up", "openai", "api.openai.com")})))
    argv = [sys.executable, "-m", "extproc.usage", "--log", str(path), "--document", str(document)]
    argv += ["--standing", str(folder / "standing.json"), "--memory", str(folder / "memory.json")]
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
    now = time.time_ns() // 1000
    usage = '{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0}}'
    lines = []
    for number in range(RECORDS):
        entry = {
            "answer": f"gpt-4o-mini\n{usage}", "at": str(now + number * 10), "attempts": 1, "cluster": "up",
            "details": "via_upstream", "first": 410_000 + number % 9000, "flags": "-", "from": "10.0.0.9",
            "id": f"8b446297-6232-4103-8aac-{number:012x}", "in": 250, "ms": 900, "out": 600,
            "path": "/v1/chat/completions", "request": f"-key-{number % 100}\ngpt-{number % 10}", "status": 200,
            "took": 900_000 + number % 9000, "type": "application/json",
        }  # fmt: skip
        lines.append(json.dumps(entry, separators=(",", ":")))
    return ("\n".join(lines) + "\n").encode()


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the collector does not keep up")
        time.sleep(0.05)
