"""What the workers of rules counted."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter


def router(counters: Callable[[], Awaitable[dict[str, Any]]]) -> APIRouter:
    """GET /rules."""
    made = APIRouter()

    @made.get("/rules", summary="What rules did, counted by the workers that run, since each began")
    async def rules() -> dict[str, Any]:
        return await counters()

    return made
