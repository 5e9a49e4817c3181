"""How long to wait: a fixed time, or a distribution to draw from, in one grammar for all who say it.

    150ms   uniform(10ms,50ms)   normal(P50,P99)   lognormal(300ms,2s)   exponential(200ms)   empirical(80ms,90ms,2s)

Pure: the source of chance is passed in, so that the same seed draws the same waits.
"""

import math
import re
from dataclasses import dataclass
from random import Random

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_CALL = re.compile(r"([a-z]+)\((.*)\)")
_MOST_S = 3600.0  # a long tail is cut here
_MOST_SAMPLES = 10_000
_Z99 = 2.3263478740408408  # the 99th percentile of the standard normal distribution
EXPECTED = (
    "a duration such as 150ms, or uniform(MIN,MAX), normal(P50,P99), lognormal(P50,P99), exponential(MEAN) or "
    "empirical(A,B,...) of durations"
)


@dataclass(frozen=True, slots=True)
class Distribution:
    """`kind` names it; `values` are its parameters in seconds, in the order they are written."""

    kind: str
    values: tuple[float, ...]

    def draw(self, chance: Random) -> float:
        """Seconds, from 0 to an hour."""
        return min(max(self._draw(chance), 0.0), _MOST_S)

    def _draw(self, chance: Random) -> float:
        match self.kind:
            case "uniform":
                return chance.uniform(*self.values)
            case "normal":
                middle, high = self.values
                return chance.gauss(middle, (high - middle) / _Z99)
            case "lognormal":
                middle, high = self.values
                return chance.lognormvariate(math.log(middle), math.log(high / middle) / _Z99)
            case "exponential":
                return chance.expovariate(1 / self.values[0])
            case _:
                return chance.choice(self.values)


Delay = float | Distribution


def duration(text: str) -> float:
    """Seconds of `150ms`, `2s`, `1.5m` or `1h`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("a duration such as 150ms, 2s or 1m")
    return float(match[1]) * _SECONDS[match[2]]


def delay(text: str) -> Delay:
    """A duration or a distribution; raises ValueError with what was expected."""
    call = _CALL.fullmatch(text)
    try:
        if call is None:
            return duration(text)
        made = Distribution(call[1], tuple(duration(value.strip()) for value in call[2].split(",")))
    except ValueError:
        raise ValueError(EXPECTED) from None
    _check(made)
    return made


def _check(made: Distribution) -> None:
    values = made.values
    if made.kind in ("uniform", "normal", "lognormal"):
        if len(values) != 2 or values[0] > values[1]:
            raise ValueError(f"{made.kind}(A,B) of two durations, the smaller first")
        if made.kind == "lognormal" and not values[0]:
            raise ValueError("lognormal(P50,P99) with a P50 above 0")
    elif made.kind == "exponential":
        if len(values) != 1 or not values[0]:
            raise ValueError("exponential(MEAN) of one duration above 0")
    elif made.kind != "empirical" or len(values) > _MOST_SAMPLES:
        raise ValueError(EXPECTED)
