"""What each rule costs and why: its part of `ctl explain`."""

from collections.abc import Iterator, Mapping
from typing import Any

from controlplane.plan.ir import Decision, Tier
from controlplane.plan.rules import Inline, Rule
from extproc.server.chain import needs_of
from extproc.stages.protocol import Access

# CPU of Envoy and of the service together, in microseconds, as measured (docs/performance.md): for the
# first message of an exchange, for each further one, and for each part of a stream.
FIRST_US, FURTHER_US, PART_US = 160, 60, 12


def decisions(inline: Inline) -> Iterator[Decision]:
    """One for each rule, in the order of the policy; before them, what counts for clients."""
    if inline.counts:
        what, mechanism = "count tokens for clients", "ext_proc on routes of their own: one message, answered at once"
        why = "requests for answers do not meet it; no provider is asked, but Anthropic for its own models"
        yield Decision(("gateway", "tokenize"), what, Tier.INLINE, mechanism, why)
    for place, rule in enumerate(inline.rules.rules):
        yield Decision(("rules", place), _what(rule), Tier.INLINE, _mechanism(rule), _why(rule))


def _what(rule: Rule) -> str:
    kinds = ", ".join(spec.kind for spec in rule.spec.stages)
    return f"{rule.spec.name}: {kinds}"


def _mechanism(rule: Rule) -> str:
    needs = needs_of((rule.ready,))
    shown = ["the request's body in one message"] if needs.request > Access.NONE else []
    if needs.answer > Access.NONE:
        shown.append("answers held until they are whole")
    if needs.stream > Access.NONE:
        shown.append("streams as they come")
    return f"ext_proc: {', '.join(shown)}" if shown else "nothing to show it"


def _why(rule: Rule) -> str:
    needs = needs_of((rule.ready,))
    asked, answered = needs.request > Access.NONE, needs.answer > Access.NONE
    price = FIRST_US + (FURTHER_US if asked and answered else 0)
    words = [f"about {price} us of CPU for a request" if asked or answered else "free"]
    if needs.stream > Access.NONE:
        words.append(f"{PART_US} for a part of a stream")
    words += [f"waits for the webhook {each['to']}, {each['timeout_ms']} ms at most" for each in _webhooks(rule)]
    words.append("requests fail without it" if rule.spec.closed else "requests pass without it")
    words.append(f"met by {_met_by(rule)}")
    return "; ".join(words)


def asked(inline: Inline) -> tuple[str, ...]:
    """The webhooks that rules ask."""
    return tuple(dict.fromkeys(each["to"] for rule in inline.rules.rules for each in _webhooks(rule)))


def _webhooks(rule: Rule) -> Iterator[Mapping[str, Any]]:
    return (stage.settings for stage in rule.spec.stages if stage.kind == "webhook")


def _met_by(rule: Rule) -> str:
    """Whose requests go to the service, by Envoy's own lookups."""
    lookups = (("models", rule.models), ("keys", rule.keys), ("teams", rule.teams), ("paths", rule.paths))
    by = [f"{what} {', '.join(sorted(values))}" for what, values in lookups if values is not None]
    if rule.stream is not None:
        by.append("streams" if rule.stream else "what is no stream")
    when = rule.spec.when
    seen = [word for word, condition in (("headers", when.headers), ("modality", when.modality)) if condition]
    looked_at = f", where {' and '.join(seen)} are looked at" if seen else ""
    return (" and ".join(by) or "all requests") + looked_at
