"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation"""

from collections.abc import Iterator

from extproc.translate.failures import unreadable
from extproc.translate.wire.frames import Frame
from extproc.translate.wire.lines import Lines

_BOM = b"\xef\xbb\xbf"
_LONGEST_NAME = 64


class Events:
    """Reads events; an event's data is at most `limit` bytes. The fields `id` and `retry` are of no use here."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines = Lines(limit, lone_cr=True)
        self._first = True
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        for line in self._lines.feed(chunk):
            frame = self._line(line)
            if frame is not None:
                yield frame

    def end(self) -> Iterator[Frame]:
        """The last event even without its empty line: some servers close right after it."""
        for line in (self._lines.end(), b""):
            frame = self._line(line) if line or self._data else None
            if frame is not None:
                yield frame

    def _line(self, line: bytes) -> Frame | None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._size += len(value) + 8  # empty lines take memory, too
            if self._size > self._limit:
                raise unreadable(f"an event is longer than {self._limit} bytes")
            self._data.append(value)
        elif field == b"event":
            self._name = value[:_LONGEST_NAME].decode("utf-8", "replace")
        return None

    def _dispatch(self) -> Frame | None:
        name, data = self._name, self._data
        self._name, self._data, self._size = "", [], 0
        return Frame(name, b"\n".join(data)) if data else None
