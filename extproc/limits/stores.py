"""What a store of counters promises: holds are taken all or none, and settled once.

A bucket counts what is used: what was spent and still counts, plus what is held for requests in progress. It never
grows beyond its amount as long as no charge is more than what was held for it, whatever runs at the same time.

A rolling bucket counts in `extproc.usage.windows.STEPS` steps: what was spent counts for the window's length and at
most one step longer, never shorter. A clock that steps back makes everything in a bucket count from then on; nothing
is forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

SOON_US = 1_000_000  # when to come back for what others hold: nobody knows when they are done
KEPT_US = 86_400_000_000  # how long the counter of a calendar window stays after its end, for requests that run on


class Form(StrEnum):
    """How a bucket forgets: step by step, all at the window's end, or when a request is done."""

    ROLLING = "r"
    CALENDAR = "c"
    LEASES = "l"


@dataclass(frozen=True, slots=True)
class Bucket:
    """`step_us`: a rolling window's length / STEPS, else how precisely clock steps are noticed."""

    key: str
    form: Form
    step_us: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Takes `ask` of `bucket` if `need` more would still fit into `amount`; `need` is at least `ask`.

    `lease_us`: 0 spends it at once; else it is held until settled, for no longer than that. `ends`: of calendar
    windows, rising; the first that lies in the store's future is the one that counts.
    """

    bucket: Bucket
    amount: int
    ask: int
    need: int
    lease_us: int = 0
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Charge:
    """Puts `actual` in the place of what a call held. Charged once: what is not held any more changes nothing.

    `anyway`: charge it also when nothing is held: the hold was never asked for, or nobody knows whether it was taken.
    `end`: the calendar window that it was taken in, 0 without one.
    """

    bucket: Bucket
    held: int
    actual: int
    lease_us: int
    end: int = 0
    anyway: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """A bucket after a call: `used` of its amount. Times in microseconds from now.

    `wait_us`: 0, or when to come back, if this bucket has no room. `reset_us`: until nothing is used, as far as known.
    `end`: of its calendar window. `pending`: something is held, so that room may come back early.
    """

    used: int
    wait_us: int
    reset_us: int
    end: int
    pending: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """`standings`, one for each hold and in their order; `taken` False: nothing was taken."""

    taken: bool
    standings: tuple[Standing, ...]


class StoreError(Exception):
    """The store is away, or did not answer in time: nobody knows whether the call was carried out."""


class Store(Protocol):
    async def reserve(self, call: str, holds: Sequence[Hold]) -> Verdict:
        """Takes all holds or none. `call` is unique; no two holds are of one bucket. Raises StoreError."""

    async def settle(self, call: str, charges: Sequence[Charge]) -> None:
        """Raises StoreError."""

    async def close(self) -> None: ...
