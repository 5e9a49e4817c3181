"""What tests of the collector start from: lines as Envoy writes them, an accounting document, a collector."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson
import structlog

from extproc.usage.accounting import Accounting, AccountSpec, Provider, dump
from extproc.usage.collector import Collector, Paths
from extproc.usage.entries import BEGIN, END, FIELDS, SEPARATOR
from extproc.usage.ledger import Ledger
from extproc.usage.record import UsageRecord

T = TypeVar("T")

MAY_1 = 1_777_593_600_000_000  # 2026-05-01T00:00:00Z
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
PROVIDERS = {
    "openai": Provider("openai", "openai", "api.openai.com"),
    "farm": Provider("farm", "openai", "farm.example"),
}
PRICES = {"": {"m*": {"input": "1", "output": "2"}}}


def fields(number: int = 0, **changes: object) -> dict[str, object]:
    """One request as Envoy 1.40 wrote it; None for what it does not know."""
    values: dict[str, object] = {
        "id": f"90292ccb-{number}",
        "at": str(MAY_1 + number),
        "cluster": "openai",
        "attempts": 1,
        "status": 200,
        "flags": "-",
        "details": "via_upstream",
        "path": "/v1/chat/completions",
        "type": "application/json",
        "first": 1656,
        "took": 1713,
        "ms": 1,
        "in": 57,
        "out": 575,
        "from": "127.0.0.1",
        "client": "acme/search/alice;standard;",
        "model": "m",
        "instead": "",
        "answered": "m",
        "usage": orjson.dumps(USAGE).decode(),
    }
    return {name: changes.get(name, value) for name, value in values.items()}


def line(number: int = 0, **changes: object) -> bytes:
    """The fields as a line. `client` None is a request that did not get as far as being read."""
    values = fields(number, **changes)
    if values["client"] is None:
        values = {name: value for name, value in values.items() if name in dict(FIELDS)} | {"client": None}
    elif values["usage"] is None:
        del values["usage"]
    texts = ["-" if value is None else str(value) for value in values.values()]
    return f"{BEGIN}{SEPARATOR.join(texts)}{END}\n".encode()


def accounting(*accounts: AccountSpec, **changes: Any) -> Accounting:
    return Accounting(
        PROVIDERS, prices=changes.get("prices", PRICES), accounts=accounts, asked=changes.get("asked", {})
    )


@dataclass
class NoEnvoy:
    """An Envoy's admin interface: counts what it is asked, and begins a new log when it is told to."""

    log: Path
    reopened: int = 0
    failed: int | None = 0
    opens: bool = True

    def reopen_logs(self) -> None:
        self.reopened += 1
        if self.opens:
            self.log.touch()

    def failed_writes(self) -> int | None:
        return self.failed


@dataclass
class Place:
    """A folder with all that a collector works on; `collector()` is one that begins anew on it."""

    folder: Path
    url: str = ""
    envoy: NoEnvoy = field(init=False)
    ledgers: list[Ledger] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.url = self.url or f"sqlite:///{self.folder / 'ledger.db'}"
        self.envoy = NoEnvoy(self.log)

    @property
    def log(self) -> Path:
        return self.folder / "requests.log"

    @property
    def paths(self) -> Paths:
        names = ("accounting.json", "standing.json", "memory", "beat")
        return Paths(self.log, *(self.folder / name for name in names))

    def document(self, *accounts: AccountSpec, **changes: Any) -> None:
        fresh = self.folder / "fresh.json"
        fresh.write_bytes(dump(accounting(*accounts, **changes)))
        fresh.replace(self.paths.document)

    def append(self, *lines: bytes, to: str = "requests.log") -> None:
        with (self.folder / to).open("ab") as file:
            file.write(b"".join(lines))

    def collector(self, **settings: Any) -> Collector:
        ledger = Ledger(self.url)
        self.ledgers.append(ledger)
        return Collector(self.paths, ledger, self.envoy, **settings)  # type: ignore[arg-type]

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.paths.standing.read_bytes())
        return found

    def alarms(self) -> dict[str, str]:
        return {alarm["name"]: alarm["message"] for alarm in self.told()["alarms"]}

    def records(self) -> tuple[UsageRecord, ...]:
        """All that the ledger holds, oldest first."""
        with Ledger.open(self.url) as ledger:
            return tuple(reversed(ledger.records(limit=100_000)))

    def close(self) -> None:
        for ledger in self.ledgers:
            ledger.close()


def drained(collector: Collector) -> Collector:
    """After it read all that there is."""
    while collector.step():
        pass
    return collector


def errors(logged: Iterable[Any]) -> list[str]:
    return [entry["event"] for entry in logged if entry["log_level"] == "error"]


def logging() -> Any:
    return structlog.testing.capture_logs()


def parts(content: bytes, sizes: Callable[[], int]) -> list[bytes]:
    """Content cut at any place."""
    found, at = [], 0
    while at < len(content):
        size = max(1, sizes())
        found.append(content[at : at + size])
        at += size
    return found
