"""The log of a child process: bounded, and read from its end."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from controlplane.policy.secrets import Secret

LIMIT = 8 * 1024 * 1024  # bytes; with the one before it, twice that
MOST_LINES = 10_000  # that are read at once
_TAIL = 8 * 1024  # bytes; more where many lines are asked for
_LINE = 500  # characters


def bound(log: Path, limit: int = LIMIT) -> bool:
    """Moves the content of a log that outgrew `limit` bytes to ``<log>.1``; says whether it did.

    The process keeps its handle and goes on writing: its handle appends, so after the cut it starts at the top.
    """
    if size(log) <= limit:
        return False
    shutil.copyfile(log, log.with_name(log.name + ".1"), follow_symlinks=False)
    os.truncate(log, 0)
    return True


def size(log: Path) -> int:
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def last_lines(log: Path, since: int = 0, count: int = 5) -> tuple[str, ...]:
    """The last `count` lines written after byte `since`, long ones cut."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, size(log) - max(_TAIL, count * _LINE)))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ()
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return tuple(line if len(line) <= _LINE else line[:_LINE] + "…" for line in lines[-count:])


def redacted(lines: Iterable[str], secrets: Iterable[Secret]) -> tuple[str, ...]:
    """The lines without these values: a process may write what it was told."""
    values = sorted({secret.reveal() for secret in secrets}, key=len, reverse=True)
    return tuple(_without(line, values) for line in lines)


def _without(line: str, values: Iterable[str]) -> str:
    for value in values:
        line = line.replace(value, "[redacted]")
    return line
