"""Denials at the edge, counted: one entry of the audit log for many of them. Pure: time is passed in."""

from dataclasses import dataclass

from controlplane.audit.clean import Value
from controlplane.audit.entry import SYSTEM, Action, Actor, Event

_LONGEST_NAME = 128  # characters of what a client may choose: what is counted must not take memory as it likes


@dataclass(frozen=True, slots=True)
class Denial:
    """A request that was refused: whose, why, and what for. Empty texts where there is none."""

    key: str  # its name
    reason: str  # the `code` of the answer, such as rate_limit_exceeded
    model: str
    address: str  # of the client


class Denials:
    """Counts denials, and gives at most one event per kind of them and interval.

    An attacker who varies model or address makes at most `pairs` entries per interval; the rest is one count, so that
    he cannot push older entries out of the log quickly.
    """

    def __init__(self, interval_s: float = 60, pairs: int = 100) -> None:
        self._interval_s, self._pairs = interval_s, pairs
        self._counts: dict[Denial, int] = {}
        self._others = 0
        self._since_s: float | None = None

    def add(self, denial: Denial, now_s: float, count: int = 1) -> None:
        """Counts a denial. `now_s`: seconds of a monotonic clock."""
        if self._since_s is None:
            self._since_s = now_s
        short = Denial(*(text[:_LONGEST_NAME] for text in (denial.key, denial.reason, denial.model, denial.address)))
        if short in self._counts or len(self._counts) < self._pairs:
            self._counts[short] = self._counts.get(short, 0) + count
        else:
            self._others += count

    def due(self, now_s: float) -> tuple[Event, ...]:
        """The events of an interval that is over, else none."""
        if self._since_s is None or now_s - self._since_s < self._interval_s:
            return ()
        return self.drain(now_s)

    def drain(self, now_s: float) -> tuple[Event, ...]:
        """All that was counted, over or not: for the end."""
        if self._since_s is None:
            return ()
        seconds = max(0, round(now_s - self._since_s))
        events = [_event(denial, count, seconds) for denial, count in self._counts.items()]
        if self._others:
            others = {"count": self._others, "seconds": seconds}
            events.append(Event(SYSTEM, Action.REQUEST_DENIED, "others", others))
        self._counts, self._others, self._since_s = {}, 0, None
        return tuple(events)


def _event(denial: Denial, count: int, seconds: int) -> Event:
    who = Actor("client", denial.key, denial.address)
    found: dict[str, Value] = {"reason": denial.reason, "count": count, "seconds": seconds}
    return Event(who, Action.REQUEST_DENIED, denial.model, found)
