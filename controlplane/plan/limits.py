"""Limits and strict budgets -> where each is counted: by Envoy, aside with the usage, or by the rate limit service.

A limit is used once for each kind of place that names it. What Envoy can count it counts; what may be charged after is
an account of the collector; the rest asks the service, on the way of the request.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from controlplane.plan.tokens import Tokens
from controlplane.policy import language
from controlplane.policy.accounts import Budget
from controlplane.policy.grammar import Rate
from controlplane.policy.limits import DEFAULT_PER, Limit, Per, Place
from extproc.limits.settings import By, Kind, Rule, Unit
from extproc.usage.record import PICO
from extproc.usage.windows import ROLLING

# Places of which the collector knows the owner of each request.
_OWNED = (Place.KEYS, Place.TEAMS, Place.ORGANIZATIONS, Place.GATEWAY)
_BY = {Per.KEY: By.KEY, Per.TEAM: By.TEAM, Per.ORGANIZATION: By.ORGANIZATION, Per.GATEWAY: By.ALL}
# Marks on routes: the model that a request counts as, or that it counts under the name it asked for.
MODEL, PATTERN = "model", "model*"


@dataclass(frozen=True, slots=True)
class Use:
    """A limit or budget as one kind of place applies it.

    `owners`: who names it there, where the edge has to know: teams, organizations, models and providers. `groups`: the
    teams or organizations that have counters of their own. `budget`: the name is that of a budget.
    """

    name: str
    place: Place
    per: Per
    owners: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    budget: bool = False

    @property
    def id(self) -> str:
        return self.name if self.place is Place.KEYS else f"{self.name}@{self.place}"


@dataclass(frozen=True, slots=True)
class NativeLimit:
    """At most `burst` requests at once, and `amount` per `per_s` seconds, counted by each Envoy."""

    use: Use
    amount: int
    per_s: int
    burst: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What the rate limit service counts for requests that the use concerns."""

    use: Use
    rule: Rule

    @property
    def name(self) -> str:
        """Of the service's rule. A change of what it means is another name, so that no request is counted as both."""
        return f"{self.use.name}:{self.rule.kind}:{self.use.per}@{self.use.place}"


def aside(limit: Limit, place: Place) -> bool:
    """Whether the collector counts a limit's tokens that is named there: it knows owners, and one node."""
    plain = not limit.strict and not limit.fleet and limit.burst is None
    return limit.tokens is not None and plain and place in _OWNED and limit.per_at(place) is DEFAULT_PER[place]


def native(policy: language.Policy, tokens: Tokens | None) -> Iterator[NativeLimit]:
    """Limits on requests of one node. One that nobody names is there for the key that may be issued next."""
    used = _uses(policy, tokens)
    for name, limit in policy.limits.items():
        rate = limit.requests
        if rate is None or limit.fleet:
            continue
        spare = Use(name, Place.KEYS, limit.per_at(Place.KEYS), (), _groups(policy, limit))
        for use in used.get(name) or ([] if spare.per is Per.PROVIDER else [spare]):
            yield NativeLimit(use, rate.amount, rate.per_seconds, limit.burst or rate.amount)


def counted(policy: language.Policy, tokens: Tokens | None) -> Iterator[Counted]:
    """What the rate limit service counts; nothing in most policies."""
    used = _uses(policy, tokens)
    for name, limit in policy.limits.items():
        for use in used.get(name, ()):
            for rule in _rules(limit, use):
                yield Counted(use, rule)
    spenders = _budget_uses(policy, tokens)
    for name, budget in policy.budgets.items():
        for use in spenders.get(name, ()):
            yield Counted(use, _budget(budget, use))


def _rules(limit: Limit, use: Use) -> Iterator[Rule]:
    if limit.requests is not None and limit.fleet:
        yield _rated(Kind.REQUESTS, limit.requests, limit, use)
    if limit.tokens is not None and not aside(limit, use.place):
        yield _rated(Kind.TOKENS, limit.tokens, limit, use)
    if limit.concurrent is not None:
        yield Rule(
            Kind.CONCURRENT, limit.concurrent, by=_by(use), scope=limit.scope, on_error=limit.on_error or "allow"
        )


def _rated(kind: Kind, rate: Rate, limit: Limit, use: Use) -> Rule:
    enforce = (limit.enforce or "eventual") if kind is Kind.TOKENS else "strict"
    return Rule(
        kind,
        rate.amount,
        per_s=rate.per_seconds,
        burst=limit.burst,
        by=_by(use),
        scope=limit.scope,
        on_error=limit.on_error or ("deny" if limit.strict and kind is Kind.TOKENS else "allow"),
        enforce=enforce,
    )


def _budget(budget: Budget, use: Use) -> Rule:
    rolling = budget.window == "rolling"
    amount, unit = budget.tokens or budget.requests or 0, Unit.TOKENS if budget.tokens else Unit.REQUESTS
    if budget.usd is not None:
        amount, unit = int(budget.usd * PICO), Unit.PICODOLLARS
    return Rule(
        Kind.BUDGET,
        amount,
        per_s=ROLLING[budget.per] if rolling else None,
        calendar=None if rolling else budget.per,
        zone=budget.timezone,
        unit=unit,
        by=_by(use),
        scope=budget.scope,
        on_error=budget.on_error or "deny",
    )


def _by(use: Use) -> By:
    return _BY.get(use.per, By.VALUE)


def _uses(policy: language.Policy, tokens: Tokens | None) -> dict[str, list[Use]]:
    """Limit -> how places use it."""
    named: dict[tuple[str, Place], list[str]] = {}
    for place, owner, names in _naming(policy, tokens):
        for name in names:
            owners = named.setdefault((name, place), [])
            if owner:
                owners.append(owner)
    found: dict[str, list[Use]] = {}
    for (name, place), owners in named.items():
        limit = policy.limits[name]
        use = Use(name, place, limit.per_at(place), tuple(owners), _groups(policy, limit, place, owners))
        found.setdefault(name, []).append(use)
    return found


def _naming(policy: language.Policy, tokens: Tokens | None) -> Iterator[tuple[Place, str, Iterable[str]]]:
    """Who names limits; keys without their names, for their identities say what they name."""
    yield from ((Place.KEYS, "", key.limits) for key in policy.keys.values())
    yield from ((Place.KEYS, "", key.limits) for key in (tokens.keys if tokens else ()))
    for issuer in policy.issuers.values():
        claimed = [name for name, limit in policy.limits.items() if not aside(limit, Place.KEYS)]
        yield Place.KEYS, "", [*issuer.limits, *(claimed if issuer.claims.limits else ())]
    yield from ((Place.TEAMS, name, team.limits) for name, team in policy.teams.items())
    yield from ((Place.ORGANIZATIONS, name, of.limits) for name, of in policy.organizations.items())
    yield from ((Place.MODELS, name, model.limits) for name, model in policy.models.items())
    yield from ((Place.PROVIDERS, name, provider.limits) for name, provider in policy.providers.items())
    yield Place.GATEWAY, "", policy.gateway.limits


def _groups(
    policy: language.Policy, limit: Limit, place: Place = Place.KEYS, owners: Iterable[str] = ()
) -> tuple[str, ...]:
    """The teams or organizations whose requests may meet the limit there."""
    per = limit.per_at(place)
    if per is Per.TEAM:
        return tuple(owners) if place is Place.TEAMS else tuple(policy.teams)
    if per is Per.ORGANIZATION:
        return tuple(owners) if place is Place.ORGANIZATIONS else tuple(policy.organizations)
    return ()


def _budget_uses(policy: language.Policy, tokens: Tokens | None) -> Mapping[str, list[Use]]:
    """Strict budget -> who has one."""
    found: dict[str, dict[Place, list[str]]] = {}

    def add(place: Place, owner: str, names: Iterable[str]) -> None:
        for name in names:
            if policy.budgets[name].enforce == "strict":
                owners = found.setdefault(name, {}).setdefault(place, [])
                if owner:
                    owners.append(owner)

    for key in policy.keys.values():
        add(Place.KEYS, "", key.budget)
    for issued in tokens.keys if tokens else ():
        add(Place.KEYS, "", () if issued.budget is None else (issued.budget,))
    for issuer in policy.issuers.values():
        add(Place.KEYS, "", issuer.budget)
    for name, team in policy.teams.items():
        add(Place.TEAMS, name, team.budget)
    for name, of in policy.organizations.items():
        add(Place.ORGANIZATIONS, name, of.budget)
    add(Place.GATEWAY, "", policy.gateway.budget)
    return {
        name: [Use(name, place, DEFAULT_PER[place], tuple(owners), budget=True) for place, owners in places.items()]
        for name, places in found.items()
    }


def marks(name: str, model: language.Model, uses: Iterable[Use]) -> tuple[tuple[str, str], ...]:
    """What a model's route says about the uses that count its requests, by what: mark -> value."""
    found: dict[str, str] = {}
    for use in uses:
        if use.place is Place.PROVIDERS:
            naming = [p for p in dict.fromkeys(t.provider for g in model.groups for t in g) if p in use.owners]
            if use.per is Per.PROVIDER:
                found.update({f"{use.id}/{provider}": provider for provider in naming})
                continue
            concerned = bool(naming)
        elif use.place is Place.MODELS:
            concerned = use.name in model.limits
        elif use.per is Per.MODEL:
            found.update(_counts_as(name, model, MODEL, PATTERN))
            continue
        else:
            continue
        if concerned and use.per is Per.MODEL:
            found.update(_counts_as(name, model, use.id, f"{use.id}*"))
        elif concerned:
            found[use.id] = "yes"
    return tuple(sorted(found.items()))


def _counts_as(name: str, model: language.Model, exact: str, pattern: str) -> Mapping[str, str]:
    """An alias counts as the model it stands for; what a pattern takes, under the name that was asked for."""
    return {pattern: "yes"} if name.endswith("*") else {exact: model.alias_of or name}
