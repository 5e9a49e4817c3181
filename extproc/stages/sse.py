"""Server-sent events out of any chunking, and back into the very same bytes. The WHATWG specification's line rules."""

import re
from collections.abc import Mapping
from typing import Any

from extproc.stages.protocol import Endpoint, Json, Refusal

MOST_EVENT = 16 * 1024 * 1024  # bytes of one event that a stream may hold
# A line ends with CR LF, LF or CR; an event ends with an empty line. A CR at the very end may be half of a CR LF.
_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n|\Z))")
_LINE = re.compile(rb"\r\n|\n|\r")


class Splitter:
    """Cuts a stream into events, each with the empty line that ends it. It holds one event at most."""

    __slots__ = ("_held", "_seen")

    def __init__(self) -> None:
        self._held = bytearray()
        self._seen = 0  # so far no event ends

    @property
    def held(self) -> int:
        return len(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        if not self._held and data.endswith(b"\n\n") and b"\r" not in data:
            return [event + b"\n\n" for event in data[:-2].split(b"\n\n")] if b"\n\n\n" not in data else self._cut(data)
        return self._cut(data)

    def rest(self) -> bytes:
        """What is left at the end: an event that was cut off. It is forgotten here."""
        rest = bytes(self._held)
        self._held.clear()
        self._seen = 0
        return rest

    def _cut(self, data: bytes) -> list[bytes]:
        held = self._held
        held += data
        events, begun, at = [], 0, self._seen
        while found := _END.search(held, at):
            events.append(bytes(held[begun : found.end()]))
            begun = at = found.end()
        del held[:begun]
        self._seen = max(0, len(held) - 3)
        return events


def data_of(event: bytes) -> bytes | None:
    """The data of an event: its `data` lines joined by LF. None where it has none: a comment, a ping."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2 and b"\r" not in event:
        return event[6:-2]
    lines = [_stripped(line[5:]) for line in _LINE.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def with_data(event: bytes, data: bytes) -> bytes:
    """The event with other data, where its first `data` line was. All other lines stay as they are."""
    ends = _LINE.findall(event) or [b"\n"]
    lines = _LINE.split(event)
    out, placed = b"", False
    for number, line in enumerate(lines):
        end = ends[number] if number < len(ends) else b""
        if not line.startswith(b"data:"):
            out += line + end
        elif not placed:
            out, placed = out + b"data: " + data.replace(b"\n", b"\ndata: ") + end, True
    return out


def event_of(data: bytes, name: bytes = b"") -> bytes:
    """A new event."""
    return b"event: %b\ndata: %b\n\n" % (name, data) if name else b"data: %b\n\n" % data


def _stripped(value: bytes) -> bytes:
    return value[1:] if value.startswith(b" ") else value


class EventStream:
    """A stream that is handled event by event: a base for stages. Without overriding, all bytes pass.

    An event beyond MOST_EVENT is passed on as it comes by a stage that is `open`, with all that follows; else the
    stream ends with an error.
    """

    open = True

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.closed = False
        self.metadata: Mapping[str, Json] = {}
        self._splitter = Splitter()
        self._ended = False
        self._passing = False

    def event(self, event: bytes) -> bytes:
        """What goes out for an event; the last one may lack its end."""
        return event

    def finish(self) -> bytes:
        """What goes out when the provider is done. Called once."""
        return b""

    def feed(self, data: bytes) -> bytes:
        if self.closed or self._ended:
            return b""
        if self._passing:
            return data
        out = b"".join([self.event(event) for event in self._splitter.feed(data) if not self.closed])
        if self._splitter.held > MOST_EVENT and not self.closed:
            out += self._overflow()
        return out

    def end(self) -> bytes:
        if self._ended:
            return b""
        self._ended = True
        if self.closed or self._passing:
            return b""
        rest = self._splitter.rest()
        out = self.event(rest) if rest else b""
        return out if self.closed else out + self.finish()

    def abort(self, refusal: Refusal) -> bytes:
        """Ends the stream here: the event that says why."""
        self.closed = True
        self._splitter.rest()
        return refusal.event(self.endpoint)

    def note(self, **values: Any) -> None:
        self.metadata = {**self.metadata, **values}

    def _overflow(self) -> bytes:
        self.note(oversized_event=True)
        if self.open:
            self._passing = True
            return self.finish() + self._splitter.rest()
        text = f"An event of the provider's stream has more than {MOST_EVENT} bytes."
        return self.abort(Refusal(502, "upstream_error", text, type="api_error"))
