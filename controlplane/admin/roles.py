"""Who may do what through the admin API: one table. Pure."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Self

from controlplane.policy.secrets import Secret


class Role(IntEnum):
    """A role includes those below it."""

    VIEWER = 1
    MEMBER = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Everything:
    """The whole gateway."""


@dataclass(frozen=True, slots=True)
class Organization:
    """An organization, with all of its teams."""

    name: str


@dataclass(frozen=True, slots=True)
class Team:
    """A team. As a target it says which organization it belongs to, if any; as a scope its name is enough."""

    name: str
    organization: str = ""


Scope = Everything | Organization | Team
Target = Everything | Organization | Team


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody with a token of the admin API."""

    name: str
    role: Role
    scope: Scope


class Action(StrEnum):
    """What the admin API does, as far as permissions tell it apart."""

    READ_STATUS = "read status"
    READ_MODELS = "read models"
    READ_USAGE = "read usage"
    LIST_KEYS = "list keys"
    ISSUE_KEYS = "issue and rotate keys"
    REVOKE_KEYS = "revoke keys"
    READ_POLICY = "read policy and history"
    VALIDATE = "validate"
    DIFF = "diff"
    READ_SNAPSHOT = "read snapshot"
    APPLY = "apply"
    ROLLBACK = "rollback"
    READ_AUDIT = "read audit"
    ROTATE_SIGNING = "rotate signing keys"
    CLEAR_CACHE = "clear the response cache"
    LOAD_MODELS = "load and unload local models"
    READ_LOGS = "read logs"


class Reach(StrEnum):
    """Whose principals may."""

    ALL = "principals of any scope"  # what it shows or changes belongs to nobody in particular
    OWN = "principals whose scope holds the target"
    GATEWAY = "principals of the whole gateway"  # it shows or changes what belongs to every team


# The status, a policy, a snapshot, a diff and the audit log hold every team's names, so a team's principal sees none.
# Validation reads the secrets that a text refers to, and so tells whether they exist.
PERMISSIONS = MappingProxyType(
    {
        Action.READ_STATUS: (Role.VIEWER, Reach.GATEWAY),
        Action.READ_MODELS: (Role.VIEWER, Reach.ALL),
        Action.READ_USAGE: (Role.VIEWER, Reach.OWN),
        Action.LIST_KEYS: (Role.VIEWER, Reach.OWN),
        Action.ISSUE_KEYS: (Role.MEMBER, Reach.OWN),
        Action.REVOKE_KEYS: (Role.MEMBER, Reach.OWN),
        Action.READ_POLICY: (Role.VIEWER, Reach.GATEWAY),
        Action.VALIDATE: (Role.MEMBER, Reach.GATEWAY),
        Action.DIFF: (Role.MEMBER, Reach.GATEWAY),
        Action.READ_SNAPSHOT: (Role.ADMIN, Reach.GATEWAY),
        Action.APPLY: (Role.ADMIN, Reach.GATEWAY),
        Action.ROLLBACK: (Role.ADMIN, Reach.GATEWAY),
        Action.READ_AUDIT: (Role.ADMIN, Reach.GATEWAY),
        Action.ROTATE_SIGNING: (Role.ADMIN, Reach.GATEWAY),
        Action.CLEAR_CACHE: (Role.MEMBER, Reach.GATEWAY),
        Action.LOAD_MODELS: (Role.MEMBER, Reach.GATEWAY),
        Action.READ_LOGS: (Role.ADMIN, Reach.GATEWAY),
    }
)


def allows(principal: Principal, action: Action, target: Target = Everything()) -> bool:
    """Whether the principal may do this.

    Args:
        target: whose usage or keys, for actions whose reach is `OWN`. Everything: those of all teams together.
    """
    role, reach = PERMISSIONS[action]
    if principal.role < role:
        return False
    match reach:
        case Reach.ALL:
            return True
        case Reach.OWN:
            return holds(principal.scope, target)
        case Reach.GATEWAY:
            return isinstance(principal.scope, Everything)


def allows_some(principal: Principal, action: Action) -> bool:
    """Whether the principal may do this to anything at all."""
    role, reach = PERMISSIONS[action]
    return principal.role >= role and (reach is not Reach.GATEWAY or isinstance(principal.scope, Everything))


def holds(scope: Scope, target: Target) -> bool:
    """Whether all of a target lies within a scope. What has no team or organization belongs to the whole gateway."""
    match scope, target:
        case Everything(), _:
            return True
        case Organization(name), Organization(other):
            return name != "" and name == other
        case Organization(name), Team(_, other):
            return name != "" and name == other
        case Team(name), Team(other):
            return name != "" and name == other
        case _:
            return False


@dataclass(frozen=True, slots=True)
class Principals:
    """Principals by their tokens, of which only hashes are kept."""

    _known: tuple[tuple[bytes, Principal], ...] = field(repr=False)

    @classmethod
    def of(cls, tokens: Iterable[tuple[Principal, Secret]]) -> Self:
        """Principals with the token of each.

        Raises:
            ValueError: a token is empty, or two principals have the same. It names the principals, not the token.
        """
        known: dict[bytes, Principal] = {}
        for principal, token in tokens:
            if not token.reveal():
                raise ValueError(f"the token of {principal.name} is empty: set one of at least 16 characters")
            hashed = _hash(token.reveal())
            if hashed in known:
                raise ValueError(f"{known[hashed].name} and {principal.name} have the same token: give each its own")
            known[hashed] = principal
        return cls(tuple(known.items()))

    def find(self, token: str) -> Principal | None:
        """Whose token this is. How long it takes depends on no token, only on how many there are."""
        given, found = _hash(token), None
        for hashed, principal in self._known:
            if hmac.compare_digest(hashed, given):
                found = principal
        return found


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def permissions_page(note: str = "") -> str:
    """The table as Markdown, for the documents: an action a row, the scopes of each role that may."""
    roles = sorted(Role)
    head = ["action", *(role.name.lower() for role in roles)]
    rows = [[str(action), *(_cell(role, action) for role in roles)] for action in Action]
    table = [head, ["---"] * len(head), *rows]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join(["# Permissions of the admin API", "", *([note] if note else []), *lines, "", *_WORDS, ""])


def _cell(role: Role, action: Action) -> str:
    least, reach = PERMISSIONS[action]
    if role < least:
        return "no"
    return {Reach.ALL: "yes", Reach.OWN: "own scope", Reach.GATEWAY: "whole gateway only"}[reach]


_WORDS = (
    "*own scope*: of the team for a team's principal, of the organization and all of its teams for an organization's,",
    "of everybody for a principal of the whole gateway. *whole gateway only*: it shows or changes what belongs to",
    "every team, so principals of a team or an organization may not.",
)
