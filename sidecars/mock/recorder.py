"""The last requests as they came over the wire, for tests that check bytes."""

import base64
from collections import deque
from dataclasses import dataclass
from typing import Any

_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Recorded:
    """`target` is the path with its query; `headers` keep the order and letter case they were sent in."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def document(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "path": self.target,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers],
            "body": base64.b64encode(self.body).decode(),
        }


class Recorder:
    """A ring of at most `limit` requests and 64 MiB of bodies; the newest is always kept, unless `limit` is 0."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ring: deque[Recorded] = deque()
        self._bytes = 0

    def add(self, recorded: Recorded) -> None:
        if not self._limit:
            return
        self._ring.append(recorded)
        self._bytes += len(recorded.body)
        while len(self._ring) > self._limit or (self._bytes > _MOST_BYTES and len(self._ring) > 1):
            self._bytes -= len(self._ring.popleft().body)

    def last(self, count: int) -> list[Recorded]:
        """The newest `count`, oldest first."""
        return list(self._ring)[-count:] if count else []

    def clear(self) -> None:
        self._ring.clear()
        self._bytes = 0
