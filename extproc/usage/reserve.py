"""Disk space set aside for the day on which the disk is full: Envoy goes on writing its access log into it.

A file beside the log, really allocated, that is removed when space runs out and made anew when there is room again.
"""

import errno
import os
import time
from pathlib import Path

from extproc.usage.alarms import Alarms

_SIZE = 16 << 20
_LOW = 4 << 20  # bytes free below which the reserve is given up before a write fails: a second of a busy log
_LOOK_S = 5.0  # between looks for room, and between questions to Envoy
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# How SQLite, PostgreSQL and the C library put it; the ledger's errors are texts.
_WORDS = ("is full", "no space left", "disk full", "quota exceeded")


class Reserve:
    """The reserve at `path`. The alarm `disk` stands while there is none."""

    def __init__(self, path: Path, alarms: Alarms, size: int = _SIZE, low: int = _LOW) -> None:
        self._path, self._alarms, self._size, self._low = path, alarms, size, low
        self._held = _allocated(path) >= size
        self._look_at = 0.0
        self._failed_writes: int | None = None

    @property
    def held(self) -> bool:
        return self._held

    def due(self) -> bool:
        """Whether it is time for `look`."""
        return time.monotonic() >= self._look_at

    def look(self, failed_writes: int | None) -> None:
        """Makes the reserve when there is room. `failed_writes`: Envoy's count, which should not rise, if known."""
        self._look_at = time.monotonic() + _LOOK_S
        before, self._failed_writes = self._failed_writes, failed_writes
        if failed_writes is not None and before is not None and failed_writes > before:
            self._release(f"Envoy could not write {failed_writes - before} times to the access log, entries are lost")
        elif not self._held:
            self._make()

    def watch(self) -> None:
        """Gives the reserve up when little space is left. Costs a system call."""
        if self._held and self._free() < self._low:
            self._release("its disk is nearly full")

    def report(self, error: Exception) -> None:
        """Looks whether a failure means that the disk is full. A database elsewhere may be full while there is room."""
        if isinstance(error, OSError):
            if error.errno in _FULL:
                self._release("its disk is full")
        elif self._free() < self._size + 2 * self._low and any(words in str(error).lower() for words in _WORDS):
            self._release("its disk is full")

    def _release(self, why: str) -> None:
        self._held = False
        self._path.unlink(missing_ok=True)
        self._look_at = time.monotonic() + _LOOK_S
        self._alarms.set("disk", f"{self._path.parent}: {why}. Free some space; traffic goes on")

    def _make(self) -> None:
        room = self._free()
        if room < self._size + 2 * self._low:
            self._alarms.set(
                "disk", f"{self._path.parent}: no room for a reserve of {self._size} bytes, {room} are free"
            )
            return
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(handle, 0, self._size)
            finally:
                os.close(handle)
        except OSError as error:
            self._release(f"no reserve can be made ({error.strerror})")
            return
        self._held = True
        self._alarms.clear("disk")

    def _free(self) -> int:
        """Bytes that this user may still write."""
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize


def _allocated(path: Path) -> int:
    """Bytes that a file takes: not its length, since a file can have holes."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0
