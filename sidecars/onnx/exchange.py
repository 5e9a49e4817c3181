"""What every request has in common: its body, its priority, the client that may leave, errors, its line of counts."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from time import perf_counter
from typing import Any
from uuid import uuid4

import structlog
from fastapi import FastAPI, Request, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidecars.onnx.batch import Priority
from sidecars.onnx.errors import ServiceError, invalid
from sidecars.onnx.metrics import Metrics

PRIORITY = "x-headgate-priority"
REQUEST_ID = "x-request-id"
_MAX_ID = 200
_LEFT = 499  # as proxies write a client that left before its answer
_BROKEN = ServiceError(500, "internal_error", "The service failed; its log has the reason.")
_log = structlog.get_logger(__name__)


class LeftError(Exception):
    """The client left before its answer."""


async def read_body(request: Request, limit: int) -> bytes:
    """Raises ServiceError, 413, for more than `limit` bytes."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise ServiceError(413, "request_too_large", f"The body has more than {limit} bytes.")
        parts.append(part)
    return b"".join(parts)


def priority_of(request: Request) -> Priority:
    """Raises ServiceError, 400."""
    text = request.headers.get(PRIORITY, "normal")
    try:
        return Priority[text.upper()]
    except KeyError:
        known = ", ".join(priority.name.lower() for priority in Priority)
        raise invalid(None, f"The header {PRIORITY} is '{text}'; expected one of {known}.") from None


async def unless_left(request: Request, work: Coroutine[Any, Any, bytes]) -> bytes:
    """What `work` gives; it is cancelled when the client leaves first, and LeftError raised."""
    answer = asyncio.create_task(work)
    left = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((answer, left), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise LeftError
        return answer.result()
    finally:
        answer.cancel()
        left.cancel()
        await asyncio.gather(answer, left, return_exceptions=True)


async def stream_unless_left(request: Request, events: AsyncGenerator[bytes]) -> Response:
    """An answer of server-sent events, as they come. It begins with the first of them: what goes wrong before is an
    answer with its own status. When the client leaves, `events` is closed at once."""

    async def first() -> bytes:
        return await anext(events)

    try:
        return _EventStream(await unless_left(request, first()), events)
    except BaseException:
        await events.aclose()
        raise


class _EventStream(Response):
    media_type = "text/event-stream"

    def __init__(self, first: bytes, events: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._first = first
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sending = asyncio.create_task(self._send(scope, send))
        left = asyncio.create_task(_disconnected(Request(scope, receive)))
        try:
            await asyncio.wait((sending, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            left.cancel()
            await asyncio.gather(sending, left, return_exceptions=True)
            await self._events.aclose()

    async def _send(self, scope: Scope, send: Send) -> None:
        async def part(body: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        await part(self._first)
        try:
            async for event in self._events:
                await part(event)
        except Exception as error:
            told, trace = (error, None) if isinstance(error, ServiceError) else (_BROKEN, error)
            request_id = scope["state"]["request_id"]
            _log.error("onnx: stream failed", request_id=request_id, code=told.code, why=str(error), exc_info=trace)
            # The status is out: what went wrong can only be told as an event.
            await part(b"data: " + told.body() + b"\n\n")
        await part(b"", more=False)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Edge:
    """Around the application: request ids, and counts."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = perf_counter(), _LEFT
        state = scope.setdefault("state", {})
        state["request_id"] = _request_id(scope)

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = state["request_id"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            # `operation` is set by the route, `model` once it is known to exist.
            if (operation := state.get("operation")) is not None:
                model = state.get("model", "")
                self._metrics.requests.labels(model, operation, str(status)).inc()
                self._metrics.seconds.labels(model, operation).observe(perf_counter() - started)


def add_errors(app: FastAPI) -> None:
    """Has what the application raises answered in OpenAI's shape."""

    @app.exception_handler(ServiceError)
    async def told(request: Request, error: ServiceError) -> Response:
        if error.status >= 500:
            _log.error("onnx: request failed", request_id=_id(request), code=error.code, why=error.message)
        return answer(error)

    @app.exception_handler(LeftError)
    async def left(_: Request, _error: LeftError) -> Response:
        return Response(status_code=_LEFT)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        place = f"{request.method} {request.url.path}"
        if error.status_code == 405:
            return answer(ServiceError(405, "method_not_allowed", f"Not allowed: {place}."))
        return answer(ServiceError(error.status_code, "unknown_url", f"Unknown request URL: {place}."))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        _log.error("onnx: request failed", request_id=_id(request), path=request.url.path, exc_info=error)
        return answer(_BROKEN)


def _id(request: Request) -> str:
    found: str = request.state.request_id
    return found


def answer(error: ServiceError) -> Response:
    return Response(error.body(), error.status, error.headers(), media_type="application/json")


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID.encode()), b"")
    text = given.decode("latin-1")
    return text if text and text.isprintable() and len(text) <= _MAX_ID else f"req_{uuid4().hex}"
