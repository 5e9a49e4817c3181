"""The gRPC service: Envoy's rate limit protocol, health checks, and what it counts of itself.

`/headgate.limits.v1.Counters/Read` takes an empty message and answers the counters as JSON; `…/Status` answers which
settings are in force (their fingerprint) and how Redis is: "none" of it is needed, "there" or "away".
"""

import asyncio
import os
from typing import Any

import grpc
import orjson
import structlog
from envoy.service.ratelimit.v3 import rls_pb2 as rls
from envoy.service.ratelimit.v3 import rls_pb2_grpc

from extproc.limits import answers
from extproc.limits.calls import CallError, Done, parse
from extproc.limits.counters import Counters
from extproc.limits.desk import Desk

_log = structlog.get_logger(__name__)

# grpc.health.v1.HealthCheckResponse{status: SERVING | NOT_SERVING}, the one field of which this is all there is to
# say: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
_NOTHING = b""
_OWN = "headgate.limits.v1.Counters"
STATUS = f"/{_OWN}/Status"


class RateLimits(rls_pb2_grpc.RateLimitServiceServicer):  # type: ignore[misc]
    """Answers Envoy's two calls for each request that some limit concerns."""

    def __init__(self, desk: Desk, counters: Counters) -> None:
        self._desk = desk
        self._counters = counters

    async def ShouldRateLimit(  # noqa: N802 - the protocol's name
        self, request: rls.RateLimitRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> rls.RateLimitResponse:
        try:
            meant = parse(request)
            if isinstance(meant, Done):
                await self._desk.settle(meant)
                return answers.done()
            return answers.answer(await self._desk.reserve(meant))
        except CallError as error:
            self._counters.errors += 1
            _log.error("a call that cannot be read", reason=str(error))
            return await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


class Service:
    """The gRPC server on a unix socket."""

    def __init__(self, socket: str, desk: Desk, counters: Counters) -> None:
        self.socket = socket
        self._desk = desk
        self._counters = counters
        self._draining = asyncio.Event()
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        rls_pb2_grpc.add_RateLimitServiceServicer_to_server(RateLimits(desk, counters), self._server)
        self._server.add_generic_rpc_handlers((self._health(), self._reading()))

    async def start(self) -> None:
        """Raises OSError when the socket cannot be had. Only this user may connect."""
        mask = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{self.socket}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self.socket}: {error}. Use a path of a folder that exists") from None
        finally:
            os.umask(mask)
        await self._server.start()

    async def drain(self, grace_s: float) -> None:
        """Says that it goes, lets calls in progress end, and stops."""
        self._draining.set()
        await self._server.stop(grace_s)

    def _health(self) -> Any:
        return grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health",
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    def _reading(self) -> Any:
        handlers = {"Read": self._read, "Status": self._status}
        return grpc.method_handlers_generic_handler(
            _OWN, {name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in handlers.items()}
        )

    async def _check(self, _request: bytes, _context: Any) -> bytes:
        return _NOT_SERVING if self._draining.is_set() else _SERVING

    async def _watch(self, _request: bytes, context: Any) -> None:
        await context.write(await self._check(_NOTHING, context))
        await self._draining.wait()
        await context.write(_NOT_SERVING)

    async def _read(self, _request: bytes, _context: Any) -> bytes:
        return orjson.dumps(self._counters.read())

    async def _status(self, _request: bytes, _context: Any) -> bytes:
        return orjson.dumps({"settings": self._desk.fingerprint, "redis": self._desk.redis})
