"""Who calls the admin API, and whether they may: asked for every route, in one place, before anything else runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from controlplane.admin.roles import (
    Action,
    Everything,
    Organization,
    Principal,
    Principals,
    Role,
    Scope,
    Target,
    Team,
    allows,
    allows_some,
    holds,
)
from controlplane.compiling import Compiled
from controlplane.policy.language import Admin, Policy
from controlplane.policy.secrets import Secret, Secrets

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

# What each route is, as far as permissions tell it apart. A route that is not here is refused to everybody.
ROUTES: Mapping[tuple[str, str], Action] = MappingProxyType(
    {
        ("GET", "/openapi.json"): Action.READ_MODELS,
        ("GET", "/status"): Action.READ_STATUS,
        ("GET", "/nodes"): Action.READ_STATUS,
        ("GET", "/processes/{name}/log"): Action.READ_LOGS,
        ("GET", "/rules"): Action.READ_STATUS,
        ("GET", "/endpoints"): Action.READ_STATUS,
        ("GET", "/cache"): Action.READ_STATUS,
        ("DELETE", "/cache"): Action.CLEAR_CACHE,
        ("GET", "/models"): Action.READ_MODELS,
        ("POST", "/models/load"): Action.LOAD_MODELS,
        ("POST", "/models/unload"): Action.LOAD_MODELS,
        ("GET", "/models/{name:path}"): Action.READ_MODELS,
        ("GET", "/usage"): Action.READ_USAGE,
        ("GET", "/usage/unpriced"): Action.READ_USAGE,
        ("GET", "/usage/records"): Action.READ_USAGE,
        ("GET", "/budgets"): Action.READ_USAGE,
        ("GET", "/keys"): Action.LIST_KEYS,
        ("POST", "/keys"): Action.ISSUE_KEYS,
        ("POST", "/keys/{name}/rotate"): Action.ISSUE_KEYS,
        ("DELETE", "/keys/{name}"): Action.REVOKE_KEYS,
        ("POST", "/signing-keys/rotate"): Action.ROTATE_SIGNING,
        ("GET", "/history"): Action.READ_POLICY,
        ("GET", "/revisions/{number}"): Action.READ_POLICY,
        ("GET", "/policy"): Action.READ_POLICY,
        ("POST", "/validate"): Action.VALIDATE,
        ("POST", "/diff"): Action.DIFF,
        ("GET", "/snapshot"): Action.READ_SNAPSHOT,
        ("POST", "/apply"): Action.APPLY,
        ("POST", "/rollback"): Action.ROLLBACK,
        ("GET", "/audit"): Action.READ_AUDIT,
    }
)
# Routes that ask for a token of their own, and know no principals.
SERVICES = frozenset({("POST", "/register"), ("POST", "/register/{id}/heartbeat"), ("DELETE", "/register/{id}")})
_ADMINISTRATOR = Principal("admin", Role.ADMIN, Everything())


class RefusedError(Exception):
    """A call that is not answered. Its text says why, and what to do."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose call this is. `user`: one of `gateway.admin.users`, whose name is known; else whoever calls says it."""

    principal: Principal
    user: bool

    def who(self, said: str) -> str:
        """The name for the records: what a user says of itself does not count."""
        return self.principal.name if self.user else said

    @property
    def scope(self) -> Scope:
        return self.principal.scope

    def may(self, action: Action, target: Target) -> bool:
        return allows(self.principal, action, target)

    def expect(self, action: Action, target: Target) -> None:
        """Raises RefusedError unless they may do this to this target."""
        if not self.may(action, target):
            raise _forbidden(self.principal, action)

    def holds(self, target: Target) -> bool:
        return holds(self.scope, target)


def team_of(policy: Policy, name: str | None) -> Target:
    """A team as a target; what has no team belongs to the whole gateway."""
    if not name:
        return Everything()
    team = policy.teams.get(name)
    return Team(name, (team.organization or "") if team else "")


class Access:
    """Reads who may call from the policy that is live, so that an edit of users or of their tokens counts at once.

    `loopback`: the API listens where only this machine reaches it. There, without a token and users, every caller is
    the administrator.
    """

    def __init__(self, compiled: Callable[[], Compiled | None], *, loopback: bool) -> None:
        self._compiled, self._loopback = compiled, loopback
        self._known: tuple[Compiled | None, Principals | None] = (None, None)

    async def guard(
        self,
        request: Request,
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        """Raises RefusedError; what follows finds the caller by `caller_of`."""
        own = f"{request.scope['scheme']}://{request.headers.get('host', '')}"
        if request.headers.get("origin", own) != own:
            raise RefusedError(403, "origin_not_allowed", "Requests from pages of other sites are refused.")
        route = (request.method, request.scope["route"].path)
        if route in SERVICES:
            return
        caller = self._caller(request, given.credentials if given else "")
        request.state.caller = caller
        action = ROUTES.get(route)
        if action is None or not allows_some(caller.principal, action):
            raise _forbidden(caller.principal, action)

    def _caller(self, request: Request, token: str) -> Caller:
        principals = self._principals()
        if principals is None:
            if not self._loopback:
                raise RefusedError(401, "no_token_set", "Set `gateway.admin.token`: this address is open to others.")
            if _hostname(request) not in LOOPBACK:  # or a page in a browser could reach it under a name of its own
                raise RefusedError(400, "invalid_host", "Call it by a loopback name, such as 127.0.0.1.")
            return Caller(_ADMINISTRATOR, user=False)
        found = principals.find(token) if token else None
        if found is None:
            said = "is not known" if token else "is missing"
            raise RefusedError(
                401,
                "invalid_admin_token",
                f"The token {said}: send `Authorization: Bearer TOKEN` with the one of `gateway.admin.token`, or of "
                "one of its users; `ctl` takes it from --token or HEADGATE_TOKEN.",
            )
        return Caller(found, user=found is not _ADMINISTRATOR)

    def _principals(self) -> Principals | None:
        """Those of the live policy; None where it names nobody."""
        compiled = self._compiled()
        if compiled is not self._known[0]:
            self._known = (compiled, None if compiled is None else _principals(compiled))
        return self._known[1]


def _hostname(request: Request) -> str:
    """As the header says; the framework would put its own address in place of a name that is none."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _principals(compiled: Compiled) -> Principals | None:
    tokens = _tokens(compiled.policy.gateway.admin, compiled.secrets)
    return Principals.of(tokens) if tokens else None


def _tokens(admin: Admin, secrets: Secrets) -> list[tuple[Principal, Secret]]:
    found = [] if admin.token is None else [(_ADMINISTRATOR, secrets[admin.token])]
    for name, user in admin.users.items():
        scope: Scope = Everything()
        if user.team is not None:
            scope = Team(user.team)
        elif user.organization is not None:
            scope = Organization(user.organization)
        found.append((Principal(name, Role[user.role.upper()], scope), secrets[user.token]))
    return found


def caller_of(request: Request) -> Caller:
    """Whose call it is; only for routes behind the guard."""
    found: Caller = request.state.caller
    return found


Called = Annotated[Caller, Depends(caller_of)]


def name_of(request: Request) -> str:
    """Who called, for the audit log, also where the call was refused."""
    found = getattr(request.state, "caller", None)
    return found.principal.name if isinstance(found, Caller) else getattr(request.state, "service", "unknown")


async def answer(_: Request, error: Exception) -> JSONResponse:
    """A refusal in OpenAI's shape."""
    if not isinstance(error, RefusedError):
        raise error
    kind = "permission_error" if error.status == 403 else "invalid_request_error"
    content = {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}
    return JSONResponse(content, error.status, {"www-authenticate": "Bearer"} if error.status == 401 else None)


def _forbidden(principal: Principal, action: Action | None) -> RefusedError:
    what = f"{action}" if action else "use this route"
    scope = principal.scope
    whose = "" if isinstance(scope, Everything) else f" of {type(scope).__name__.lower()} `{scope.name}`"
    return RefusedError(
        403,
        "permission_denied",
        f"`{principal.name}` ({principal.role.name.lower()}{whose}) may not {what} here. "
        "Ask an administrator, or have `gateway.admin.users` changed.",
    )
