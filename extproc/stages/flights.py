"""Identical requests at the same time: one flies, the others wait for its answer. A state machine without I/O.

Whoever calls `join` and is told to lead asks the provider and calls `land` or, if it gives up, `leave`. The others wait
until a call of `land` or `leave` names them.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

Who = TypeVar("Who", bound=Hashable)


class Part(Enum):
    LEAD = "lead"
    WAIT = "wait"
    ALONE = "alone"  # too many wait already: ask the provider, and tell nobody


@dataclass(frozen=True, slots=True)
class Next(Generic[Who]):
    """What follows for others. `served`: have the answer now. `leads`: asks the provider from now on."""

    served: tuple[Who, ...] = ()
    leads: Who | None = None


class Flights(Generic[Who]):
    """At most `most` wait for one key. Not thread-safe."""

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._flights: dict[bytes, list[Who]] = {}  # the first one leads

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: bytes, who: Who) -> Part:
        """`who` is new, and different from all others."""
        flight = self._flights.get(key)
        if flight is None:
            self._flights[key] = [who]
            return Part.LEAD
        if len(flight) > self._most:
            return Part.ALONE
        flight.append(who)
        return Part.WAIT

    def land(self, key: bytes, who: Who) -> Next[Who]:
        """The leader has an answer that may be shared. From anyone else it changes nothing."""
        flight = self._flights.get(key)
        if not flight or flight[0] != who:
            return Next()
        del self._flights[key]
        return Next(served=tuple(flight[1:]))

    def leave(self, key: bytes, who: Who) -> Next[Who]:
        """Someone is gone, or the leader's answer cannot be shared. The one who waited longest leads then."""
        flight = self._flights.get(key)
        if not flight or who not in flight:
            return Next()
        led = flight[0] == who
        flight.remove(who)
        if not flight:
            del self._flights[key]
            return Next()
        return Next(leads=flight[0]) if led else Next()
