"""Issued keys over the admin API. A secret is in the answer that issues it, and nowhere else."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from controlplane.admin.origin import origin
from controlplane.audit.entry import Action, Actor, Event
from controlplane.keys.issue import Issued
from controlplane.keys.signing import SigningError
from controlplane.keys.store import IssuedKey, KeyExistsError, KeysError
from controlplane.policy import grammar
from controlplane.runtime.auditing import Auditing
from controlplane.runtime.controller import Controller
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
    expires: str | None = Field(default=None, description="A time, or how long it is good: 30d.")
    who: str = Field(default="", max_length=200, description="Who issues it, for the record.")


class RotateBody(BaseModel):
    """A key to issue anew."""

    model_config = ConfigDict(extra="forbid")

    overlap: str = Field(default="1h", description="How long the old secret is still accepted.")
    who: str = Field(default="", max_length=200)


def router(controller: Controller, keys: Keys, auditing: Auditing) -> APIRouter:
    """Every change is live at the edge when its answer comes."""
    made = APIRouter()

    async def tell(request: Request, who: str, action: Action, name: str, **details: Any) -> None:
        await auditing.tell(Event(Actor("user", who or "unknown", origin(request)), action, name, details))

    @made.get("/keys", summary="Issued keys, without their secrets")
    def listed() -> dict[str, Any]:
        now = datetime.now(UTC)
        return {"rows": [_view(key, now) for key in _sayable(keys.list)]}

    @made.post("/keys", status_code=201, summary="Issues a key; its secret is shown this once")
    async def issue(body: KeyBody, request: Request) -> dict[str, Any]:
        now = datetime.now(UTC)
        if controller.live is None:
            raise HTTPException(503, "no policy is live yet")
        policy, name = controller.live.compiled.policy, _parsed(grammar.name, body.name, "name")
        models = None if body.models is None else tuple(_parsed(grammar.pattern, m, "models") for m in body.models)
        addresses = body.addresses and tuple(_parsed(grammar.network, a, "addresses") for a in body.addresses)
        expires = _until(body.expires, now)
        issued = _sayable(
            lambda: keys.issue(
                policy, name, team=body.team, models=models, limits=tuple(dict.fromkeys(body.limits)),
                budget=body.budget, addresses=addresses or None, expires=expires, who=body.who, now=now,
            )
        )  # fmt: skip
        await tell(
            request, body.who, Action.KEY_ISSUED, name, team=body.team, models=body.models, limits=body.limits,
            budget=body.budget, addresses=body.addresses, expires=expires.isoformat() if expires else None,
        )  # fmt: skip
        await controller.refresh()
        return _shown(issued)

    @made.post("/keys/{name}/rotate", summary="Issues a key anew; the old secret ends after the overlap")
    async def rotate(name: str, body: RotateBody, request: Request) -> dict[str, Any]:
        overlap = timedelta(milliseconds=_parsed(grammar.duration, body.overlap, "overlap"))
        issued = _sayable(lambda: keys.rotate(name, overlap, body.who, datetime.now(UTC)))
        await tell(request, body.who, Action.KEY_ROTATED, name, overlap=body.overlap)
        await controller.refresh()
        return _shown(issued)

    @made.delete("/keys/{name}", summary="Revokes a key: the edge refuses it from now on")
    async def revoke(name: str, request: Request, who: str = "") -> dict[str, Any]:
        ended = _sayable(lambda: keys.revoke(name, who, datetime.now(UTC)))
        await tell(request, who, Action.KEY_REVOKED, name, revoked=len(ended))
        await controller.refresh()
        return {"name": name, "revoked": len(ended)}

    return made


def _sayable(call: Callable[[], Any]) -> Any:
    """Runs a call, with its errors as answers."""
    try:
        return call()
    except UnknownNameError as error:
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
    try:
        return now + timedelta(milliseconds=grammar.clock(text))
    except ValueError:
        at: datetime = _parsed(grammar.moment, text, "expires")
    if at <= now:
        raise HTTPException(422, f"expires: {text} is in the past")
    return at


def _shown(issued: Issued) -> dict[str, Any]:
    return {
        "name": issued.name,
        "secret": issued.secret,
        "expires": issued.expires.isoformat() if issued.expires else None,
    }


def _view(key: IssuedKey, now: datetime) -> dict[str, Any]:
    return {
        "name": key.name,
        "state": "revoked" if key.revoked_at else "live" if key.live(now) else "expired",
        "team": key.team,
        "models": key.models,
        "limits": key.limits,
        "budget": key.budget,
        "addresses": key.addresses,
        "issued": key.issued.isoformat(),
        "issued_by": key.created_by,
        "expires": key.expires.isoformat() if key.expires else None,
        "revoked": key.revoked_at.isoformat() if key.revoked_at else None,
    }
