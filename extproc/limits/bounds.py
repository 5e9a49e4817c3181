"""What a rule costs, and how far it can be exceeded: the texts of `ctl explain` for limits of this service."""

from dataclasses import dataclass

from extproc.limits.settings import Kind, Rule, Unit
from extproc.usage.windows import SECOND, STEPS


@dataclass(frozen=True, slots=True)
class Bound:
    """`price`: what a request pays. `overshoot`: how far over at worst. `refusal`: what is refused though it would fit.

    `away`: what holds while the counters cannot be reached.
    """

    price: str
    overshoot: str
    refusal: str
    away: str


def bound(rule: Rule) -> Bound:
    return Bound(_price(rule), _overshoot(rule), _refusal(rule), _away(rule))


def calls(rule: Rule) -> int:
    """Calls of Envoy to the service for each request: before it, and when it is done. All rules share them."""
    return 1 if rule.kind is not Kind.CONCURRENT and rule.counts is Unit.REQUESTS else 2


def _price(rule: Rule) -> str:
    when = "one call before the request" if calls(rule) == 1 else "one call before the request and one when it is done"
    redis = ", each with one round trip to Redis" if rule.scope == "fleet" and calls(rule) == 2 else ""
    redis = redis or (", with one round trip to Redis" if rule.scope == "fleet" else "")
    return f"{when}{redis}; shared with the request's other limits of this kind"


def _overshoot(rule: Rule) -> str:
    if rule.kind is Kind.CONCURRENT:
        return "none"
    within = f"in any {_span(rule.window_us)}" if rule.window_us else f"in any {rule.calendar} ({rule.zone})"
    most = f"at most {amount_of(rule)} {within}"
    if calls(rule) == 1:
        return f"none: {most}"
    if rule.enforce == "eventual":
        return "what the requests in progress use when it is reached: they are charged when they are done"
    bounds = rule.estimate
    return (
        f"none: {most}, as long as no prompt has more tokens than its bytes / {bounds.bytes_per_token} and no answer "
        f"more than its cap ({bounds.output} where the request states none); else what a request uses beyond that"
    )


def _refusal(rule: Rule) -> str:
    late = f"room comes back up to {_span(-(-rule.window_us // STEPS))} late" if rule.window_us else ""
    if rule.kind is Kind.CONCURRENT:
        return f"a request whose end is never told counts for {_span(rule.lease_us)}"
    if calls(rule) == 1 or rule.enforce == "eventual":
        return late or "none"
    held = "requests in progress count as prompt bytes / "
    held += f"{rule.estimate.bytes_per_token} + output cap until they are done"
    if rule.counts is Unit.PICODOLLARS:
        held += ", at the dearest price of their model"
    return f"{held}; {late}" if late else held


def _away(rule: Rule) -> str:
    if rule.scope == "node":
        kept = rule.calendar or rule.window_us >= 3600 * SECOND
        return f"each node counts for itself, {'over restarts too' if kept else 'and anew after a restart'}"
    if rule.on_error == "deny":
        return "without Redis, requests are refused with 503"
    return "without Redis, requests pass" + ("" if calls(rule) == 1 else "; what they use is charged when it is back")


def amount_of(rule: Rule) -> str:
    """What fits into one window, in its unit."""
    if rule.counts is Unit.PICODOLLARS:
        dollars, rest = divmod(rule.room, 10**12)
        return f"${dollars}" + (f".{rest:012d}".rstrip("0") if rest else "")
    return f"{rule.room} {rule.counts}"


def _span(us: int) -> str:
    """A duration as the policy writes it, three digits below a second."""
    seconds, rest = divmod(us, SECOND)
    if rest or not seconds:
        return f"{round(us / 1000)}ms" if us < 10 * SECOND else f"{us / SECOND:.1f}s"
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
