"""Issued keys over the admin API. A secret is in the answer that issues it, and nowhere else."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from controlplane.admin.access import Called, Caller, team_of
from controlplane.admin.origin import origin
from controlplane.admin.roles import Action as Permission
from controlplane.admin.roles import Team
from controlplane.audit.entry import Action, Actor, Event
from controlplane.keys.issue import Issued
from controlplane.keys.signing import SigningError
from controlplane.keys.store import IssuedKey, KeyExistsError, KeysError
from controlplane.plan.tokens import priority_in
from controlplane.policy import grammar
from controlplane.policy.diagnostics import PolicyError
from controlplane.policy.language import Policy
from controlplane.policy.types import Priority
from controlplane.runtime.auditing import Auditing
from controlplane.runtime.controller import Controller
from controlplane.runtime.failures import ApplyError
from controlplane.runtime.keys import Keys, UnknownNameError


class KeyBody(BaseModel):
    """A key to issue."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Its name.")
    team: str | None = Field(default=None, description="A team of the live policy.")
    models: list[str] | None = Field(default=None, description="Models it may use, exact or ending in *.")
    limits: list[str] = Field(default=[], description="Limits of the live policy.")
    budget: str | None = Field(default=None, description="A budget of the live policy.")
    addresses: list[str] | None = Field(default=None, min_length=1, description="Networks it may be used from.")
    priority: Priority = Field(
        default="normal", description="Whose requests are first when some wait for a model that runs here."
    )
    expires: str | None = Field(default=None, description="A time, or how long it is good: 30d.")
    who: str = Field(default="", max_length=200, description="Who issues it, for the record.")


class RotateBody(BaseModel):
    """A key to issue anew."""

    model_config = ConfigDict(extra="forbid")

    overlap: str = Field(default="1h", description="How long the old secret is still accepted.")
    who: str = Field(default="", max_length=200)


class SigningBody(BaseModel):
    """A new signing key."""

    model_config = ConfigDict(extra="forbid")

    overlap: str = Field(default="30d", description="How long keys that the old one signed are still accepted.")
    who: str = Field(default="", max_length=200)


def router(controller: Controller, keys: Keys, auditing: Auditing) -> APIRouter:
    """Every change is live at the edge when its answer comes, unless that says in `pending` why it is not."""
    made, calls = APIRouter(), _Calls(controller, keys, auditing)
    made.get("/keys", summary="Issued keys, without their secrets")(calls.listed)
    made.post("/keys", status_code=201, summary="Issues a key; its secret is shown this once")(calls.issue)
    made.post("/keys/{name}/rotate", summary="Issues a key anew; the old secret ends after the overlap")(calls.rotate)
    made.delete("/keys/{name}", summary="Revokes a key: the edge refuses it from now on")(calls.revoke)
    made.post("/signing-keys/rotate", summary="Signs with a new key; the old one counts until the overlap ends")(
        calls.rotate_signing
    )
    return made


class _Calls:
    """The routes."""

    def __init__(self, controller: Controller, keys: Keys, auditing: Auditing) -> None:
        self._controller, self._keys, self._auditing = controller, keys, auditing

    def listed(self, caller: Called) -> dict[str, Any]:
        now, policy = datetime.now(UTC), self._policy()
        accepted = _sayable(lambda: self._keys.signed_by(now))
        mine = (key for key in _sayable(self._keys.list) if caller.holds(team_of(policy, key.team)))
        return {"rows": [_view(key, now, accepted) for key in mine]}

    async def issue(self, body: KeyBody, request: Request, caller: Called) -> dict[str, Any]:
        now, policy, who = datetime.now(UTC), self._policy(), caller.who(body.who)
        name = _parsed(grammar.name, body.name, "name")
        team = body.team or (caller.scope.name if isinstance(caller.scope, Team) else None)
        caller.expect(Permission.ISSUE_KEYS, team_of(policy, team))
        models = None if body.models is None else tuple(_parsed(grammar.pattern, m, "models") for m in body.models)
        addresses = body.addresses and tuple(_parsed(grammar.network, a, "addresses") for a in body.addresses)
        expires = _until(body.expires, now)
        issued = _sayable(
            lambda: self._keys.issue(
                policy, name, team=team, models=models, limits=tuple(dict.fromkeys(body.limits)),
                budget=body.budget, addresses=addresses or None, priority=body.priority, expires=expires, who=who,
                now=now,
            )
        )  # fmt: skip
        ends = issued.expires.isoformat() if issued.expires else None
        pending = await self._tell(
            request, who, Action.KEY_ISSUED, name, team=team, models=body.models, limits=body.limits,
            budget=body.budget, addresses=body.addresses, priority=body.priority, expires=ends,
        )  # fmt: skip
        return _shown(issued, pending)

    async def rotate(self, name: str, body: RotateBody, request: Request, caller: Called) -> dict[str, Any]:
        self._expect(caller, Permission.ISSUE_KEYS, name)
        overlap, who = _overlap(body.overlap), caller.who(body.who)
        issued = _sayable(lambda: self._keys.rotate(name, overlap, who, datetime.now(UTC)))
        pending = await self._tell(request, who, Action.KEY_ROTATED, name, overlap=body.overlap)
        return _shown(issued, pending)

    async def revoke(self, name: str, request: Request, caller: Called, who: str = "") -> dict[str, Any]:
        self._expect(caller, Permission.REVOKE_KEYS, name)
        ended = _sayable(lambda: self._keys.revoke(name, caller.who(who), datetime.now(UTC)))
        pending = await self._tell(request, caller.who(who), Action.KEY_REVOKED, name, revoked=len(ended))
        return {"name": name, "revoked": len(ended), "pending": pending}

    async def rotate_signing(self, body: SigningBody, request: Request, caller: Called) -> dict[str, Any]:
        now = datetime.now(UTC)
        until = now + _overlap(body.overlap)
        fresh, ends = _sayable(lambda: self._keys.rotate_signing(until, now))
        pending = await self._tell(request, caller.who(body.who), Action.SIGNING_ROTATED, fresh, overlap=body.overlap)
        return {"signing_key": fresh, "until": until.isoformat(timespec="seconds"), "ends": ends, "pending": pending}

    def _policy(self) -> Policy:
        if self._controller.live is None:
            raise HTTPException(503, "no policy is live yet")
        return self._controller.live.compiled.policy

    def _expect(self, caller: Caller, action: Permission, name: str) -> None:
        """Refuses those who may not; to whoever may not even see the key, there is none."""
        key = _sayable(lambda: self._keys.get(name))
        if key is None:
            return
        target = team_of(self._policy(), key.team)
        if not caller.holds(target):
            raise HTTPException(404, f"there is no issued key {name!r}")
        caller.expect(action, target)

    async def _tell(self, request: Request, who: str, action: Action, name: str, **details: Any) -> str | None:
        """Records what was done, and has the edge know it. Why it does not know yet: a secret is shown all the same."""
        await self._auditing.tell(Event(Actor("user", who or "unknown", origin(request)), action, name, details))
        try:
            await self._controller.refresh()
        except (PolicyError, ApplyError) as error:
            return str(error)
        return None


def _overlap(text: str) -> timedelta:
    return timedelta(milliseconds=_parsed(grammar.duration, text, "overlap"))


def _sayable(call: Callable[[], Any]) -> Any:
    """Runs a call, with its errors as answers."""
    try:
        return call()
    except (UnknownNameError, ValueError) as error:
        raise HTTPException(422, str(error)) from None
    except KeyExistsError as error:
        raise HTTPException(409, str(error)) from None
    except KeyError as error:
        raise HTTPException(404, f"there is no issued key {error.args[0]!r}") from None
    except (KeysError, SigningError) as error:
        raise HTTPException(503, str(error)) from None


def _parsed(parse: Callable[[str], Any], text: str, field: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise HTTPException(422, f"{field}: {text!r} is not valid, expected {error}") from None


def _until(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    at: datetime = _parsed(lambda given: grammar.later(given, now), text, "expires")
    if at <= now:
        raise HTTPException(422, f"expires: {text} is in the past")
    return at


def _shown(issued: Issued, pending: str | None) -> dict[str, Any]:
    """`pending`: why the edge does not know the key yet, if it does not."""
    return {
        "name": issued.name,
        "secret": issued.secret,
        "expires": issued.expires.isoformat() if issued.expires else None,
        "pending": pending,
    }


def _view(key: IssuedKey, now: datetime, accepted: frozenset[str]) -> dict[str, Any]:
    return {
        "name": key.name,
        "state": _state(key, now, accepted),
        "team": key.team,
        "models": key.models,
        "limits": key.limits,
        "budget": key.budget,
        "addresses": key.addresses,
        "priority": priority_in(key.identity),
        "issued": key.issued.isoformat(),
        "issued_by": key.created_by,
        "expires": key.expires.isoformat() if key.expires else None,
        "revoked": key.revoked_at.isoformat() if key.revoked_at else None,
    }


def _state(key: IssuedKey, now: datetime, accepted: frozenset[str]) -> str:
    """`replaced`: a rotation's old secret, good until `revoked`. `ended`: the key that signed it counts no more."""
    if key.revoked_at is not None and key.revoked_at <= now:
        return "revoked"
    if not key.live(now):
        return "expired"
    if key.kid not in accepted:
        return "ended"
    return "live" if key.current else "replaced"
