"""The collector: access log -> records -> ledger, and which accounts are spent. A process of its own.

It may be killed at any time: how far the log was read is stored with what was read, so that every entry counts once.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from extproc.usage import accounting, log
from extproc.usage.accounting import Accounting
from extproc.usage.alarms import Alarms
from extproc.usage.billing import Billing
from extproc.usage.budgets import Account, Budgets, Standing
from extproc.usage.entries import EntryError, parse
from extproc.usage.estimate import Estimator
from extproc.usage.files import replace
from extproc.usage.ledger import Ledger, LedgerUnavailable, RefusedRecordError
from extproc.usage.record import UsageRecord

_log = structlog.get_logger()
_ROTATE = 64 << 20  # bytes of an access log, after which a new one is begun
_SAVE_S = 5.0  # between saves of what the estimator learned
_TELL_S = 1.0  # between reports of accounts of which none was spent or restored
_RETRY_S = 1.0  # while the ledger is away


@dataclass(frozen=True, slots=True)
class Paths:
    """The access log; the accounting document; what the collector tells; what it learned."""

    log: Path
    document: Path
    standing: Path
    memory: Path


class Collector:
    """`reopen` makes Envoy begin a new log, and says whether it was told."""

    def __init__(self, paths: Paths, ledger: Ledger, reopen: Callable[[], bool]) -> None:
        self._paths, self._ledger, self._reopen = paths, ledger, reopen
        self._alarms = Alarms()
        self._estimator = Estimator()
        self._budgets = Budgets(())
        self._accounting: Accounting = accounting.NOTHING
        self._billing = Billing(self._accounting, self._estimator)
        self._document: tuple[int, int] | None = None  # when the accounting document was written, and its size
        self._told, self._tell_at = b"", 0.0
        self._saved = time.monotonic()
        self._retry_at = 0.0
        self._unseeded: list[Account] = []
        self._memory: dict[str, Any] | None = None  # of budgets, until the accounts are known
        self._recall()

    def step(self) -> bool:
        """Takes the next block of the log, if there is one, and settles accounts. Whether there was any."""
        if time.monotonic() < self._retry_at:
            return False
        try:
            self._follow_document()
            self._seed()
            took = self._take()
            self._alarms.clear("ledger")
        except LedgerUnavailable as error:
            self._alarms.set("ledger", f"usage waits in {self._paths.log}: {error}")
            self._retry_at = time.monotonic() + _RETRY_S
            took = False
        self._settle()
        if time.monotonic() - self._saved > _SAVE_S:
            self.save()
        return took

    def save(self) -> None:
        """Keeps what the estimator learned and which warnings were given."""
        self._saved = time.monotonic()
        memory = {"estimator": self._estimator.dump(), "budgets": self._budgets.dump()}
        try:
            replace(self._paths.memory, json.dumps(memory).encode())
            self._alarms.clear("memory")
        except OSError as error:
            self._alarms.set("memory", f"cannot write {self._paths.memory}: {error.strerror}")

    def _recall(self) -> None:
        try:
            memory = json.loads(self._paths.memory.read_bytes())
            problem = self._estimator.load(memory["estimator"])
            self._memory = memory["budgets"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = str(error)
        if problem:
            _log.warning("what was learned is lost", file=str(self._paths.memory), reason=problem)

    def _follow_document(self) -> None:
        """Takes over the accounting of a newly applied policy."""
        try:
            found = self._paths.document.stat()
            if self._document == (found.st_mtime_ns, found.st_size):
                return
            self._accounting = accounting.read(self._paths.document)
            self._document = (found.st_mtime_ns, found.st_size)
            self._alarms.clear("document")
        except (OSError, ValueError) as error:
            self._alarms.set("document", f"usage is counted as before the last policy: {error}")
            return
        self._billing = Billing(self._accounting, self._estimator)
        self._unseeded += self._budgets.replace(spec.account() for spec in self._accounting.accounts)

    def _seed(self) -> None:
        """Fetches from the ledger what new accounts have spent. The rest waits while it is away."""
        while self._unseeded:
            account = self._unseeded[0]
            for since, until in stretches(account, now_us()):
                spent = self._ledger.spent(account.owner_kind, account.owner, since, until)
                amount = {"pico": spent.cost_pico, "tokens": spent.tokens, "requests": spent.requests}[account.unit]
                if amount:
                    self._budgets.seed(account, amount, since)
            self._unseeded.pop(0)
        if self._memory is not None and self._document is not None:
            self._budgets.load(self._memory)
            self._memory = None

    def _take(self) -> bool:
        active = self._paths.log
        for path in (*log.aside(active), active):
            name = log.identify(path)
            if name is None:
                continue
            position = self._ledger.position(name)
            block = log.read(path, name, position)
            if block.content:
                self._write(block)
                return True
            if path != active and active.exists():
                path.unlink()
                self._ledger.forget(name)
            elif path == active and position > _ROTATE:
                log.put_aside(path)
        if not active.exists() and log.aside(active):
            self._reopen()
        return False

    def _write(self, block: log.Block) -> None:
        records = self._records(block)
        while True:
            try:
                new = self._ledger.write(records, block.log, block.end)
                break
            except RefusedRecordError as error:
                _log.error("a record was refused", record=error.record, problem=error.problem)
                records = [record for record in records if record.id != error.record]
        for record in new:
            self._budgets.add(record)

    def _records(self, block: log.Block) -> list[UsageRecord]:
        records = []
        for at, line in block.lines():
            try:
                entry = parse(line)
            except EntryError as error:
                _log.error(
                    "an entry of the access log is damaged", file=str(self._paths.log), offset=at, reason=str(error)
                )
                continue
            billed = self._billing.bill(entry, f"{entry.id}.{block.log[:4]}{at:x}")
            if billed is None:
                continue
            records.append(billed.record)
            if billed.problem:
                self._alarms.note("usage", billed.record.provider, billed.problem)
        return records

    def _settle(self) -> None:
        """Tells how accounts stand, whenever that changes what the edge must do."""
        now = now_us()
        events = self._budgets.settle(now)
        for event in events:
            what, account = type(event).__name__.lower(), event.account
            _log.info(what, budget=account.budget, owner=account.owner or "everyone")
        if not events and time.monotonic() < self._tell_at:
            return
        self._tell_at = time.monotonic() + _TELL_S
        accounts = [_shown(each) for each in self._budgets.spent_now(now)]
        told = orjson.dumps({"version": 1, "accounts": accounts, "alarms": self._alarms.list()})
        if told != self._told:
            replace(self._paths.standing, told)
            self._told = told


def stretches(account: Account, now: int) -> list[tuple[int, int]]:
    """The stretches of time whose spending counts now, as `Budgets.seed` wants them, in microseconds."""
    since = account.window.counted_from(now)
    if account.window.period is not None:
        return [(since, now + 1)]
    step = account.window.step_us
    return [(start, start + step) for start in range(since, now + 1, step)]


def now_us() -> int:
    return time.time_ns() // 1000


def _shown(standing: Standing) -> dict[str, object]:
    account = standing.account
    return {
        "budget": account.budget,
        "owner_kind": account.owner_kind,
        "owner": account.owner,
        "unit": account.unit,
        "used": standing.used,
        "amount": standing.amount,
        "window": standing.window,
        "on_spent": account.on_spent,
        "until_us": standing.until_us,
    }
