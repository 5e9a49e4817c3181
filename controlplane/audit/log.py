"""The audit log: appends entries to the chain, one writer at a time, and keeps them while the disk refuses."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from controlplane.audit import files, retention
from controlplane.audit.clean import Value
from controlplane.audit.entry import SYSTEM, Action, Entry, Event, Head, digest, seal
from controlplane.audit.settings import Settings


class AuditUnavailableError(Exception):
    """Entries could not be written. They wait in memory and are written, flagged as delayed, when that is possible."""

    def __init__(self, folder: Path, why: str, waiting: int, lost: int) -> None:
        self.waiting, self.lost = waiting, lost
        gone = f", {lost} more found no room there and are lost" if lost else ""
        super().__init__(
            f"the audit log at {folder} cannot be written: {why}. {waiting} entries wait in memory{gone}. "
            f"Check the free space and the permissions of that folder; writing goes on by itself."
        )


@dataclass(frozen=True, slots=True)
class _Record:
    event: Event
    at: datetime
    delayed: bool = False
    generated: bool = False  # by the log about itself; made anew if it could not be written


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AuditLog:
    """One folder of audit entries. Methods may be called from any thread; they block for the disk and for the lock.

    Durability: `append` and `extend` return after fsync of the entries (one fsync for all of an `extend`, unless it
    spans segments), so what they returned survives a power failure. What waits in memory does not.

    Processes: each append takes the folder's lock, so several processes may write to one folder.
    """

    def __init__(self, folder: Path, settings: Settings, now: Callable[[], datetime]) -> None:
        self._folder, self._settings, self._now = folder, settings, now
        self._mutex = threading.Lock()
        self._waiting: deque[_Record] = deque()
        self._lost = 0
        self._head: Head | None = None  # of the last line that this process saw; never forgotten
        self._tail: files.Tail | None = None  # where it ended, unless that must be looked up
        self._trimmed: datetime | None = None
        self._trouble: str | None = None

    @classmethod
    def open(cls, folder: Path, settings: Settings | None = None, *, now: Callable[[], datetime] = _utc_now) -> Self:
        """The log of a folder, created when absent. A line that a killed process left torn is set aside and recorded.

        A full disk is no error here: `trouble` says so, and the next append tries again.

        Raises:
            AuditUnavailableError: the folder cannot be created.
        """
        log = cls(folder, settings or Settings(), now)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise AuditUnavailableError(folder, str(error.strerror), 0, 0) from error
        with suppress(AuditUnavailableError):
            log.flush()
        return log

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def waiting(self) -> int:
        """How many entries wait in memory to be written."""
        return len(self._waiting)

    @property
    def trouble(self) -> str | None:
        """Why the last write failed, for an alarm; None when it did not."""
        return self._trouble

    def append(self, event: Event) -> Entry:
        """Adds an entry, synced to disk.

        Raises:
            AuditUnavailableError: it could not be written, and waits in memory.
        """
        return self.extend([event])[0]

    def extend(self, events: Iterable[Event]) -> tuple[Entry, ...]:
        """Adds entries in order, synced to disk once.

        Raises:
            AuditUnavailableError: some could not be written, and wait in memory.
        """
        at = self._now()
        fresh = [_Record(event, at) for event in events]
        with self._mutex:
            written = self._write_out(fresh)
        return tuple(written[len(written) - len(fresh) :])

    def flush(self) -> None:
        """Writes what waits. To be called now and then, and at the end.

        Raises:
            AuditUnavailableError: it still cannot be written.
        """
        with self._mutex:
            self._write_out([])

    def _write_out(self, fresh: list[_Record]) -> list[Entry]:
        todo = deque([*self._waiting, *self._note_of_lost(), *fresh])
        try:
            with files.locked(self._folder, self._settings.lock_s):
                written = self._write(todo)
                self._waiting.clear()
                self._lost = 0
                self._trouble = self._tidy()
        except OSError as error:
            self._tail = None
            self._keep(todo)
            self._trouble = error.strerror or str(error)
            raise AuditUnavailableError(self._folder, self._trouble, len(self._waiting), self._lost) from error
        return written

    def _tidy(self) -> str | None:
        """Applies retention; why it could not, if so: all entries are written then, so nobody is told by an error."""
        try:
            self._trim()
        except OSError as error:
            self._tail = None
            return f"old segments cannot be removed: {error.strerror}"
        return None

    def _note_of_lost(self) -> list[_Record]:
        if not self._lost:
            return []
        lost = Event(SYSTEM, Action.AUDIT_LOST, "audit", {"entries": self._lost, "why": "disk refused, memory full"})
        return [_Record(lost, self._now(), generated=True)]

    def _keep(self, unwritten: deque[_Record]) -> None:
        """What could not be written waits, as far as there is room; the first to come stay, as they tell the cause."""
        if not any(record.event.action == Action.AUDIT_LOST for record in unwritten if record.generated):
            self._lost = 0  # its note was written before the disk refused
        kept = [replace(record, delayed=True) for record in unwritten if not record.generated]
        self._waiting = deque(kept[: self._settings.waiting])
        self._lost += len(kept) - len(self._waiting)

    def _write(self, todo: deque[_Record]) -> list[Entry]:
        """Writes all records, taking each from `todo` when it is on disk."""
        tail = self._current()
        if files.torn_path(self._folder, tail.head.seq + 1).exists():
            todo.appendleft(self._note_of_torn(tail.head.seq + 1))
        written: list[Entry] = []
        while todo:
            tail, entries = self._write_group(tail, todo)
            written += entries
            if todo:
                tail = replace(tail, size=0)
        self._tail = tail
        return written

    def _write_group(self, tail: files.Tail, todo: deque[_Record]) -> tuple[files.Tail, list[Entry]]:
        """Writes what fits into the segment: nothing, when that is almost full. An empty segment takes any line."""
        head, data, entries = tail.head, bytearray(), list[Entry]()
        path = tail.path if tail.size else files.segment_path(self._folder, head.seq + 1)
        for record in todo:
            entry, line = seal(record.event, record.at, head, delayed=record.delayed)
            size = tail.size + len(data)
            if size and size + len(line) > self._settings.segment_bytes:
                break
            data += line
            entries.append(entry)
            head = Head(entry.seq, digest(line))
        if entries:
            files.write_at(path, tail.size, bytes(data))
        if entries and not tail.size:
            files.sync_folder(self._folder)
            self._trimmed = None
        for _ in entries:
            todo.popleft()
        self._head = head
        return files.Tail(head, path, tail.size + len(data)), entries

    def _current(self) -> files.Tail:
        """Where the log ends now. Looked up when another process wrote since, or did not get to the end of it."""
        known = self._tail
        if (
            known
            and _size(known.path) == known.size
            and not files.segment_path(self._folder, known.head.seq + 1).exists()
        ):
            return known
        tail = files.find_tail(self._folder, files.segments(self._folder))
        if self._head and self._head.seq > tail.head.seq:  # lines were taken away: the chain goes on, with a gap to see
            tail = replace(tail, head=self._head)
        if tail.torn:
            files.set_aside(self._folder, tail)
        return replace(tail, torn=b"")

    def _note_of_torn(self, seq: int) -> _Record:
        aside = files.torn_path(self._folder, seq)
        torn = aside.read_bytes()
        found: dict[str, Value] = {"file": aside.name, "bytes": len(torn), "sha256": digest(torn)}
        return _Record(Event(SYSTEM, Action.AUDIT_RECOVERED, "audit", found), self._now(), generated=True)

    def _trim(self) -> None:
        """Removes old segments, once a day and after each new one. First an entry says so and anchors what is left."""
        now = self._now()
        if self._trimmed is not None and timedelta(0) <= now - self._trimmed < timedelta(days=1):
            return
        old, kept = retention.split(files.segments(self._folder), self._settings, now)
        if old:
            last = digest(next(files.backward(old[-1]), b""))
            anchor: dict[str, Value] = {"first": kept[0].first, "prev": last, "segments": len(old)}
            note = _Record(Event(SYSTEM, Action.AUDIT_TRIMMED, "audit", anchor), now, generated=True)
            self._write(deque([note]))
            for segment in old:  # oldest first: what is left after a kill is one chain
                segment.path.unlink(missing_ok=True)
            files.sync_folder(self._folder)
        self._trimmed = now


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
