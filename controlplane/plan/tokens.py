"""Issued keys as the compiler sees them: a value that the rim reads from their store."""

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.language import Policy
from extproc.usage.identity import Owner, identity


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that the edge knows by its signature. `identity` is in its token, so edits of the policy do not change it.

    Names of limits and of the budget are those of the policy.
    """

    name: str
    identity: str
    models: tuple[str, ...] | None
    limits: tuple[str, ...]
    budget: str | None
    owner: Owner
    addresses: tuple[str, ...] | None = None
    priority: str = "normal"


@dataclass(frozen=True, slots=True)
class Tokens:
    """`jwks`: the public keys that verify tokens, as JSON. `revoked`: ids of tokens that are refused nevertheless.

    `keys` are those whose token is accepted.
    """

    jwks: str
    revoked: tuple[str, ...]
    keys: tuple[IssuedKey, ...]


def owner(policy: Policy, name: str, team: str | None) -> Owner:
    """Who a key of this name is. Raises KeyError for a team that the policy does not have."""
    organization = policy.teams[team].organization if team else None
    return Owner(name, team or "", organization or "")


def identity_of(who: Owner, limits: tuple[str, ...], budgets: tuple[str, ...], priority: str = "normal") -> str:
    """The identity of a key. It names its limits and budgets: tokens keep it, whatever becomes of those."""
    first = () if priority == "normal" else (priority_tag(priority),)
    return identity(who, [*first, *limits, *(budget_tag(name) for name in budgets)])


def priority_tag(priority: str) -> str:
    """How an identity says whose turn it is, which no limit and no budget can be called."""
    return f"!{priority}"


def priority_in(identity: str) -> str:
    """The inverse: what an identity says of the turn, `normal` where nothing."""
    names = identity.split(";")[1:]
    return next((each for each in ("high", "low") if priority_tag(each) in names), "normal")


def budget_tag(name: str) -> str:
    """How an identity names a budget, which no limit can be called."""
    return f"${name}"


def conflicts(policy: Policy, tokens: Tokens | None) -> Iterator[Diagnostic]:
    """Where issued keys and the policy do not fit together.

    Names that keys bear and the policy no longer has: leaving them out would lift a bound unseen. And two keys of one
    name.
    """
    for key in tokens.keys if tokens else ():
        if key.name in policy.keys:
            message = f"an issued key is called `{key.name}` too, and usage could not tell the two apart"
            hint = f"rename it, or `ctl keys revoke {key.name}`"
            yield Diagnostic(Severity.ERROR, "issued-key-name", message, None, "another name in `keys`", hint=hint)
        wanted = [("limits", name) for name in key.limits] + [("budgets", key.budget)] * (key.budget is not None)
        for section, name in wanted:
            if name in getattr(policy, section):
                continue
            message = f"the issued key `{key.name}` needs `{name}` of `{section}`, which the policy does not have"
            hint = f"put it back, or `ctl keys revoke {key.name}`"
            yield Diagnostic(Severity.ERROR, "issued-key-needs", message, None, f"`{name}` in `{section}`", hint=hint)
