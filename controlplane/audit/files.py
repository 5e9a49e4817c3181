"""The files of an audit log: segments named by their first entry, a lock, torn ends moved aside."""

import fcntl
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from controlplane.audit.entry import EMPTY, LONGEST_LINE, DamagedLineError, Head, digest, parse

_SEGMENT = re.compile(r"(\d{12,15})\.jsonl")
_BLOCK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log, and how many of its bytes there are to read."""

    path: Path
    first: int  # the number of its first entry, by its name
    size: int


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the log ends: its last whole line, the segment that is being written and its size, bytes of a torn line."""

    head: Head
    path: Path
    size: int
    torn: bytes = b""


def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:012d}.jsonl"


def torn_path(folder: Path, seq: int) -> Path:
    """Where the end of a torn line goes that would have become entry `seq`."""
    return folder / f"{seq:012d}.torn"


def segments(folder: Path) -> list[Segment]:
    """The segments of a folder, in order."""
    found = [
        Segment(Path(entry.path), int(name[1]), entry.stat().st_size)
        for entry in os.scandir(folder)
        if (name := _SEGMENT.fullmatch(entry.name)) and entry.is_file()
    ]
    return sorted(found, key=lambda segment: segment.first)


def snapshot(folder: Path) -> list[Segment]:
    """The segments between two appends, so that no line is half written. Without a lock file to open, as they are."""
    try:
        handle = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a copy of the log elsewhere, or one that belongs to somebody else
        return segments(folder)
    try:
        with suppress(TimeoutError):  # a writer that is stopped: what it left is what there is
            _wait_for(handle, fcntl.LOCK_SH, 2)
        return segments(folder)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path, wait_s: float) -> Iterator[None]:
    """Holds the log against other writers. The kernel lets go of it however the process ends.

    Raises:
        TimeoutError: another process held it all the time.
        OSError: the lock file cannot be made.
    """
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait_for(handle, fcntl.LOCK_EX, wait_s)
        yield
    finally:
        os.close(handle)


def _wait_for(handle: int, how: int, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process held its lock for {wait_s:g} s") from None
        time.sleep(random.uniform(0.0005, 0.003))  # noqa: S311 - so that two that wait do not keep step


def lines(segment: Segment) -> Iterator[bytes]:
    """The lines of a segment, newlines included. Of one that is too long, the beginning: no whole line."""
    with segment.path.open("rb") as file:
        left = segment.size
        while left > 0 and (line := file.readline(min(left, LONGEST_LINE))):
            left -= len(line)
            yield line
            while not line.endswith(b"\n") and left > 0 and (line := file.readline(min(left, LONGEST_LINE))):
                left -= len(line)


def backward(segment: Segment) -> Iterator[bytes]:
    """The same from the end to the beginning, lines of any length. A torn end comes first, without a newline."""
    rest, position = b"", segment.size
    with segment.path.open("rb") as file:
        while position > 0:
            step = min(_BLOCK, position)
            position -= step
            pieces = (os.pread(file.fileno(), step, position) + rest).split(b"\n")
            end = pieces.pop()
            whole = [piece + b"\n" for piece in pieces] + ([end] if end else [])
            rest = whole[0] if whole else b""
            yield from reversed(whole[1:])
    if rest:
        yield rest


def find_tail(folder: Path, found: list[Segment]) -> Tail:
    """Where the log of these segments ends. Damage before its last line is for `verify` to find."""
    if not found:
        return Tail(EMPTY, segment_path(folder, 1), 0)
    last, torn = found[-1], b""
    for segment in reversed(found):
        for line in backward(segment):
            if line.endswith(b"\n"):
                return Tail(Head(_seq(segment, line), digest(line)), last.path, last.size - len(torn), torn)
            if segment is last:
                torn = line
    return Tail(Head(last.first - 1, EMPTY.digest), last.path, last.size - len(torn), torn)


def _seq(segment: Segment, line: bytes) -> int:
    try:
        return parse(line).seq
    except DamagedLineError:  # its number by its place; verify reports the line
        return segment.first - 1 + sum(1 for _ in lines(segment))


def write_at(path: Path, size: int, data: bytes) -> None:
    """Adds data to a file of this size and syncs it to disk, whole or not at all.

    Raises:
        OSError: the disk is full or fails. The file is cut back to its size, unless that fails as well.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(handle, memoryview(data)[done:], size + done)
        os.fsync(handle)
    except OSError:
        with suppress(OSError):
            os.ftruncate(handle, size)
        raise
    finally:
        os.close(handle)


def set_aside(folder: Path, tail: Tail) -> None:
    """Copies a torn end into its `.torn` file, then cuts it off; safe to be killed anywhere and done again."""
    aside = torn_path(folder, tail.head.seq + 1)
    before = aside.read_bytes() if aside.exists() else b""
    if not before.endswith(tail.torn):
        fresh = aside.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        write_at(fresh, 0, before + tail.torn)
        fresh.replace(aside)
        sync_folder(folder)
    handle = os.open(tail.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.ftruncate(handle, tail.size)
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Makes new and removed names of a folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
