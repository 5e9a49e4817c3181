"""The gRPC service: Envoy's rate limit protocol, health checks, and what it counts of itself.

`/headgate.limits.v1.Counters/Read` takes an empty message and answers the counters as JSON; `…/Status` answers which
settings are in force (their fingerprint) and how Redis is: "none" of it is needed, "there" or "away".
"""

import orjson
import structlog
from envoy.service.ratelimit.v3 import rls_pb2 as rls
from google.protobuf.message import DecodeError

from extproc.limits import answers
from extproc.limits.calls import CallError, Done, parse
from extproc.limits.counters import Counters
from extproc.limits.desk import Desk
from extproc.rpc import call as rpc
from extproc.rpc.call import Answer, Method
from extproc.rpc.health import Health
from extproc.rpc.server import Server

_log = structlog.get_logger(__name__)

_OWN = "headgate.limits.v1.Counters"
STATUS = f"/{_OWN}/Status"
_MOST_CALLS = 10_000  # those beyond are refused at once


class RateLimits:
    """Answers Envoy's two calls for each request that some limit concerns."""

    def __init__(self, desk: Desk, counters: Counters) -> None:
        self._desk = desk
        self._counters = counters

    async def should_rate_limit(self, message: bytes) -> Answer:
        """A RateLimitRequest's RateLimitResponse. Raises rpc.CallError."""
        try:
            meant = parse(rls.RateLimitRequest.FromString(message))
            if isinstance(meant, Done):
                await self._desk.settle(meant)
                answer = answers.done()
            else:
                answer = answers.answer(await self._desk.reserve(meant))
        except (CallError, DecodeError) as error:
            self._counters.errors += 1
            _log.error("a call that cannot be read", reason=str(error))
            raise rpc.CallError(rpc.Status.INVALID_ARGUMENT, str(error)) from None
        return Answer(answer.SerializeToString(), last=True)


class Service:
    """The gRPC server on a unix socket."""

    def __init__(self, socket: str, desk: Desk, counters: Counters) -> None:
        self.socket = socket
        self._desk = desk
        self._counters = counters
        self._health = Health()
        limits = RateLimits(desk, counters)
        methods: dict[str, Method] = self._health.methods | {
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit": lambda _: limits.should_rate_limit,
            f"/{_OWN}/Read": lambda _: self._read,
            STATUS: lambda _: self._status,
        }
        self._server = Server(methods, _MOST_CALLS)

    async def start(self) -> None:
        """Raises OSError when the socket cannot be had. Only this user may connect."""
        try:
            await self._server.start(self.socket)
        except OSError as error:
            raise OSError(f"cannot listen on {self.socket}: {error}. Use a path of a folder that exists") from None

    async def drain(self, grace_s: float) -> None:
        """Says that it goes, lets calls in progress end, and stops."""
        self._health.drain()
        await self._server.stop(grace_s)

    def _read(self, _: bytes) -> Answer:
        return Answer(orjson.dumps(self._counters.read()), last=True)

    def _status(self, _: bytes) -> Answer:
        return Answer(orjson.dumps({"settings": self._desk.fingerprint, "redis": self._desk.redis}), last=True)
