"""Spent accounts -> what the edge does with whose requests until when. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from controlplane.plan.accounts import LIMIT
from controlplane.plan.ir import Plan
from extproc.usage.identity import identity, of_every_client

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
    """What requests of one identity get: another model, or 429. `rate`: a limit, which is over soon, not a budget.

    `outside`: the identity is the beginning of those of an outside issuer, up to `ISSUER:`, or to `ISSUER:NAME` where
    one client is meant; limits may follow.
    """

    identity: str
    name: str
    rate: bool
    until_us: int
    downgrade: str | None = None
    outside: bool = False


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
        if (account.name, account.owner_kind, of_every_client(account.owner)) not in known:
            continue  # told before the last edit
        for who, outside in _identities(plan, account):
            denial = _denial(who, account, outside)
            if who not in found or _weight(denial) > _weight(found[who]):
                found[who] = denial
    return tuple(found[who] for who in sorted(found))


def _identities(plan: Plan, account: Spent) -> Iterator[tuple[str, bool]]:
    """The identities that an account concerns, and whether each is the beginning of an outside issuer's."""
    kind = account.owner_kind
    if not kind and plan.open:
        yield "", False
    for key in plan.keys:
        if not kind or getattr(key.owner, kind) == account.owner:
            yield key.identity, False
    for owner in dict.fromkeys(owner for issuer in plan.issuers for owner in issuer.owners):
        if kind == "key" and account.owner.startswith(owner.key):
            yield identity(replace(owner, key=account.owner)), True
        elif kind != "key" and (not kind or getattr(owner, kind) == account.owner):
            yield identity(owner), True


def _denial(identity: str, account: Spent, outside: bool) -> Denial:
    downgrade = account.on_spent.removeprefix(_DOWNGRADE) if account.on_spent.startswith(_DOWNGRADE) else None
    return Denial(identity, account.name, account.name.startswith(LIMIT), account.until_us, downgrade, outside)


def _weight(denial: Denial) -> tuple[bool, int]:
    return denial.downgrade is None, denial.until_us
