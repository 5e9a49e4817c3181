"""The gRPC service of one worker: Envoy's ext_proc protocol, health by settings version, and counters.

`/headgate.inline.v1.Counters/Read` takes an empty message and answers the counters as JSON.
"""

import asyncio
import os
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import grpc
import orjson
import structlog
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from extproc.server import exchange as exchanges
from extproc.server import settings
from extproc.server.counters import Counters
from extproc.server.exchange import Exchange
from extproc.server.library import Library, UnknownError
from extproc.server.translating import TRANSLATION, Translating
from extproc.stages.settings import SettingsError
from extproc.translate.settings import Translation, parse

_log = structlog.get_logger(__name__)

# grpc.health.v1.HealthCheckResponse{status: SERVING | NOT_SERVING | SERVICE_UNKNOWN}, all that there is to say:
# https://github.com/grpc/grpc/blob/master/doc/health-checking.md
_SERVING, _NOT_SERVING, _UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
# A body beyond this goes to a thread, so that small ones need not wait for it.
_LARGE = 128 << 10
# Exchanges beyond these get an error at once, and those that wait have nothing but their name in memory.
MOST_EXCHANGES = 10_000
_READ_AT_ONCE = 32
_WINDOW = 256 << 10
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]


class Processor:
    """Takes exchanges, each through the chain of its route."""

    def __init__(self, library: Library, counters: Counters) -> None:
        self._library = library
        self._counters = counters
        # Bodies are read for so many exchanges at once; gRPC's flow control holds back the others.
        self._turn = asyncio.Semaphore(_READ_AT_ONCE)

    async def process(self, _: Any, context: Any) -> None:
        """One exchange, one answer for each message, until Envoy has no more of them."""
        try:
            await self._exchange(context)
        except (ValueError, UnknownError, OSError) as error:
            self._counters.broken += 1
            _log.error("an exchange cannot be served", reason=str(error))
            # Closed rules have Envoy fail the request then, others let it pass.
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "see the worker's log")

    async def _exchange(self, context: Any) -> None:
        async with self._turn:
            raw = await context.read()
            if raw is _EOF:
                return
            message = ext_proc.ProcessingRequest.FromString(raw)
            exchange = self._translating(context) or await self._begun(message)
            answer = await _responded(exchange, message, len(raw))
            del raw, message
        while True:
            # Envoy takes it at the client's pace; the next message is read when this one is gone.
            await context.write(answer)
            raw = await context.read()
            if raw is _EOF:
                return
            answer = await _responded(exchange, ext_proc.ProcessingRequest.FromString(raw), len(raw))

    def _translating(self, context: Any) -> Translating | None:
        """Where an attempt at a provider is to be translated, the exchange says how."""
        told = next((value for name, value in context.invocation_metadata() if name == TRANSLATION), None)
        if told is None:
            return None
        return Translating(_translation(told), counters=self._counters, now=datetime.now(UTC))

    async def _begun(self, message: ext_proc.ProcessingRequest) -> Exchange:
        version, name, streamed = settings.place(exchanges.route(message))
        chain = self._library.known(version, name)
        if chain is None:
            await self._library.load(version)
            chain = self._library.known(version, name)
        if chain is None:
            raise UnknownError(f"version {version} was let go of at once: too many versions are in use")
        return Exchange(chain, streamed=streamed, counters=self._counters, now=datetime.now(UTC))


@lru_cache(maxsize=1024)
def _translation(told: str) -> Translation:
    return parse(told)


async def _responded(exchange: Exchange | Translating, message: ext_proc.ProcessingRequest, size: int) -> bytes:
    answer = exchange.respond(message) if size <= _LARGE else await asyncio.to_thread(exchange.respond, message)
    return bytes(answer.SerializeToString())


class Service:
    """The gRPC server on a unix socket."""

    def __init__(self, socket: str, library: Library, counters: Counters) -> None:
        self.socket = socket
        self._library = library
        self._counters = counters
        self._draining = asyncio.Event()
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", -1),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", _WINDOW),
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MOST_EXCHANGES)
        self._server.add_generic_rpc_handlers((self._processing(), self._health(), self._reading()))

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
        """Says that it goes, lets exchanges in progress end, and stops."""
        self._draining.set()
        await self._server.stop(grace_s)

    def _processing(self) -> Any:
        processor = Processor(self._library, self._counters)
        handlers = {"Process": grpc.stream_stream_rpc_method_handler(processor.process)}
        return grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", handlers)

    def _health(self) -> Any:
        handlers = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers)

    def _reading(self) -> Any:
        handlers = {"Read": grpc.unary_unary_rpc_method_handler(self._read)}
        return grpc.method_handlers_generic_handler("headgate.inline.v1.Counters", handlers)

    async def _check(self, request: bytes, _context: Any) -> bytes:
        """The service's name is a settings version, or empty: whether requests that name it can be served."""
        if self._draining.is_set():
            return _NOT_SERVING
        version = _asked_for(request)
        if version:
            try:
                await self._library.load(version)
            except UnknownError:
                return _UNKNOWN
            except (SettingsError, OSError) as error:
                _log.error("settings cannot be used", version=version, reason=str(error))
                return _NOT_SERVING
        return _SERVING

    async def _watch(self, request: bytes, context: Any) -> None:
        await context.write(await self._check(request, context))
        await self._draining.wait()
        await context.write(_NOT_SERVING)

    async def _read(self, _request: bytes, _context: Any) -> bytes:
        return orjson.dumps(self._counters.read())


def _asked_for(request: bytes) -> str:
    """The one field of grpc.health.v1.HealthCheckRequest: a short text."""
    return request[2:].decode() if request[:1] == b"\x0a" and len(request) > 2 else ""
