"""Bytes into lines, with bounded memory and in linear time, however they are cut."""

from collections.abc import Iterator

from extproc.translate.failures import unreadable
from extproc.translate.wire.frames import Frame


class Lines:
    """Lines end with LF, CR LF, or, with `lone_cr`, a CR alone. Raises AnswerError beyond `limit` bytes in a line."""

    def __init__(self, limit: int, *, lone_cr: bool) -> None:
        self._limit = limit
        self._lone_cr = lone_cr
        self._open = bytearray()  # the line that has no end yet
        self._skip_lf = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that this chunk ends, without their ends."""
        if self._lone_cr and chunk:
            if self._skip_lf and chunk[0] == 0x0A:
                chunk = chunk[1:]
                self._skip_lf = False
            if chunk:
                self._skip_lf = chunk[-1] == 0x0D
            if b"\r" in chunk:
                chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            yield self._whole(piece)
        self._open += rest
        self._check(len(self._open))

    def end(self) -> bytes:
        """The last line, if it lacks its end."""
        return self._whole(b"")

    def _whole(self, piece: bytes) -> bytes:
        self._check(len(self._open) + len(piece))
        line = bytes(self._open) + piece if self._open else piece
        self._open.clear()
        return line if self._lone_cr else line.removesuffix(b"\r")

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise unreadable(f"a line is longer than {self._limit} bytes")


class JSONLines:
    """Newline-delimited JSON, as Ollama streams it: each line is a frame."""

    def __init__(self, limit: int) -> None:
        self._lines = Lines(limit, lone_cr=False)

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        return (Frame("", line) for line in self._lines.feed(chunk) if line.strip())

    def end(self) -> Iterator[Frame]:
        line = self._lines.end()
        if line.strip():
            yield Frame("", line)
