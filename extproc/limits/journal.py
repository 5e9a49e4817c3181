"""A node's long counters on disk, so that a budget that was spent is still spent after a restart.

What changes a counter whose window is an hour or longer is a line, written before the request is answered: `kill -9`
of the service loses nothing. It is not forced to the disk, so that a machine that loses power may lose what its kernel
had not written yet. When the file is opened, and after many lines, it is replaced by the counters as they stand.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import structlog

from extproc.limits.stores import Bucket, Charge, Form, Hold
from extproc.usage.windows import SECOND, STEPS

_LONG_US = 3600 * SECOND
_MANY = 100_000  # lines between two replacements
_AGAIN = 1000  # lines that could not be written, after which a replacement is tried: the disk may have room again
_log = structlog.get_logger(__name__)

State: TypeAlias = list[Any]  # of one counter, as `MemoryStore.states` gives it


@dataclass(frozen=True, slots=True)
class Taken:
    """Holds that were taken, with the ends of their calendar windows."""

    now: int
    call: str
    holds: tuple[tuple[Hold, int], ...]


@dataclass(frozen=True, slots=True)
class Settled:
    now: int
    call: str
    charges: tuple[Charge, ...]


def long(bucket: Bucket) -> bool:
    """Whether a restart must not forget it: of what comes back within the hour, little is lost."""
    return bucket.form is Form.CALENDAR or (bucket.form is Form.ROLLING and bucket.step_us * STEPS >= _LONG_US)


class Journal:
    """The file. What cannot be written is told in the log, once, and requests go on.

    Later the whole file is written anew, with what it lacks; a restart before that forgets it.
    """

    def __init__(self, path: Path, most: int = _MANY) -> None:
        self._path, self._most = path, most
        self._handle: int | None = None
        self._lines = 0
        self._failed = False

    def read(self) -> Iterable[State | Taken | Settled]:
        """What it holds, in order. A line that is none, such as the last of a full disk, is left out."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                yield _parse(orjson.loads(line))
            except (ValueError, TypeError, KeyError, IndexError):
                _log.warning("a line of the journal cannot be read, and is left out", journal=str(self._path))

    def replace(self, states: Iterable[State]) -> None:
        """Puts these counters in the place of all it holds."""
        fresh = self._path.with_name(f".{self._path.name}.new")
        try:
            handle = _written(fresh, b"".join(orjson.dumps(["c", *state]) + b"\n" for state in states))
            fresh.replace(self._path)
        except OSError as error:
            fresh.unlink(missing_ok=True)  # on a full disk, every byte counts
            self._fail(error)
            return
        self.close()
        if self._failed:
            _log.warning("what is spent is written down again", journal=str(self._path))
        self._handle, self._lines, self._failed = handle, 0, False

    def taken(self, now: int, call: str, holds: Sequence[Hold], ends: Sequence[int]) -> None:
        rows = [
            [hold.bucket.key, hold.bucket.form, hold.bucket.step_us, hold.ask, hold.lease_us, end]
            for hold, end in zip(holds, ends, strict=True)
            if hold.ask and long(hold.bucket)
        ]
        if rows:
            self._add(["t", now, call, rows])

    def settled(self, now: int, call: str, charges: Sequence[Charge]) -> None:
        rows = [
            [of.key, of.form, of.step_us, each.held, each.actual, each.lease_us, each.end, each.anyway]
            for each in charges
            if long(of := each.bucket)
        ]
        if rows:
            self._add(["s", now, call, rows])

    def tidy(self, states: Callable[[], Iterable[State]]) -> None:
        """Replaces itself when it has grown, or lacks something."""
        if self._lines >= (_AGAIN if self._failed else self._most):
            self._lines = 0
            self.replace(states())

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _add(self, line: list[Any]) -> None:
        self._lines += 1
        if self._handle is None or self._failed:  # behind a torn line another one could not be read
            return
        try:
            _write(self._handle, orjson.dumps(line) + b"\n")
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            _log.error("what is spent cannot be written down", journal=str(self._path), reason=error.strerror)
        self._failed, self._lines = True, 0


def _written(path: Path, content: bytes) -> int:
    """A handle of a new file that holds `content`, to append to."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        _write(handle, content)
    except OSError:
        os.close(handle)
        raise
    return handle


def _write(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]


def _parse(line: list[Any]) -> State | Taken | Settled:
    kind, *rest = line
    if kind == "c":
        return rest
    now, call, rows = rest
    if kind == "t":
        return Taken(
            now,
            call,
            tuple(
                (Hold(Bucket(key, Form(form), step_us), 0, ask, ask, lease_us), end)
                for key, form, step_us, ask, lease_us, end in rows
            ),
        )
    return Settled(
        now,
        call,
        tuple(
            Charge(Bucket(key, Form(form), step_us), held, actual, lease_us, end, anyway)
            for key, form, step_us, held, actual, lease_us, end, anyway in rows
        ),
    )
