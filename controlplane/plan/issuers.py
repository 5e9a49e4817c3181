"""Outside issuers: what makes a client of theirs, and whose requests those are. Plain values, ready to be lowered."""

from collections.abc import Iterator, Mapping

from controlplane.plan import upstreams
from controlplane.plan.ir import Issuer, RemoteKeys
from controlplane.plan.limits import aside
from controlplane.plan.tokens import budget_tag, owner
from controlplane.policy import language
from controlplane.policy.issuers import Issuer as Spec
from controlplane.policy.issuers import JwksUrl
from controlplane.policy.limits import Limit, Place
from controlplane.policy.secrets import SecretRef
from extproc.usage.identity import Owner


def prefix(issuer: str) -> str:
    """How the names of an issuer's clients begin; no other key's name holds a colon."""
    return f"{issuer}:"


def build(policy: language.Policy) -> Iterator[Issuer]:
    """The issuers of a checked policy."""
    for name, spec in policy.issuers.items():
        yield Issuer(
            name=name,
            issuer=spec.issuer,
            audiences=tuple(spec.audience),
            keys=_keys(name, spec),
            key_claim=spec.claims.key,
            team_claim=spec.claims.team,
            limits_claim=spec.claims.limits,
            models_claim=spec.claims.models,
            teams=_teams(policy, name, spec) if spec.claims.team else (),
            otherwise=None if spec.claims.team and not spec.team else owner(policy, prefix(name), spec.team),
            models=None if spec.models is None or "*" in spec.models else tuple(spec.models),
            limits=tuple(spec.limits),
            budgets=tuple(budget_tag(budget) for budget in spec.budget),
            named_limits=claimable(policy.limits) if spec.claims.limits else (),
        )


def claimable(limits: Mapping[str, Limit]) -> tuple[str, ...]:
    """Limits that a claim can name: not those that the collector counts, for nobody knows ahead whom they are for."""
    return tuple(name for name, limit in limits.items() if not aside(limit, Place.KEYS))


def _keys(name: str, spec: Spec) -> SecretRef | RemoteKeys:
    jwks = spec.jwks
    if not isinstance(jwks, JwksUrl):
        return jwks
    return RemoteKeys(str(jwks.url), upstreams.issuer(f"issuer/{name}", jwks.url, jwks.ca), jwks.refresh)


def _teams(policy: language.Policy, name: str, spec: Spec) -> tuple[tuple[str, Owner], ...]:
    named = spec.teams or {team: team for team in policy.teams}
    return tuple((value, owner(policy, prefix(name), team)) for value, team in named.items())
