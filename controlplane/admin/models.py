"""What clients can ask for, and the life of the models that run here."""

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from controlplane.admin import views
from controlplane.admin.access import Called
from controlplane.admin.origin import origin
from controlplane.audit.entry import Action, Actor, Event
from controlplane.policy.structure import did_you_mean
from controlplane.runtime.auditing import Auditing
from controlplane.runtime.controller import Controller
from controlplane.runtime.services import Services


class ModelBody(BaseModel):
    """A local model."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=320, description="Its name at its provider, or PROVIDER/NAME.")
    provider: str | None = Field(default=None, description="Its provider, where several have a model of this name.")
    who: str = Field(default="", max_length=200, description="Who asks, for the record.")


def router(
    controller: Controller, services: Services, launched: Callable[[], list[dict[str, Any]]], auditing: Auditing
) -> APIRouter:
    """GET /models, POST /models/load and /models/unload. `launched`: models that are there while their servers are."""
    made = APIRouter()

    @made.get("/models", summary="The models that clients can ask for, and the state of those that run here")
    async def models() -> dict[str, Any]:
        if controller.live is None:
            raise HTTPException(503, "no policy is live yet")
        return {"models": views.models(controller.live.compiled.plan), "local": [*await services.models(), *launched()]}

    async def change(verb: str, action: Action, body: ModelBody, request: Request, caller: Called) -> dict[str, Any]:
        provider, model = _found(await services.models(), body)
        answer = await services.change(verb, provider, model)
        if answer is None:
            raise HTTPException(503, f"the service of `{provider}` does not answer: see `ctl status`")
        status, said = answer
        actor = Actor("user", caller.who(body.who) or "unknown", origin(request))
        await auditing.tell(Event(actor, action, f"{provider}/{model}", {"status": status}))
        if status != 200:
            raise HTTPException(status if status in (404, 503) else 502, said["error"]["message"])
        return {"provider": provider, **said}

    @made.post("/models/load", summary="Loads a local model, and answers when it is ready")
    async def load(body: ModelBody, request: Request, caller: Called) -> dict[str, Any]:
        return await change("load", Action.MODEL_LOADED, body, request, caller)

    @made.post("/models/unload", summary="Lets a local model end what it has and go; the next request loads it again")
    async def unload(body: ModelBody, request: Request, caller: Called) -> dict[str, Any]:
        return await change("unload", Action.MODEL_UNLOADED, body, request, caller)

    return made


def _found(rows: Iterable[dict[str, Any]], body: ModelBody) -> tuple[str, str]:
    """Whose model it is, and its name there. Raises HTTPException, 404 or 409."""
    known: list[tuple[str, str]] = [
        (row["provider"], row["model"]) for row in rows if body.provider in (None, row["provider"])
    ]
    # A name alone, else as lists show it, with the provider in front.
    having = [each for each in known if each[1] == body.model] or [
        each for each in known if "/".join(each) == body.model
    ]
    if len(having) > 1:
        providers = ", ".join(provider for provider, _ in having)
        raise HTTPException(409, f"several providers have a model `{body.model}`: name one of {providers}")
    if having:
        return having[0]
    hint = did_you_mean(body.model, [model for _, model in known])
    raise HTTPException(404, f"no model `{body.model}` runs here{hint} `ctl models list` shows those that do.")
