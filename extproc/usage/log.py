"""The access log as a queue on disk: Envoy appends to it, the collector reads it, nothing is lost between the two.

How far it was read is stored with what was read, in one transaction of the ledger. A file is known by its first
line, which holds a request id and a time: a name changes when the file is put aside, and inodes are used again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from extproc.usage.entries import BEGIN

BLOCK = 1 << 22  # bytes read at a time: some 7,000 entries
# What a file is known by is looked for in so many bytes of its first line: a client can make a line long.
_FIRST = 1 << 16
# A line that a killed Envoy left unfinished has the next one behind it.
_BEGIN = BEGIN.encode()


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of a file, and where they end in it. All are whole, but for what `read` says."""

    log: str
    start: int
    end: int
    content: bytes

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Each line and where it begins in the file; torn lines apart from what was written behind them."""
        at = self.start
        for line in self.content.split(b"\n"):
            whole = line.rfind(_BEGIN)
            if whole > 0:
                yield at, line[:whole]
                yield at + whole, line[whole:]
            elif line:
                yield at, line
            at += len(line) + 1


def identify(path: Path, *, last: bool = False) -> str | None:
    """What a file is known by; None while its first line is not whole, or if it is absent. Raises OSError.

    `last`: nothing is written to it any more: None if it is empty.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(_FIRST)
    except FileNotFoundError:
        return None
    whole = line.endswith(b"\n") or len(line) == _FIRST or (last and line)
    return blake2b(line, digest_size=8).hexdigest() if whole else None


def read(path: Path, log: str, position: int, *, last: bool = False) -> Block:
    """The next whole lines; empty when there are none yet.

    `last`: nothing is written to the file any more, so that its end is taken as it is. What is longer than a block and
    no line (a disk that failed may leave anything) is taken in parts. Raises OSError, but not for an absent file.
    """
    try:
        with path.open("rb") as file:
            file.seek(position)
            content = file.read(BLOCK)
    except FileNotFoundError:
        content = b""
    end = content.rfind(b"\n") + 1
    if not end and len(content) == BLOCK:
        begin = content.rfind(_BEGIN)  # a part must not end within this
        end = begin if begin > 0 else BLOCK - len(_BEGIN)
    elif last and len(content) < BLOCK:
        end = len(content)
    return Block(log, position, position + end, content[:end])


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
