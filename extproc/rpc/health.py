"""grpc.health.v1.Health: https://github.com/grpc/grpc/blob/master/doc/health-checking.md"""

import asyncio
from collections.abc import Awaitable, Callable

from extproc.rpc.call import Answer, Method

# HealthCheckResponse{status: SERVING | NOT_SERVING | SERVICE_UNKNOWN}, the one field of which this is all there is.
SERVING, NOT_SERVING, UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"


async def _serving(_: str) -> bytes:
    return SERVING


class Health:
    """`check`: how the service of a name is, "" for the whole; not asked any more once it drains."""

    def __init__(self, check: Callable[[str], Awaitable[bytes]] = _serving) -> None:
        self._check = check
        self._draining = asyncio.Event()

    @property
    def methods(self) -> dict[str, Method]:
        return {
            "/grpc.health.v1.Health/Check": lambda _: self._checked,
            "/grpc.health.v1.Health/Watch": lambda _: self._watched,
        }

    def drain(self) -> None:
        """It is going; whoever watches is told."""
        self._draining.set()

    async def _checked(self, request: bytes) -> Answer:
        return Answer(await self._now(request), last=True)

    async def _watched(self, request: bytes) -> Answer:
        return Answer(await self._now(request), then=self._drained())

    async def _drained(self) -> Answer:
        await self._draining.wait()
        return Answer(NOT_SERVING, last=True)

    async def _now(self, request: bytes) -> bytes:
        return NOT_SERVING if self._draining.is_set() else await self._check(_asked_for(request))


def _asked_for(request: bytes) -> str:
    """The one field of grpc.health.v1.HealthCheckRequest: a short text."""
    return request[2:].decode() if request[:1] == b"\x0a" and len(request) > 2 else ""
