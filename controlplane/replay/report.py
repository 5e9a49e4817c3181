"""Outcomes on both sides -> the view that `ctl replay` shows: totals, every request, the worst first. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from controlplane.replay.compare import Difference, compare, percentile
from controlplane.replay.outcome import Outcome
from extproc.usage.record import PICO
from sidecars.recording.exchange import Exchange

_RANKS = {"p50": 0.5, "p95": 0.95}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What still counts as equal. `different`: percent of the requests; `similarity`: of two texts; `latency` and
    `cost`: how many times that of before p95 and sum may be, None: any."""

    different: float = 0.0
    similarity: float = 1.0
    latency: float | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the comparison, an outcome for each request."""

    name: str
    outcomes: Sequence[Outcome]


def report(exchanges: Sequence[Exchange], before: Side, after: Side, limits: Thresholds) -> dict[str, Any]:
    """The view. `equal` says whether everything is within the thresholds; `exceeded` names what is not."""
    found = [
        (compare(one, other, limits.similarity), exchange, one, other)
        for exchange, one, other in zip(exchanges, before.outcomes, after.outcomes, strict=True)
    ]
    found.sort(key=lambda each: each[0].weight, reverse=True)
    different = sum(bool(difference.kinds) for difference, *_ in found)
    totals = {"before": _totals(before), "after": _totals(after)}
    exceeded = _exceeded(different, len(found), totals, limits)
    return {
        "equal": not exceeded,
        "exceeded": exceeded,
        "requests": len(found),
        "different": different,
        **totals,
        "results": [_result(*each) for each in found],
    }


def _exceeded(different: int, requests: int, totals: dict[str, Any], limits: Thresholds) -> list[str]:
    found = []
    if requests and 100 * different / requests > limits.different:
        found.append(f"{different} of {requests} requests differ, at most {limits.different:g} % may")
    before, after = totals["before"], totals["after"]
    if limits.latency is not None:
        earlier, later = before["total_ms"]["p95"], after["total_ms"]["p95"]
        if later > earlier * limits.latency:
            found.append(f"p95 is {later:.0f} ms, {earlier:.0f} ms before: more than {limits.latency:g} times")
    if limits.cost is not None:
        costs = before["cost_usd"], after["cost_usd"]
        if costs[0] is None or costs[1] is None:
            found.append("the cost of some requests is not known")
        elif Decimal(costs[1]) > Decimal(costs[0]) * Decimal(str(limits.cost)):
            found.append(f"the cost is ${costs[1]}, ${costs[0]} before: more than {limits.cost:g} times")
    return found


def _totals(side: Side) -> dict[str, Any]:
    outcomes = side.outcomes
    statuses = Counter(outcome.status for outcome in outcomes)
    answered = [outcome for outcome in outcomes if outcome.status]
    costs = [outcome.cost_pico for outcome in outcomes]
    known = [cost for cost in costs if cost is not None]
    return {
        "name": side.name,
        "statuses": {str(status): statuses[status] for status in sorted(statuses)},
        "broken": sum(bool(outcome.error) for outcome in outcomes),
        "first_ms": {name: percentile([o.first_ms for o in answered], share) for name, share in _RANKS.items()},
        "total_ms": {name: percentile([o.total_ms for o in answered], share) for name, share in _RANKS.items()},
        "cost_usd": usd(sum(known)) if len(known) == len(costs) else None,
        "known_cost_usd": usd(sum(known)),
        "unpriced": len(costs) - len(known),
    }


def _result(difference: Difference, exchange: Exchange, before: Outcome, after: Outcome) -> dict[str, Any]:
    return {
        "id": exchange.id,
        "at": exchange.at,
        "path": exchange.request.path,
        "asked": exchange.model,
        "differs": list(difference.kinds),
        "similarity": round(difference.similarity, 4),
        "before": _outcome(before),
        "after": _outcome(after),
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    said = outcome.said
    return {
        "id": outcome.id,
        "status": outcome.status,
        "error": outcome.error or None,
        "text": said.text,
        "calls": [{"name": name, "arguments": arguments} for name, arguments in said.calls],
        "finish": list(said.finish),
        "embeddings": len(said.vectors),
        "first_ms": outcome.first_ms,
        "total_ms": outcome.total_ms,
        "provider": outcome.provider,
        "model": outcome.model,
        "usage": outcome.usage,
        "cost_usd": None if outcome.cost_pico is None else usd(outcome.cost_pico),
    }


def usd(pico: int) -> str:
    """Picodollars as dollars, exact."""
    return f"{Decimal(pico) / PICO:f}"
