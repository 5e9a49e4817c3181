"""Budgets and token limits -> accounts: one for each owner that names one."""

from collections.abc import Iterable, Iterator

from controlplane.plan.limits import aside
from controlplane.plan.tokens import Tokens
from controlplane.policy import language
from controlplane.policy.accounts import Budget, Downgrade
from controlplane.policy.limits import Place
from extproc.usage.accounting import AccountSpec
from extproc.usage.budgets import OwnerKind, Unit
from extproc.usage.identity import every_client
from extproc.usage.record import PICO
from extproc.usage.windows import ROLLING

# Token limits are accounts too, under a name that no budget can have.
LIMIT = "limit:"


def accounts(policy: language.Policy) -> Iterator[AccountSpec]:
    """What the collector counts. It tells when an account is spent, and the edge then refuses or downgrades."""
    for name in policy.gateway.budget:
        yield _account(name, policy.budgets[name], "", "")
    yield from _limits(policy, Place.GATEWAY, "", "", policy.gateway.limits)
    for organization, spec in policy.organizations.items():
        for name in spec.budget:
            yield _account(name, policy.budgets[name], "organization", organization)
        yield from _limits(policy, Place.ORGANIZATIONS, "organization", organization, spec.limits)
    for team, of in policy.teams.items():
        for name in of.budget:
            yield _account(name, policy.budgets[name], "team", team)
        yield from _limits(policy, Place.TEAMS, "team", team, of.limits)
    for key, one in policy.keys.items():
        for name in one.budget:
            yield _account(name, policy.budgets[name], "key", key)
        yield from _limits(policy, Place.KEYS, "key", key, one.limits)
    for issuer, outside in policy.issuers.items():
        for name in outside.budget:
            yield _account(name, policy.budgets[name], "key", every_client(issuer))
        yield from _limits(policy, Place.KEYS, "key", every_client(issuer), outside.limits)


def accounts_of(tokens: Tokens | None, policy: language.Policy) -> Iterator[AccountSpec]:
    """Those of issued keys."""
    for key in tokens.keys if tokens else ():
        if key.budget is not None:
            yield _account(key.budget, policy.budgets[key.budget], "key", key.name)
        yield from _limits(policy, Place.KEYS, "key", key.name, key.limits)


def _limits(
    policy: language.Policy, place: Place, kind: OwnerKind, owner: str, names: Iterable[str]
) -> Iterator[AccountSpec]:
    for name in names:
        limit = policy.limits[name]
        if limit.tokens is not None and aside(limit, place):
            yield AccountSpec(
                LIMIT + name, kind, owner, "tokens", limit.tokens.amount, seconds=limit.tokens.per_seconds
            )


def _account(name: str, budget: Budget, kind: OwnerKind, owner: str) -> AccountSpec:
    unit, amount = _amount(budget)
    rolling = budget.window == "rolling"
    downgrade = budget.on_spent.downgrade if isinstance(budget.on_spent, Downgrade) else None
    return AccountSpec(
        budget=name,
        owner_kind=kind,
        owner=owner,
        unit=unit,
        amount=amount,
        period=None if rolling else budget.per,
        zone=budget.timezone,
        seconds=ROLLING[budget.per] if rolling else 0,
        warn=tuple(format(part, "f") for part in budget.warn),
        on_spent=f"downgrade:{downgrade}" if downgrade else str(budget.on_spent),
        webhooks=tuple(dict.fromkeys(budget.webhooks)),
    )


def _amount(budget: Budget) -> tuple[Unit, int]:
    if budget.usd is not None:
        return "pico", int(budget.usd * PICO)
    if budget.tokens is not None:
        return "tokens", budget.tokens
    return "requests", budget.requests or 0
