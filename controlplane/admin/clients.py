"""What clients may ask the gateway about themselves: GET /v1/usage. Envoy has authenticated them and says who they are.

Served on a unix socket that only Envoy uses.
"""

from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse

from controlplane.admin.usage import Usage
from controlplane.xds.names import OWNER
from extproc.usage.ledger import LedgerError


def create_clients_app(usage: Usage) -> FastAPI:
    """The application; its errors have OpenAI's shape."""
    app = FastAPI(title="Headgate for clients", version="1", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/v1/usage")
    def own(
        identity: Annotated[str, Header(alias=OWNER)] = "",
        by: Annotated[str, Query(description="Comma-separated: model, day, hour.")] = "model",
        since: str = "30d",
        until: str = "",
    ) -> dict[str, Any]:
        return {"object": "list", **usage.own(identity, by, since, until)}

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(_error(str(error.detail), "invalid_request_error", "invalid_request"), error.status_code)

    @app.exception_handler(LedgerError)
    async def unreadable(_: Request, __: LedgerError) -> JSONResponse:
        return JSONResponse(_error("Usage cannot be read at the moment.", "server_error", "ledger_unavailable"), 503)

    return app


def _error(message: str, kind: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
