"""The collector: access log -> records -> ledger, and which accounts are spent. A process of its own.

It may be killed at any time: how far the log was read is stored with what was read, so that every entry counts once.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from extproc.usage import accounting, log, memory
from extproc.usage.alarms import Alarms
from extproc.usage.billing import Billing
from extproc.usage.counting import Counting
from extproc.usage.denials import Denials, denial
from extproc.usage.entries import EntryError, parse
from extproc.usage.envoy import Envoy
from extproc.usage.estimate import Estimator
from extproc.usage.heartbeat import Heartbeat
from extproc.usage.ledger import Ledger, LedgerUnavailable, RefusedRecordError
from extproc.usage.memory import Memory
from extproc.usage.pruning import Pruning
from extproc.usage.record import REQUEST_ID_LIMIT, UsageRecord
from extproc.usage.refused import Refused
from extproc.usage.reserve import Reserve
from extproc.usage.standing import Told
from extproc.usage.webhooks.courier import Courier

_log = structlog.get_logger()
ROTATE = 64 << 20  # bytes of an access log, after which a new one is begun
_SAVE_S = 5.0  # between saves of what the estimator learned
_RETRY_S = 1.0  # while the ledger is away
_REOPEN_S = 1.0  # between requests to Envoy to begin a new log


@dataclass(frozen=True, slots=True)
class Paths:
    """The access log; the accounting document; what the collector tells; what it learned; that it goes on."""

    log: Path
    document: Path
    standing: Path
    memory: Path
    heartbeat: Path

    @property
    def refused(self) -> Path:
        return self.standing.with_name("refused.jsonl")

    @property
    def denials(self) -> Path:
        return self.standing.with_name("denials.json")

    @property
    def reserve(self) -> Path:
        return self.log.with_name("reserve")


class Collector:
    """Reads what Envoy writes, in steps. Raises LedgerError only for a ledger that can never be used."""

    def __init__(
        self,
        paths: Paths,
        ledger: Ledger,
        envoy: Envoy,
        *,
        rotate: int = ROTATE,
        reserve: Reserve | None = None,
        courier: Courier | None = None,
        pruning: Pruning | None = None,
    ) -> None:
        """`rotate`: bytes of a log, all read, after which a new one is begun. `courier`: where webhooks are served."""
        self._paths, self._ledger, self._envoy, self._rotate = paths, ledger, envoy, rotate
        self._alarms = Alarms()
        self._reserve = reserve or Reserve(paths.reserve, self._alarms)
        self._courier = courier
        self._pruning = pruning or Pruning(ledger)
        self._heartbeat = Heartbeat(paths.heartbeat)
        self._refused = Refused(paths.refused)
        self._denials = Denials(paths.denials)
        self._reached = False  # the ledger, once
        self._estimator = Estimator()
        self._counting = Counting(ledger)
        self._accounting = accounting.NOTHING
        self._billing = Billing(self._accounting, self._estimator)
        self._document: tuple[int, int, int] | None = None  # the accounting document that was read last
        self._billed: tuple[log.Block, list[UsageRecord]] | None = None  # not learned from again if it is refused
        self._told = Told(paths.standing)
        self._saved = time.monotonic()
        self._retry_at = self._reopen_at = 0.0
        self._recall()

    def step(self) -> bool:
        """Takes the next block of the log, if there is one, and settles accounts. Whether there was any."""
        took = time.monotonic() >= self._retry_at and self._work()
        self._reserve.watch()
        if self._reserve.due():
            self._reserve.look(self._envoy.failed_writes())
        self._settle()
        if time.monotonic() - self._saved > _SAVE_S:
            self.save()
        if self._reached:
            self._heartbeat.beat()
        return took

    def finish(self) -> None:
        """Leaves everything as it stands for the next one."""
        self._settle(at_once=True)
        self.save()

    def save(self) -> None:
        """Keeps what the estimator learned and which warnings were given."""
        self._saved = time.monotonic()
        try:
            memory.write(self._paths.memory, Memory(self._estimator.dump(), self._counting.dump()))
            self._alarms.clear("memory")
        except OSError as error:
            self._reserve.report(error)
            self._alarms.set("memory", f"cannot write {self._paths.memory}: {error.strerror or error}")

    def _work(self) -> bool:
        try:
            if not self._reached:
                self._ledger.prepare()
                self._reached = True
            self._follow_document()
            took = not self._counting.seed(now_us()) or self._take()
            if self._accounting.retention is not None:
                self._pruning.work(self._accounting.retention, now_us())
        except LedgerUnavailable as error:
            self._reserve.report(error)
            self._alarms.set("ledger", f"usage waits in {self._paths.log}: {error}")
        except OSError as error:
            self._reserve.report(error)
            self._alarms.set("log", f"cannot read {self._paths.log}: {error.strerror or error}")
        else:
            self._alarms.clear("ledger")
            self._alarms.clear("log")
            return took
        self._retry_at = time.monotonic() + _RETRY_S
        return False

    def _recall(self) -> None:
        try:
            found = memory.read(self._paths.memory)
            if found is None:
                return
            problem = self._estimator.load(found.estimator)
            self._counting.recall(found.budgets)
        except (OSError, ValueError) as error:
            problem = str(error)
        if problem:
            _log.warning("what was learned is lost", file=str(self._paths.memory), reason=problem)

    def _follow_document(self) -> None:
        """Takes over the accounting of a newly applied policy; one that cannot be used changes nothing."""
        try:
            found = self._paths.document.stat()
            written = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._document == written:
                return
            new = accounting.read(self._paths.document)
            self._document = written
            billing = Billing(new, self._estimator)
            self._counting.replace(spec.account() for spec in new.accounts)
        except (OSError, ValueError, ArithmeticError) as error:  # the last is decimal's
            self._document = None
            self._alarms.set("document", f"usage is counted as before the last policy: {error}")
            return
        self._accounting, self._billing = new, billing
        self._alarms.clear("document")

    def _take(self) -> bool:
        active = self._paths.log
        # Before the others are read: Envoy closes its old log before it begins a new one, so these are complete then.
        closed = active.exists()
        if not closed and time.monotonic() >= self._reopen_at:
            self._reopen_at = time.monotonic() + _REOPEN_S
            self._envoy.reopen_logs()
        return any(self._take_from(path, last=closed) for path in log.aside(active)) or self._take_from(active)

    def _take_from(self, path: Path, *, last: bool = False) -> bool:
        """Takes a block of one file, and puts it aside when it is long.

        `last`: nothing is written to it any more, so that it goes when it was read.
        """
        name = log.identify(path, last=last)
        if name is not None:
            position = self._ledger.position(name)
            block = log.read(path, name, position, last=last)
            # An Envoy that cannot make its new log, since the disk is full, never tries again.
            if path == self._paths.log and position >= self._rotate and self._reserve.held:
                log.put_aside(path)
                self._reopen_at = 0.0
            if block.content:
                self._write(block)
                return True
        if last:
            if name is not None:
                self._ledger.forget(name)
            path.unlink(missing_ok=True)
        return False

    def _write(self, block: log.Block) -> None:
        if self._billed is None or self._billed[0] != block:
            self._billed = block, self._records(block)
        records = self._billed[1]
        while True:
            try:
                self._counting.add(self._ledger.write(records, block.log, block.end))
                break
            except RefusedRecordError as error:
                _log.error("a record was refused", record=error.record, problem=error.problem)
                for record in [record for record in records if record.id == error.record]:
                    self._refused.add(record, error.problem)
                    records.remove(record)
                self._billed = block, records  # if the ledger goes away now, they are not set aside again
            except LedgerUnavailable:
                self._counting.doubt()  # the connection may have been lost after all was written
                raise
        self._billed = None

    def _records(self, block: log.Block) -> list[UsageRecord]:
        records = []
        suffix = block.log[:8]
        for at, line in block.lines():
            try:
                entry = parse(line)
            except EntryError as error:
                _log.error(
                    "an entry of the access log is damaged", file=str(self._paths.log), offset=at, reason=str(error)
                )
                continue
            billed = self._billing.bill(entry, f"{entry.id[:REQUEST_ID_LIMIT]}.{suffix}{at:x}")
            if billed is None:
                if refused := denial(entry):
                    self._denials.add(refused, time.monotonic())
                continue
            records.append(billed.record)
            if billed.problem:
                self._alarms.note("usage", billed.record.provider, billed.problem)
        return records

    def _settle(self, *, at_once: bool = False) -> None:
        """Tells how accounts stand: at once when that changes what the edge must do."""
        now = now_us()
        events = self._counting.settle(now)
        if events or self._told.due() or at_once:
            self._tell(now, at_once=at_once)
        if events and self._courier is not None:
            self._courier.send(events)
            self.save()  # now that they are in safe hands, they need not be raised again after a crash

    def _tell_denials(self, *, at_once: bool) -> None:
        try:
            self._denials.tell(at_once=at_once)
            self._alarms.clear("denials")
        except OSError as error:
            self._reserve.report(error)
            self._alarms.set("denials", f"cannot write {self._paths.denials}: {error.strerror or error}")

    def _tell(self, now: int, *, at_once: bool) -> None:
        self._tell_denials(at_once=at_once)
        self._alarms.only("ledger", {"refused": alarm} if (alarm := self._refused.alarm()) else {})
        if self._courier is not None:
            self._alarms.only("webhook", self._courier.troubles())
        try:
            self._told.tell(self._counting.standings(now), self._alarms.list())
            self._alarms.clear("standing")
        except OSError as error:
            self._reserve.report(error)
            self._alarms.set(
                "standing", f"cannot tell what is spent: {self._paths.standing}: {error.strerror or error}"
            )


def now_us() -> int:
    return time.time_ns() // 1000
