"""Server-sent events out of the chunks that they come in."""

import re
from collections.abc import Iterator

_LINE_END = re.compile(r"\r\n|\n|\r")
_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class Splitter:
    """Takes bytes in any pieces and gives whole events, blank line included; joined they are the bytes again."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._rest += data
        start = 0
        for match in _END.finditer(self._rest):
            yield self._rest[start : match.end()]
            start = match.end()
        self._rest = self._rest[start:]

    def end(self) -> bytes:
        """What came after the last whole event."""
        rest, self._rest = self._rest, b""
        return rest


def data_lines(event: str) -> list[str]:
    """The `data` lines of an event. What else Unicode takes for the end of a line may be in a text."""
    return [line for line in _LINE_END.split(event) if line.startswith("data:")]


def data_of(event: str) -> str:
    """The data of an event: its `data` lines, joined."""
    return "\n".join(line[5:].removeprefix(" ") for line in data_lines(event))
