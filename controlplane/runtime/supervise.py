"""Keeps Envoy and the sidecars running, and finds them again when the control plane itself was the one to die."""

import asyncio
import fcntl
import os
import signal
from collections import defaultdict
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
import structlog

from controlplane.runtime import logfile
from controlplane.runtime.child import Backoff, Child, ProcessState, StartError, Status
from controlplane.runtime.folder import RunFolder, RunFolderError
from controlplane.runtime.process import Running, boot, end_family, family, identity, raise_file_limit

_log = structlog.get_logger(__name__)
_LOG_CHECK_S = 5.0
_AFTER_KILL_S = 5.0
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of a child, and where its part of the log begins."""

    running: Running
    since: datetime
    log_start: int


class _Slot:
    """What the supervisor knows of one child."""

    def __init__(self, child: Child, run: _Run) -> None:
        self.child = child
        self.restarts = 0
        self.last_exit: str | None = None
        self.last_log: tuple[str, ...] = ()
        self.tending: asyncio.Task[None] | None = None
        self.enter_run(run)

    def enter_run(self, run: _Run) -> None:
        self.running: Running | None = run.running
        self.adopted, self.log_start = run.running.adopted, run.log_start
        self.status, self.since = Status.RUNNING, run.since

    def enter(self, status: Status) -> None:
        self.status, self.since = status, datetime.now(UTC)

    def state(self) -> ProcessState:
        pid = self.running.pid if self.running else None
        return ProcessState(
            self.child.name,
            self.status,
            self.since,
            pid,
            self.adopted,
            self.restarts,
            self.last_exit,
            self.last_log,
        )


class Supervisor:
    """Starts or adopts children, restarts them when they end, stops them when it is left.

    Leaving the context, by an error or a cancellation too, stops the children in the reverse order of their
    start: start what Envoy needs before Envoy. A cancellation while they drain ends the wait. If this process is
    killed instead, the children go on, and the next supervisor of the same folder adopts them.
    Hold `folder.lock` meanwhile: two supervisors of one folder would fight.
    """

    def __init__(self, folder: RunFolder, backoff: Backoff | None = None) -> None:
        self._folder = folder
        self._backoff = backoff or Backoff()
        self._slots: dict[str, _Slot] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # of each name, one change at a time
        self._hold: int | None = None
        self._hurried = False

    async def __aenter__(self) -> Self:
        raise_file_limit()
        # Cleaners of temporary folders leave alone what is locked: the records must outlast their patience.
        self._hold = os.open(self._folder.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._hold, fcntl.LOCK_SH)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop_all()
        finally:
            self._let_go()

    def states(self) -> tuple[ProcessState, ...]:
        """How the children are, in the order of their start."""
        return tuple(slot.state() for slot in self._slots.values())

    async def start(self, child: Child) -> ProcessState:
        """Has the child run: adopts a running process of the same fingerprint, replaces one of another.

        Raises:
            StartError: the program cannot be executed.
            RunFolderError: the run folder cannot be written.
        """
        async with self._locks[child.name]:
            slot = self._slots.get(child.name)
            if slot is not None:
                if slot.child.fingerprint() == child.fingerprint():
                    slot.child = child
                    return slot.state()
                await self._stop(slot)
            slot = self._slots[child.name] = _Slot(child, await self._found(child) or await self._started(child))
            slot.tending = asyncio.create_task(self._tend(slot), name=f"tend-{child.name}")
            return slot.state()

    async def stop(self, name: str) -> None:
        """Stops a child gracefully; nothing happens when there is none of this name."""
        async with self._locks[name]:
            if name in self._slots:
                await self._stop(self._slots[name])

    async def clear(self, name: str) -> None:
        """Stops what an earlier supervisor left behind under a name, which is not that of a child."""
        async with self._locks[name]:
            left = self._left_behind(name)
            if name in self._slots or left is None:
                return
            await _end(left[0], Child(name, ()))
            self._folder.record(name).unlink(missing_ok=True)

    def hurry(self) -> None:
        """From now on children are stopped without being drained."""
        self._hurried = True

    def kill(self, name: str) -> None:
        """Ends a child at once, for it to be started again; nothing happens when it does not run."""
        slot = self._slots.get(name)
        if slot is not None and slot.running is not None:
            slot.running.signal(signal.SIGKILL)

    async def stop_all(self) -> None:
        """Stops the children, the one started last first."""
        cancelled: asyncio.CancelledError | None = None
        for slot in reversed(tuple(self._slots.values())):
            try:
                async with self._locks[slot.child.name]:
                    await self._stop(slot)
            except asyncio.CancelledError as error:  # whoever hurries us wants them all gone
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def leave(self) -> None:
        """Stops supervising and lets the children run, for the next control plane to adopt."""
        for slot in self._slots.values():
            await self._untend(slot)
            if slot.running is not None:
                slot.running.release()
        self._slots.clear()
        self._let_go()

    def _let_go(self) -> None:
        if self._hold is not None:
            os.close(self._hold)
            self._hold = None

    async def _found(self, child: Child) -> _Run | None:
        """The process that an earlier supervisor left behind, and since when; one of another kind is stopped."""
        left = self._left_behind(child.name)
        if left is None:
            return None
        running, record = left
        if record.fingerprint == child.fingerprint():
            _log.info("process adopted", process=child.name, pid=running.pid)
            return _Run(running, datetime.fromtimestamp(record.since, UTC), log_start=0)
        _log.info("process replaced", process=child.name, pid=running.pid)
        await _end(running, child)
        return None

    def _left_behind(self, name: str) -> tuple[Running, "_Record"] | None:
        """What an earlier supervisor started under a name, if it still runs."""
        record = _read_record(self._folder.record(name))
        running = None if record is None else Running.adopt(record.pid, record.identity, family=record.family)
        return None if record is None or running is None else (running, record)

    async def _started(self, child: Child) -> _Run:
        log = self._folder.log(child.name)
        if child.family and (record := _read_record(self._folder.record(child.name))) is not None:
            await _bury(record)
        try:
            for file in child.stale:
                file.unlink(missing_ok=True)
            logfile.bound(log)
            log_start = logfile.size(log)
            running = Running.start(child.argv, _env(child), log, family=child.family)
        except OSError as error:
            raise StartError(f"cannot start {child.name} ({child.argv[0]}): {error.strerror}") from error
        now = datetime.now(UTC)
        record = _Record(running.pid, running.identity, child.fingerprint(), now.timestamp(), child.family)
        try:
            self._folder.write(self._folder.record(child.name).name, orjson.dumps(asdict(record)))
        except RunFolderError:
            running.signal(signal.SIGKILL)  # nobody could find it again
            raise
        _log.info("process started", process=child.name, pid=running.pid)
        return _Run(running, now, log_start)

    async def _tend(self, slot: _Slot) -> None:
        """Restarts the child whenever it ends, for ever."""
        loop = asyncio.get_running_loop()
        log = self._folder.log(slot.child.name)
        pause: float | None = None
        while True:
            began = loop.time()
            await self._until_end(slot, log)
            pause = (slot.child.backoff or self._backoff).after(pause, loop.time() - began)
            _log.warning(
                "process ended", process=slot.child.name, exit=slot.last_exit, log=slot.last_log, restart_in_s=pause
            )
            slot.running = None
            slot.enter(Status.RESTARTING)
            await asyncio.sleep(pause)
            try:
                slot.enter_run(await self._started(slot.child))
            except (StartError, RunFolderError) as error:
                slot.last_exit = str(error)
                continue
            slot.restarts += 1

    async def _until_end(self, slot: _Slot, log: Path) -> None:
        if slot.running is None:
            return
        while not await slot.running.wait(_LOG_CHECK_S):
            with suppress(OSError):
                if logfile.bound(log):
                    slot.log_start = 0
                for other in slot.child.logs:
                    logfile.bound(other)
        slot.last_exit = slot.running.exit
        slot.last_log = logfile.redacted(logfile.last_lines(log, slot.log_start), slot.child.secrets)

    async def _stop(self, slot: _Slot) -> None:
        await self._untend(slot)
        slot.enter(Status.STOPPING)
        try:
            if slot.running is not None:
                await _end(slot.running, slot.child, drained=not self._hurried)
        finally:
            self._slots.pop(slot.child.name, None)
            with suppress(OSError):
                for file in (self._folder.record(slot.child.name), *slot.child.stale):
                    file.unlink(missing_ok=True)

    async def _untend(self, slot: _Slot) -> None:
        if slot.tending is not None:
            slot.tending.cancel()
            await asyncio.wait([slot.tending])


@dataclass(frozen=True, slots=True)
class _Record:
    pid: int
    identity: str
    fingerprint: str
    since: float  # Unix time
    family: bool = False


def _read_record(file: Path) -> _Record | None:
    """What a record says; None where there is none or it is no record."""
    try:
        return _Record(**orjson.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _env(child: Child) -> dict[str, str]:
    """What it is given besides what any program gets. Our PATH is no part of what it is, and may differ next time."""
    if not child.first_path:
        return dict(child.env)
    return {"PATH": f"{child.first_path}:{os.environ.get('PATH', os.defpath)}", **child.env}


async def _bury(record: _Record) -> None:
    """Ends what is left of a process that died, as may have happened while nobody watched."""
    if identity(record.pid) is not None or not record.identity.startswith(boot()):
        return  # the number is another's now
    if family(record.pid):
        _log.warning("processes of a dead one ended", pid=record.pid)
        end_family(record.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(_AFTER_KILL_S):
                while family(record.pid):  # noqa: ASYNC110 - the end of others has no event
                    await asyncio.sleep(_LOOK_S)


async def _end(running: Running, child: Child, *, drained: bool = True) -> None:
    """Drain, SIGTERM, SIGKILL. A cancellation goes on to the next of them at once."""
    try:
        if drained and child.drain is not None:
            await _drained(running, child, child.drain())
    finally:
        running.signal(signal.SIGTERM)
        try:
            await running.wait(child.stop_s)
        finally:
            if not running.ended:
                _log.warning("process killed", process=child.name, pid=running.pid, after_s=child.stop_s)
                running.signal(signal.SIGKILL)
                await running.wait(_AFTER_KILL_S)


async def _drained(running: Running, child: Child, drain: Awaitable[None]) -> None:
    """Drains until done, until the deadline, or until there is nothing left to drain."""
    draining = asyncio.ensure_future(drain)
    ending = asyncio.create_task(running.wait())
    try:
        done, _ = await asyncio.wait([draining, ending], timeout=child.drain_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (draining, ending):
            task.cancel()
    if draining in done and (error := draining.exception()):
        _log.warning("process not drained", process=child.name, error=str(error))
    elif not done:
        _log.warning("requests cut off", process=child.name, drain_s=child.drain_s)
