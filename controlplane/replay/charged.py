"""What requests cost: replayed ones as the ledger of their gateway says, recorded ones at the same prices. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import orjson

from controlplane.plan.ir import Plan
from controlplane.replay.outcome import Outcome
from controlplane.xds.accounting import lower
from extproc.usage import reading
from extproc.usage.prices import cost
from extproc.usage.record import UsageRecord


def charged(outcomes: Sequence[Outcome], records: Iterable[UsageRecord]) -> list[Outcome]:
    """The outcomes with provider, model and cost of their usage records. What reached no provider has no record, and
    costs nothing."""
    by_id = {record.id.rpartition(".")[0]: record for record in records}
    return [_charged(outcome, by_id.get(outcome.id)) for outcome in outcomes]


def _charged(outcome: Outcome, record: UsageRecord | None) -> Outcome:
    if record is None:
        return replace(outcome, cost_pico=0)
    return replace(outcome, provider=record.provider, model=record.served_model, cost_pico=record.cost_pico)


def at_prices_of(plan: Plan, recorded: Sequence[Outcome], replayed: Sequence[Outcome]) -> list[Outcome]:
    """Recorded outcomes with what their tokens would have cost where the same request went when it was replayed."""
    accounting = lower(plan)
    book = accounting.price_book()
    families = {of.name: accounting.catalog_family[cluster] for cluster, of in accounting.clusters.items()}

    def priced(before: Outcome, after: Outcome) -> Outcome:
        if not 200 <= before.status < 300:
            return replace(before, cost_pico=0)
        stated = reading.tokens([orjson.dumps(before.usage)]).tokens if before.usage else None
        if stated is None or not after.provider or not after.model:
            return before
        found = book.find(after.model, families.get(after.provider, ""), after.provider)
        return before if found is None else replace(before, cost_pico=cost(found.price, stated))

    return [priced(*pair) for pair in zip(recorded, replayed, strict=True)]
