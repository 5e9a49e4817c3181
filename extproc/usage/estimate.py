"""Tokens from bytes, for answers that never stated their usage: calibrated per model on the answers that did. Pure.

Each model has four lines `tokens = a * bytes + b`: its input (bulky bodies, where images hide, apart) and its output
(streams apart, whose framing is many times the text). A line is a least-squares fit of *relative* errors which forgets
exponentially, starts from a prior, and gives observations far outside the usual spread next to no weight.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extproc.usage.reading import MOST_TOKENS
from extproc.usage.record import Tokens

MODELS = 1024
BULKY_BYTES = 64 * 1024  # longer prompts are mostly base64, or mostly text, by model

_VERSION = 1
_KEEP = 1 - 1 / 300  # an observation's weight after the next one: some 300 count
# How many observations the prior's overhead is worth. The slope takes any: providers that send many tokens per event
# are 20 times off the prior.
_OVERHEAD_PRIOR = 0.2
# The share of a stream's overhead that comes before its first token. It cannot be learned from whole streams; more
# than half comes first at Anthropic, less at OpenAI.
_HEAD = 0.5
_SMALL = 10.0  # tokens: errors below this are small however large they are relative to the answer
_FIRST_SPREAD, _LEAST_SPREAD, _MOST_SPREAD = 0.3, 0.02, 2.0
_SPREAD_STEP = 1.15
_YOUNG, _SOLVE_EVERY = 50, 4  # observations
_SETTLED, _SAMPLE = 200, 8  # observations, and of how many answers one is learned from then
_MOST_BYTES = 2**40
_MOST_ERROR = 10.0
_MOST_EXPECTED = 1e12  # tokens: squares of it are numbers
_MOST_SUM = 1e30


@dataclass(frozen=True, slots=True)
class Prior:
    """What holds before the first observation: bytes per token, and bytes that are no token's (may be zero)."""

    per_token: float
    overhead: float


PRIORS: Mapping[str, Prior] = {
    "input": Prior(4.0, 0.0),
    "bulky": Prior(4.0, 0.0),
    "plain": Prior(4.0, 350.0),  # id, model, usage
    "stream": Prior(215.0, 430.0),  # one event per token; the first states the role, the last ones how it ended
}


class _Line:
    """One robust, forgetting fit of `tokens = a * x + b`, where x is the bytes beyond the prior's overhead."""

    __slots__ = ("_a", "_b", "_prior", "_unsolved", "settled", "spread", "sums")

    def __init__(self, prior: Prior) -> None:
        self._prior = prior
        self._a, self._b = 1 / prior.per_token, 0.0
        self._unsolved = 0
        self.settled = False  # many observations, and the last as expected
        self.sums = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)  # observations; then, weighted, 1, x, xx, y, xy
        self.spread = _FIRST_SPREAD  # the median of relative errors

    def at(self, size: int) -> float:
        return min(_MOST_EXPECTED, max(0.0, self._a * (size - self._prior.overhead) + self._b))

    def within(self, size: int) -> float:
        """Of an answer that was cut: part of the overhead comes last, and was not sent."""
        fixed = self._b - self._a * self._prior.overhead
        return max(0.0, self._a * size + (fixed if fixed > 0 else fixed * _HEAD))

    def add(self, size: int, tokens: int) -> float:
        """Learns from an answer; what was expected of it before."""
        x, expected = size - self._prior.overhead, self.at(size)
        # Half expected, half seen: weighing by what is expected alone would let a wrong prior outweigh all that
        # follows, weighing by what is seen alone would favour the low ones.
        scale = (expected + tokens) / 2 + _SMALL
        error = abs(tokens - expected) / scale
        # Geman and McClure's weights. While the fit is off, errors are large and so is the spread: it still learns.
        trust = 1 / (1 + (error / (4 * self.spread)) ** 2) ** 2
        step = _SPREAD_STEP if error > self.spread else 1 / _SPREAD_STEP
        self.spread = min(_MOST_SPREAD, max(_LEAST_SPREAD, self.spread * step))
        weight = trust / scale**2
        wx = weight * x
        count, one, sx, sxx, sy, sxy = self.sums
        self.sums = (
            _KEEP * count + trust,
            _KEEP * one + weight,
            _KEEP * sx + wx,
            _KEEP * sxx + wx * x,
            _KEEP * sy + weight * tokens,
            _KEEP * sxy + wx * tokens,
        )
        # Solving is half of the work, and one observation moves a line that many have made but little.
        self._unsolved += 1
        if count < _YOUNG or self._unsolved >= _SOLVE_EVERY:
            self.solve()
        self.settled = count > _SETTLED and error < 4 * self.spread
        return expected

    def solve(self) -> None:
        """The normal equations of two unknowns, b drawn to zero; a slope below zero is held at zero.

        The pull is in proportion to the sums, so the determinant is above zero whatever the observations are.
        """
        self._unsolved = 0
        count, one, sx, sxx, sy, sxy = self.sums
        if sxx <= 0:  # no observation yet, or none beyond the overhead
            return
        one += _OVERHEAD_PRIOR * one / count
        self._a = max(0.0, (sxy * one - sx * sy) / (sxx * one - sx * sx))
        self._b = (sy - self._a * sx) / one


class _Model:
    """The lines of one served model, and how well they did."""

    __slots__ = ("bulky", "error", "finished", "input", "plain", "stream")

    def __init__(self) -> None:
        self.input, self.bulky = _Line(PRIORS["input"]), _Line(PRIORS["bulky"])
        self.plain, self.stream = _Line(PRIORS["plain"]), _Line(PRIORS["stream"])
        self.finished = 0
        self.error = 0.0

    def lines(self) -> dict[str, _Line]:
        """By the names of PRIORS."""
        return {"input": self.input, "bulky": self.bulky, "plain": self.plain, "stream": self.stream}

    def lines_for(self, streamed: bool, bytes_in: int) -> tuple[_Line, _Line]:
        """Of the input and of the output of one request."""
        return self.bulky if bytes_in > BULKY_BYTES else self.input, self.stream if streamed else self.plain


class Estimator:
    """Estimates per served model; the models used longest ago are forgotten beyond `models`. Not thread-safe."""

    def __init__(self, models: int = MODELS) -> None:
        if models < 1:
            raise ValueError(f"models is {models}, expected at least 1")
        self._most = models
        self._models: OrderedDict[str, _Model] = OrderedDict()

    def observe(self, model: str, streamed: bool, bytes_in: int, bytes_out: int, tokens: Tokens) -> None:
        """Learns from a finished answer that stated its usage. Bytes are of the bodies, as in the usage record."""
        known = self._models.get(model)
        if known is None:
            known = self._models[model] = _Model()
            if len(self._models) > self._most:
                self._models.popitem(last=False)
        else:
            self._models.move_to_end(model)
        known.finished += 1
        into, out = known.lines_for(streamed, bytes_in)
        if into.settled and out.settled and known.finished % _SAMPLE:
            return
        bytes_in, bytes_out = min(bytes_in, _MOST_BYTES), min(bytes_out, _MOST_BYTES)
        expected = 0.0
        for line, size, seen in ((into, bytes_in, tokens.input), (out, bytes_out, tokens.output)):
            if size > 0:
                expected += line.add(size, seen)
        error = min(_MOST_ERROR, abs(expected - tokens.total) / max(1, tokens.total))
        known.error += (error - known.error) * max(1 / known.finished, 1 - _KEEP)

    def estimate(
        self,
        model: str,
        streamed: bool,
        bytes_in: int,
        bytes_out: int,
        *,
        complete: bool = False,
        generates: bool = True,
    ) -> Tokens:
        """What a request took, from the body bytes that went either way.

        Not cached, not reasoning: the full price. `complete` for a stream that went to its end all the same;
        `generates=False` for embeddings and their like, which have no output. Counts are from 0 to MOST_TOKENS; input
        is at least 1 when there was a body.
        """
        into, out = (self._models.get(model) or _UNKNOWN).lines_for(streamed, bytes_in)
        asked = answered = 0
        if bytes_in > 0:
            asked = max(1, _whole(into.at(min(bytes_in, _MOST_BYTES))))
        if bytes_out > 0 and generates:
            bytes_out = min(bytes_out, _MOST_BYTES)
            answered = _whole(out.at(bytes_out) if complete or not streamed else out.within(bytes_out))
        return Tokens(asked, answered)

    def error(self, model: str) -> float | None:
        """The mean relative error in total tokens, over the last few hundred observations; None before the first.

        Of finished answers, each estimated before it was learned from: 0.1 is 10 %, and none counts as more than 10.
        """
        known = self._models.get(model)
        return known.error if known else None

    def dump(self) -> dict[str, Any]:
        """The whole state as a JSON document, least recently used model first, for `load`."""
        return {
            "version": _VERSION,
            "models": {
                name: {
                    "finished": model.finished,
                    "error": model.error,
                    "lines": {kind: [line.spread, *line.sums] for kind, line in model.lines().items()},
                }
                for name, model in self._models.items()
            },
        }

    def load(self, dump: object) -> str:
        """Takes over a dump and says "", or takes nothing over and says why not."""
        if not isinstance(dump, Mapping) or dump.get("version") != _VERSION:
            return f"not a dump of version {_VERSION}"
        models = dump.get("models")
        if not isinstance(models, Mapping):
            return "models: expected an object"
        loaded: OrderedDict[str, _Model] = OrderedDict()
        for name, state in models.items():
            try:
                loaded[name] = _loaded(state)
            except (ArithmeticError, KeyError, TypeError, ValueError) as error:
                return f"models.{str(name)[:80]}: {type(error).__name__} {error}"
        while len(loaded) > self._most:
            loaded.popitem(last=False)
        self._models = loaded
        return ""


_UNKNOWN = _Model()  # never observed: the priors


def topped_up(reported: Tokens, estimated: Tokens) -> Tokens:
    """For a stream that ended before its last usage: Anthropic states the input first, and output only so far."""
    return reported._replace(output=max(reported.output, estimated.output))


def _whole(tokens: float) -> int:
    return round(min(MOST_TOKENS, tokens))


def _loaded(state: Any) -> _Model:
    model = _Model()
    model.finished, model.error = state["finished"], state["error"]
    if type(model.finished) is not int or model.finished < 1:
        raise ValueError(f"finished is {model.finished!r}, expected 1 or more")
    if not 0 <= _finite(model.error) <= _MOST_ERROR:
        raise ValueError(f"error is {model.error!r}, expected 0 to {_MOST_ERROR:g}")
    for kind, line in model.lines().items():
        spread, *sums = map(_finite, state["lines"][kind])
        count, one, sx, sxx, sy, sxy = sums
        # Cauchy and Schwarz: sums of observations obey it, and without it the fit could be anything.
        sound = min(count, one, sxx, sy) >= 0 and (count > 0) == (one > 0) and sx * sx <= sxx * one * (1 + 1e-6)
        if not sound or not _LEAST_SPREAD <= spread <= _MOST_SPREAD:
            raise ValueError(f"lines.{kind} cannot come from observations")
        line.spread, line.sums = spread, (count, one, sx, sxx, sy, sxy)
        line.solve()
    return model


def _finite(number: Any) -> float:
    if type(number) not in (int, float) or not -_MOST_SUM <= number <= _MOST_SUM:
        raise ValueError(f"{number!r} is not a number within {_MOST_SUM:g}")
    return float(number)
