"""The grammars of faults: rates (`503=0.05,reset=0.01`) and scripts (`ok*2, 503, hang, ok...`). Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

FAULTS = ("ok", "reset", "cut", "hang", "hang-body")
_STEP = re.compile(r"([a-z-]+|\d{3})(?:\*([1-9]\d{0,5}))?(\.\.\.)?")
_MOST_STEPS = 1_000_000
FAULT = "a status from 200 to 599, reset, cut, hang or hang-body"
SCRIPT = (
    "steps with commas between: ok, a status, reset, cut, hang or hang-body; *N repeats a step, ... after the last one "
    "stays with it, such as `ok*2, 503, hang, ok...`"
)


@dataclass(frozen=True, slots=True)
class Rate:
    """A fault and the share of the requests that it befalls, above 0 and at most 1."""

    fault: str
    rate: float


@dataclass(frozen=True, slots=True)
class Script:
    """Faults in turn. After the last one: from the start again, or with `stays` the last one for ever."""

    steps: tuple[tuple[str, int], ...]
    stays: bool

    def step(self, number: int) -> str:
        """The fault of the `number`-th request, from 0."""
        length = sum(times for _, times in self.steps)
        if number >= length and self.stays:
            return self.steps[-1][0]
        number %= length
        for name, times in self.steps:
            if number < times:
                return name
            number -= times
        raise AssertionError("a number below the length lies in a step")


def fault(rates: Sequence[Rate], drawn: float) -> str:
    """The fault that a number from 0 to 1 stands for; `ok` beyond all rates."""
    for each in rates:
        drawn -= each.rate
        if drawn < 0:
            return each.fault
    return "ok"


def rates(text: str) -> tuple[Rate, ...]:
    """Rates such as `503=0.05,reset=0.01`; raises ValueError with what was expected."""
    found = []
    for part in text.split(","):
        name, equals, share = part.strip().partition("=")
        if not equals or not re.fullmatch(r"\d+(\.\d+)?", share):
            raise ValueError("faults and their rates, such as 503=0.05,reset=0.01")
        found.append(Rate(known_fault(name), float(share)))
    return checked_rates(found)


def checked_rates(found: Sequence[Rate]) -> tuple[Rate, ...]:
    if any(not 0 < each.rate <= 1 for each in found) or sum(each.rate for each in found) > 1 + 1e-9:
        raise ValueError("rates above 0, at most 1 together")
    return tuple(found)


def known_fault(name: str) -> str:
    if name == "ok" or not (name in FAULTS or _is_status(name)):
        raise ValueError(FAULT)
    return name


def script(text: str) -> Script:
    """Raises ValueError with what was expected."""
    steps = []
    written = [part.strip() for part in text.split(",")]
    for position, part in enumerate(written):
        match = _STEP.fullmatch(part)
        if match is None or not (match[1] in FAULTS or _is_status(match[1])):
            raise ValueError(SCRIPT)
        if match[3] and position < len(written) - 1:
            raise ValueError("`...` after the last step only: what follows would never happen")
        steps.append((match[1], int(match[2] or 1)))
    if sum(times for _, times in steps) > _MOST_STEPS:
        raise ValueError(f"at most {_MOST_STEPS} steps")
    return Script(tuple(steps), written[-1].endswith("..."))


def _is_status(text: str) -> bool:
    return text.isascii() and text.isdigit() and 200 <= int(text) <= 599
