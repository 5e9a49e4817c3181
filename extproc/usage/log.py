"""The access log as a queue on disk: Envoy appends to it, the collector reads it, nothing is lost between the two.

How far it was read is stored with what was read, in one transaction of the ledger. A file is known by its first
line, which holds a request id and a time: a name changes when the file is put aside, and inodes are used again.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from extproc.usage.entries import FORMAT

_BLOCK = 1 << 22  # bytes read at a time: some 7,000 entries
# Envoy writes the fields sorted by name. A line that a killed Envoy left unfinished has the next one behind it.
_BEGIN = b'{"' + min(FORMAT).encode() + b'":'


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a file, and where they end in it."""

    log: str
    start: int
    end: int
    content: bytes

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Each line and where it begins in the file; torn lines apart from what was written behind them."""
        at = self.start
        for line in self.content.split(b"\n")[:-1]:
            whole = line.rfind(_BEGIN)
            if whole > 0:
                yield at, line[:whole]
                yield at + whole, line[whole:]
            elif line:
                yield at, line
            at += len(line) + 1


def identify(path: Path) -> str | None:
    """What a file is known by; None while it has no whole line."""
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 16)
    except FileNotFoundError:
        return None
    return blake2b(line, digest_size=8).hexdigest() if line.endswith(b"\n") else None


def read(path: Path, log: str, position: int) -> Block:
    """The next whole lines; empty when there are none yet."""
    with path.open("rb") as file:
        file.seek(position)
        content = file.read(_BLOCK)
    whole = content.rfind(b"\n") + 1
    return Block(log, position, position + whole, content[:whole])


def put_aside(path: Path) -> Path:
    """Renames the file; Envoy goes on writing to it until it is told to open the log again."""
    numbers = [int(old.suffix[1:]) for old in aside(path)]
    old = path.with_name(f"{path.name}.{max(numbers, default=0) + 1}")
    path.rename(old)
    return old


def aside(path: Path) -> list[Path]:
    """Files that were put aside, oldest first."""
    found = [old for old in path.parent.glob(f"{path.name}.*") if old.suffix[1:].isdigit()]
    return sorted(found, key=lambda old: int(old.suffix[1:]))


def unread(path: Path, position: int) -> int:
    """Bytes behind a position."""
    try:
        return max(0, os.stat(path).st_size - position)  # noqa: PTH116 - once per look: pathlib costs three times that
    except FileNotFoundError:
        return 0
