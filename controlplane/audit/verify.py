"""Checks an audit log from its first line to its last, in constant memory."""

from dataclasses import dataclass
from pathlib import Path

from controlplane.audit import files
from controlplane.audit.entry import EMPTY, Action, DamagedLineError, Entry, Head, digest, parse

MOST_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Verified:
    """A log whose every line agrees with its hash and with the line before."""

    entries: int
    first: int  # number of the first entry that is kept; 0 when there is none
    head: Head


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that this log did not write like that."""

    file: str
    line: int  # counted from 1; 0 when the file as a whole is meant
    seq: int | None  # of the entry at that place, or that belongs there
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: entry {self.seq}: {self.what}"


def head(folder: Path) -> Head:
    """The end of the log. Kept elsewhere and given to `verify`, it shows when the end was cut off or written anew.

    Raises:
        OSError: the log cannot be read.
    """
    return files.find_tail(folder, files.snapshot(folder)).head


def verify(folder: Path, kept: Head | None = None) -> Verified | list[Problem]:
    """Checks the chain of all segments, and that it holds the head that was kept, if one is given.

    It may run while entries are appended. At most 100 problems are listed. A file that cannot be read is a problem.
    """
    for attempt in range(1, 4):
        check = _Check(kept)
        try:
            for segment in files.snapshot(folder):
                check.segment(segment)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and folder.is_dir() and attempt < 3:
                continue  # retention took away a segment just now
            what = f"cannot be read: {error.strerror}"
            return [*check.problems, Problem(str(error.filename or folder), 0, None, what)]
        check.end(folder)
        break
    return check.problems[:MOST_PROBLEMS] or Verified(check.entries, check.first, check.head)


class _Check:
    """What has to be known of the lines before to judge the next one."""

    def __init__(self, kept: Head | None) -> None:
        self.kept = kept
        self.problems: list[Problem] = []
        self.entries = 0
        self.first = 0
        self.head = EMPTY
        self._anchor: Head | None = None  # before the first entry that is kept, as its line says
        self._trimmed: Head | None = None  # the same, as the last entry about retention says
        self._start = ""

    def segment(self, segment: files.Segment) -> None:
        for number, line in enumerate(files.lines(segment), 1):
            if len(self.problems) >= MOST_PROBLEMS:
                return
            self._take(segment, number, line)

    def _take(self, segment: files.Segment, number: int, line: bytes) -> None:
        file = segment.path.name
        expected = self.head.seq + 1 if self.entries else segment.first
        try:
            entry = parse(line)
        except DamagedLineError as error:
            self._problem(file, number, expected, str(error))
            seq = expected
        else:
            self._link(segment, number, entry, expected)
            seq = entry.seq
        if not self.entries:
            self.first, self._start = seq, file
        self.entries += 1
        self.head = Head(seq, digest(line))
        if self.kept and self.kept.seq == seq and self.kept != self.head:
            self._problem(file, number, seq, "not the line whose head was kept: the log was written anew")

    def _link(self, segment: files.Segment, number: int, entry: Entry, expected: int) -> None:
        file = segment.path.name
        if not self.entries:
            self._anchor = Head(entry.seq - 1, entry.prev)
        elif entry.seq > expected:
            self._problem(file, number, entry.seq, f"{_span(expected, entry.seq - 1)} missing before it")
        elif entry.seq < expected:
            self._problem(file, number, entry.seq, f"repeated or out of order: expected entry {expected}")
        elif entry.prev != self.head.digest:
            self._problem(file, number, entry.seq, "its `prev` is not the line before it: one of the two was changed")
        if number == 1 and entry.seq != segment.first:
            self._problem(file, number, entry.seq, f"by its name, the file begins with entry {segment.first}")
        if entry.action == Action.AUDIT_TRIMMED:
            first, prev = entry.details.get("first"), entry.details.get("prev")
            if type(first) is int and isinstance(prev, str):
                self._trimmed = Head(first - 1, prev)

    def end(self, folder: Path) -> None:
        if self._anchor:
            self._begins_rightly(self._anchor)
        kept = self.kept
        if kept and kept.seq > self.head.seq:
            what = (
                f"the log ends at entry {self.head.seq}, and the head that was kept is {kept.seq}: its end was cut off"
            )
            self._problem(folder.name, 0, self.head.seq, what)
        elif kept and kept.seq < self.first and kept not in (self._anchor, EMPTY):
            what = f"entry {kept.seq}, whose head was kept, is before the first: it cannot be compared"
            self._problem(self._start, 0, self.first, what)

    def _begins_rightly(self, anchor: Head) -> None:
        """The first entry is number 1, or an entry about retention says that all before it were removed."""
        trimmed = self._trimmed or EMPTY
        if anchor.seq > trimmed.seq:
            what = f"{_span(trimmed.seq + 1, anchor.seq)} missing, and no entry says that retention removed them"
            self._problem(self._start, 1, anchor.seq + 1, what)
        elif anchor.seq == trimmed.seq and anchor != trimmed:
            self._problem(self._start, 1, anchor.seq + 1, "its `prev` is not what belongs before the first entry")

    def _problem(self, file: str, line: int, seq: int | None, what: str) -> None:
        self.problems.append(Problem(file, line, seq, what))


def _span(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"
