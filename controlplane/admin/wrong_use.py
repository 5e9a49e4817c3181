"""Calls of the admin API that are refused before they reach anybody: too large, or with fields that are wrong."""

from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A body is read before it is known who calls, so it may be as large as its call has use for: a policy, or a service.
_POLICY_BYTES = 32 << 20
_SERVICE_BYTES = 512 << 10
_TOLD = 5  # fields that a message names


class Bounded:
    """ASGI middleware: reads no more of a body than its call may have."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = _SERVICE_BYTES if scope.get("path", "").startswith("/register") else _POLICY_BYTES
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise HTTPException(413)
            return message

        await self._app(scope, bounded, send)


def refuse_wrong_use(app: FastAPI) -> None:
    """Has an app answer it in OpenAI's shape, with 413 and 422."""
    app.add_middleware(Bounded)

    @app.exception_handler(413)
    async def too_large(_: Request, error: Exception) -> JSONResponse:
        return _answer(413, "request_too_large", "The body is larger than this call takes.", None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # What a field holds is not repeated: it may be a secret, or huge, or no JSON (a NaN).
        wrong = [(_place(found["loc"]), found["msg"]) for found in error.errors()]
        said = "; ".join(f"{place}: {why}" for place, why in wrong[:_TOLD])
        more = f"; and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
        return _answer(422, "invalid_request", said + more, wrong[0][0])


def _place(loc: tuple[Any, ...]) -> str:
    """Which field: `models.0`; `body` for one that is no JSON, or no object."""
    where, *within = loc
    named = within[:1] and isinstance(within[0], str)
    return ".".join(map(str, within)) if named else str(where)


def _answer(status: int, code: str, message: str, param: str | None) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": error}, status)
