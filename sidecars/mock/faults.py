"""Requests that go wrong by rate or by script, and waits that are drawn: what becomes of a request, decided by number.

A fault is `ok`, a status, `reset` (the connection is closed before the headers), `cut` (after the first chunk, or in
the middle of a plain answer), `hang` (no headers ever) or `hang-body` (headers and nothing more).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from types import MappingProxyType
from typing import Any

from sidecars.mock.controls import Controls
from sidecars.mock.delays import Distribution
from sidecars.mock.steps import fault

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_FAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ok": _NOTHING,
        "reset": {"fail_after": 0},
        "cut": {"fail_after": 1},
        "hang": {"hang": "headers"},
        "hang-body": {"hang": "body"},
    }
)


@dataclass(frozen=True, slots=True)
class Fate:
    """What a request gets: its controls, the waits before the headers and before each chunk in seconds, and where the
    latter are drawn, one after the other, their source."""

    controls: Controls
    delay: float = 0.0
    pause: float = 0.0
    waits: Iterator[float] | None = None


class Fates:
    """Decides request by request. The n-th request that leaves something open gets the n-th draws of the seed, so what
    it gets depends on the order of requests only, not on how their chunks mix."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._numbers = count()
        self._positions: defaultdict[tuple[object, str], Iterator[int]] = defaultdict(count)

    def decide(self, controls: Controls, model: str) -> Fate:
        delay, pause = controls.delay, controls.chunk_delay
        if isinstance(delay, float) and isinstance(pause, float) and not (controls.errors or controls.script):
            return Fate(controls, delay, pause)
        chance = Random(self._seed << 64 | next(self._numbers))  # noqa: S311 - reproducible, not secret
        changes: Mapping[str, Any] = _NOTHING
        if controls.script is not None:
            changes = overrides(controls.script.step(next(self._positions[controls.script, model])))
        if controls.errors and not changes:
            changes = overrides(fault(controls.errors, chance.random()))
        changed = replace(controls, **changes) if changes else controls
        waited = delay if isinstance(delay, float) else delay.draw(chance)
        if isinstance(pause, float):
            return Fate(changed, waited, pause)
        return Fate(changed, waited, waits=_draws(pause, chance))


def overrides(name: str) -> Mapping[str, Any]:
    """The controls that a fault stands for; an error's own body takes the place of any other."""
    return _FAULTS[name] if name in _FAULTS else {"status": int(name), "body": None}


def _draws(distribution: Distribution, chance: Random) -> Iterator[float]:
    while True:
        yield distribution.draw(chance)
