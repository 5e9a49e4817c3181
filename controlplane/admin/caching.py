"""What the response cache holds, and how it is emptied."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query

from controlplane.runtime.caching import Caching


def router(caching: Caching) -> APIRouter:
    """GET and DELETE /cache."""
    made = APIRouter()

    @made.get("/cache", summary="What the response cache holds and did, by rule")
    async def show() -> dict[str, Any]:
        return _told(await caching.show())

    @made.delete("/cache", summary="Removes cached answers")
    async def clear(
        rule: Annotated[str | None, Query(description="Those of this rule only.")] = None,
    ) -> dict[str, Any]:
        return _told(await caching.clear(rule))

    return made


def _told(answer: dict[str, Any] | None) -> dict[str, Any]:
    if answer is None:
        raise HTTPException(503, "no response cache answers: no rule of the policy has `cache`, or its store is away")
    return {name: value for name, value in answer.items() if name not in ("call", "how")}
