"""Spent accounts -> what the edge does with whose requests until when. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.plan.accounts import LIMIT
from controlplane.plan.ir import Plan

_DOWNGRADE = "downgrade:"


@dataclass(frozen=True, slots=True)
class Spent:
    """An account without anything left, as the collector tells it. `until_us`: microseconds since the epoch."""

    name: str
    owner_kind: str
    owner: str
    on_spent: str
    until_us: int


@dataclass(frozen=True, slots=True)
class Denial:
    """What requests of one identity get: another model, or 429. `rate`: a limit, which is over soon, not a budget."""

    identity: str
    name: str
    rate: bool
    until_us: int
    downgrade: str | None = None


def spent(standing: Mapping[str, Any]) -> tuple[Spent, ...]:
    """Reads the collector's document. Raises KeyError or TypeError where it is not one."""
    return tuple(
        Spent(each["budget"], each["owner_kind"], each["owner"], each["on_spent"], each["until_us"])
        for each in standing["accounts"]
        if each["until_us"] is not None and each["on_spent"] != "warn"
    )


def denials(plan: Plan, accounts: Iterable[Spent]) -> tuple[Denial, ...]:
    """One for each identity that is concerned; the open gateway's is "". The hardest and longest one counts."""
    known = {(a.budget, a.owner_kind, a.owner) for a in plan.accounts}
    found: dict[str, Denial] = {}
    for account in accounts:
        if (account.name, account.owner_kind, account.owner) not in known:
            continue  # told before the last edit
        for identity in _identities(plan, account):
            denial = _denial(identity, account)
            if identity not in found or _weight(denial) > _weight(found[identity]):
                found[identity] = denial
    return tuple(found[identity] for identity in sorted(found))


def _identities(plan: Plan, account: Spent) -> Iterable[str]:
    if not account.owner_kind:
        return [""] if plan.open else [key.identity for key in plan.keys]
    return [key.identity for key in plan.keys if getattr(key.owner, account.owner_kind) == account.owner]


def _denial(identity: str, account: Spent) -> Denial:
    downgrade = account.on_spent.removeprefix(_DOWNGRADE) if account.on_spent.startswith(_DOWNGRADE) else None
    return Denial(identity, account.name, account.name.startswith(LIMIT), account.until_us, downgrade)


def _weight(denial: Denial) -> tuple[bool, int]:
    return denial.downgrade is None, denial.until_us
