"""What is known of a model that is live, with the source of every value."""

from typing import Any

from fastapi import APIRouter, HTTPException

from controlplane.metadata.rows import show as shown
from controlplane.policy.structure import did_you_mean
from controlplane.runtime.controller import Controller
from controlplane.runtime.model_listings import ModelListings


def router(controller: Controller, listings: ModelListings) -> APIRouter:
    """GET /models/NAME; the name may have slashes."""
    made = APIRouter()

    @made.get("/models/{name:path}", summary="What is known of a model, and where it was found")
    def show(name: str) -> dict[str, Any]:
        live = controller.live
        if live is None:
            raise HTTPException(503, "no policy is live yet")
        found = shown(live.compiled.plan, name, listings.listed)
        if found is None:
            hint = did_you_mean(name, [route.name for route in live.compiled.plan.routes])
            raise HTTPException(404, f"there is no model `{name}`{hint}")
        return found

    return made
