"""Two plans -> what becomes of the counters of limits and budgets: kept, or begun anew. For `ctl diff`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from controlplane.plan.accounts import LIMIT
from controlplane.plan.ir import Plan
from extproc.limits.lanes import Lane
from extproc.limits.tariff import Tariff

Path = tuple[str, ...]

_NO_PRICES = Tariff({}, ())


@dataclass(frozen=True, slots=True)
class CounterChange:
    """A limit or budget that is edited. `kept`: what is counted goes on. `text`: why, or why not."""

    path: Path
    kept: bool
    text: str


@dataclass(frozen=True, slots=True)
class _Counter:
    """`continuity`: counters of the same are the same counters. `means`: all that counting goes by."""

    where: str
    continuity: object
    means: object


def changes(before: Plan | None, after: Plan) -> tuple[CounterChange, ...]:
    """One for each limit or budget that both plans count, and differently."""
    if before is None:
        return ()
    old, new = dict(_counters(before)), dict(_counters(after))
    made = (_change(key[0], old[key], new[key]) for key in new if key in old and old[key] != new[key])
    return tuple(dict.fromkeys(made))


def _change(path: Path, old: _Counter, new: _Counter) -> CounterChange:
    if old.where != new.where:
        return CounterChange(path, False, f"begins anew: counted {new.where}, no longer {old.where}")
    if old.continuity != new.continuity:
        return CounterChange(path, False, "begins anew: its counters are of another form")
    return CounterChange(path, True, "goes on with what is counted")


def _counters(plan: Plan) -> Iterator[tuple[tuple[Path, str], _Counter]]:
    """By path, and by whose they are."""
    for limit in plan.limits:
        path: Path = ("limits", limit.use.name, "requests")
        yield (path, limit.use.place), _Counter("by Envoy", limit, limit)
    for each in plan.counted:
        path = ("budgets", each.use.name) if each.use.budget else ("limits", each.use.name, str(each.rule.kind))
        lane = Lane.of(each.name, each.rule, _NO_PRICES)
        where = f"by the rate limit service, per {each.rule.scope}"
        yield (path, each.use.place), _Counter(where, (each.name, lane.signature), each)
    strict = {each.use.name for each in plan.counted if each.use.budget}
    for account in plan.accounts:
        if account.budget in strict:
            continue
        limit_name = account.budget.removeprefix(LIMIT)
        path = ("limits", limit_name, "tokens") if account.budget != limit_name else ("budgets", account.budget)
        # The ledger knows what was spent over any period.
        place = f"{account.owner_kind}s" if account.owner_kind else "gateway"
        yield (path, place), _Counter("from the ledger", account.unit, replace(account, owner=""))
