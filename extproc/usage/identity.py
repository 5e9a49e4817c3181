"""Who a request is from: the identity that authentication puts into a header, and that the access log tells.

`KEY`, `TEAM/KEY` or `ORGANIZATION/TEAM/KEY`, then the names of its limits, and of its budgets with a `$`, each between
semicolons: `acme/search/alice;$monthly;standard;`. An organization without a team leaves the team empty: `acme//alice`.
The key of a client of an outside issuer is `ISSUER:NAME`; no other key has a colon.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Owner:
    """The names in an identity; "" where there is none."""

    key: str
    team: str = ""
    organization: str = ""


def identity(owner: Owner, limits: Iterable[str] = ()) -> str:
    """Membership in limits travels with the identity, so that giving one key a limit refills no bucket of others."""
    steps = [owner.organization, owner.team, owner.key]
    while len(steps) > 1 and not steps[0]:
        del steps[0]
    names = sorted(limits)
    return ";".join(("/".join(steps), *names, "")) if names else "/".join(steps)


@lru_cache(maxsize=8192)
def owner(identity: str) -> Owner:
    """The inverse, limits left out."""
    steps = identity.partition(";")[0].rsplit("/", 2)
    return Owner(*reversed(steps))


def every_client(issuer: str) -> str:
    """The owner of accounts that each client of an outside issuer has for itself; no client can have this name."""
    return f"{issuer}:*"


def of_every_client(key: str) -> str:
    """`corp:bob` -> `corp:*`; a key of another kind is itself."""
    issuer, colon, _ = key.partition(":")
    return every_client(issuer) if colon else key
