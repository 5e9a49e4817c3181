"""What the ledger answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext

from extproc.usage.ledger.histogram import FIRST_BYTE, percentiles
from extproc.usage.record import PICO

_RANKS = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The requests of one group.

    Latencies and times to first token are in milliseconds, at most `histogram.RELATIVE_ERROR` off; None where nothing
    was measured. `error_rate` is 0 to 1.
    """

    group: Mapping[str, str]  # name and value of what was grouped by, in the order asked for; times as ISO 8601
    requests: int
    errors: int  # status >= 400, or the client left before the answer began
    input_tokens: int
    output_tokens: int
    cached_tokens: int  # part of the input
    cache_write_tokens: int  # part of the input
    reasoning_tokens: int  # part of the output
    cost: Decimal | None  # USD, exact, written with format(cost, "f"); None: no request has a price
    unpriced: int  # requests without a known price
    estimated: int  # requests whose tokens are estimated
    abandoned: int  # requests whose answer did not go to its end
    cache_hits: int  # requests that were answered out of the cache
    latency_p50: float | None
    latency_p95: float | None
    latency_p99: float | None
    first_token_p50: float | None
    first_token_p95: float | None
    first_token_p99: float | None
    tokens_per_second: float | None  # output tokens by the time that the requests with output took

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class UnpricedModel:
    """What requests without a known price took of one model."""

    model: str
    provider: str
    served_model: str
    requests: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What one owner used. Requests without a price add nothing to `cost_pico`."""

    requests: int
    tokens: int
    cost_pico: int


def dollars(pico: int) -> Decimal:
    """Picodollars as USD, without a digit lost and without zeros at the end."""
    with localcontext() as context:
        context.prec = 50
        return (Decimal(pico) / PICO).normalize()


def usage_row(group: Mapping[str, str], sums: Mapping[str, int], histogram: Mapping[int, int]) -> UsageRow:
    """The answer for a group, of its summed counters (see reading.SUMS) and its histogram."""
    latencies = percentiles(histogram, 0, _RANKS)
    first_tokens = percentiles(histogram, FIRST_BYTE, _RANKS)
    return UsageRow(
        group=group,
        requests=sums["requests"],
        errors=sums["errors"],
        input_tokens=sums["input_tokens"],
        output_tokens=sums["output_tokens"],
        cached_tokens=sums["cached_tokens"],
        cache_write_tokens=sums["cache_write_tokens"],
        reasoning_tokens=sums["reasoning_tokens"],
        cost=dollars(sums["cost_pico"]) if sums["unpriced"] < sums["requests"] else None,
        unpriced=sums["unpriced"],
        estimated=sums["estimated"],
        abandoned=sums["abandoned"],
        cache_hits=sums["cache_hits"],
        latency_p50=latencies[0],
        latency_p95=latencies[1],
        latency_p99=latencies[2],
        first_token_p50=first_tokens[0],
        first_token_p95=first_tokens[1],
        first_token_p99=first_tokens[2],
        tokens_per_second=sums["output_tokens"] * 1e6 / sums["output_us"] if sums["output_us"] else None,
    )
