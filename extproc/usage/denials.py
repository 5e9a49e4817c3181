"""Requests that the edge refused, counted for the audit log: one entry of it for many of them.

The counts of an interval are one JSON file, which the control plane takes away. While it lies there nothing more is
written, and counting goes on: a control plane that is down costs no count and no disk.
"""

import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from extproc.usage.entries import Entry
from extproc.usage.files import replace
from extproc.usage.identity import owner

VERSION: Final = 1
INTERVAL_S: Final = 60.0
KINDS: Final = 100  # that are told apart in an interval; the rest is one count
_LONGEST_NAME = 128  # characters of what a client may choose: what is counted must not take memory as it likes
_REASONS = {401: "invalid_api_key", 403: "model_not_allowed", 429: "rate_limit_exceeded"}
_SPENT = frozenset({"insufficient_quota", "rate_limit_exceeded"})  # what envoy/lua/spent.lua leaves


class Denial(NamedTuple):
    """What is counted together: whose requests, why, and what for. Empty texts where there is none."""

    key: str  # its name
    reason: str  # the `code` of the answer
    model: str
    address: str  # of the client


def denial(entry: Entry) -> Denial | None:
    """What an entry of the access log adds; None for a request that the edge did not refuse."""
    names, course = entry.names, entry.course
    reason = _REASONS.get(course.status)
    if reason is None or course.attempts:  # a provider's own answer
        return None
    if "[address-not-allowed]" in course.details:
        reason = "address_not_allowed"
    elif names.answered in _SPENT:
        reason = names.answered
    return Denial(*(text[:_LONGEST_NAME] for text in (owner(names.client).key, reason, names.model, entry.address)))


class Denials:
    """Counts, and tells once in an interval. Pure but for `tell`: the time is passed in, by a monotonic clock."""

    def __init__(self, path: Path, kinds: int = KINDS) -> None:
        self._path, self._kinds = path, kinds
        self._counts: dict[Denial, int] = {}
        self._others = 0
        self._since_s: float | None = None

    def add(self, found: Denial, now_s: float) -> None:
        if self._since_s is None:
            self._since_s = now_s
        if found in self._counts or len(self._counts) < self._kinds:
            self._counts[found] = self._counts.get(found, 0) + 1
        else:
            self._others += 1

    def due(self, now_s: float) -> bool:
        """Whether an interval is over in which something was counted."""
        return self._since_s is not None and now_s - self._since_s >= INTERVAL_S

    def take(self, now_s: float) -> dict[str, Any]:
        """The counts as they are told; counting begins anew."""
        seconds = 0 if self._since_s is None else round(now_s - self._since_s)
        counts = [{**found._asdict(), "count": count} for found, count in self._counts.items()]
        document = {"version": VERSION, "seconds": seconds, "counts": counts, "others": self._others}
        self._counts, self._others, self._since_s = {}, 0, None
        return document

    def tell(self, *, at_once: bool = False) -> None:
        """Writes the file if it is time to, and if the one before was taken. Raises OSError; nothing is lost then."""
        now_s = time.monotonic()
        if self._since_s is None or not (at_once or self.due(now_s)) or self._path.exists():
            return
        kept = self._counts, self._others, self._since_s
        try:
            replace(self._path, orjson.dumps(self.take(now_s)))
        except OSError:
            self._counts, self._others, self._since_s = kept
            raise
