"""The admin API: everything `ctl` can ask of a running control plane, and nothing it cannot."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.base import RequestResponseEndpoint

from controlplane.admin import access, views
from controlplane.admin.access import Access, Called, RefusedError, name_of
from controlplane.admin.caching import router as cache_calls
from controlplane.admin.keys import router as key_calls
from controlplane.admin.logs import router as log_calls
from controlplane.admin.metadata import router as metadata_calls
from controlplane.admin.models import router as model_calls
from controlplane.admin.origin import origin
from controlplane.admin.register import router as register_calls
from controlplane.admin.rules import router as rule_calls
from controlplane.admin.usage import Usage
from controlplane.admin.wrong_use import refuse_wrong_use
from controlplane.audit.entry import Action, Actor, Event
from controlplane.audit.read import since_when
from controlplane.policy.diagnostics import PolicyError
from controlplane.revisions.store import RevisionsError, Store
from controlplane.runtime.auditing import Auditing
from controlplane.runtime.caching import Caching
from controlplane.runtime.child import ProcessState
from controlplane.runtime.controller import ACKNOWLEDGE_S, Controller
from controlplane.runtime.discovery import Discovery
from controlplane.runtime.failures import ApplyError, ChangedError
from controlplane.runtime.keys import Keys
from controlplane.runtime.model_listings import ModelListings
from controlplane.runtime.services import Services
from controlplane.xds.redact import dump
from controlplane.xds.resource import EMPTY
from extproc.usage.ledger import LedgerError

_HARMLESS = ("/validate", "/diff", "/register/{id}/heartbeat")  # calls that only ask, or come all the time


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PolicyBody(_Body):
    """A policy to look at."""

    policy: str = Field(description="The text of the policy.")


class ApplyBody(PolicyBody):
    """A policy to make live."""

    who: str = Field(default="", max_length=200, description="Who applies it, for the history.")
    why: str = Field(default="", max_length=2000, description="Why, for the history.")
    expected: int | None = Field(default=None, description="The revision that must be live, or 412.")
    timeout: float = Field(default=ACKNOWLEDGE_S, gt=0, le=300, description="Seconds to wait for the nodes.")


class RollbackBody(_Body):
    """A revision to go back to."""

    revision: int | Literal["previous"] = Field(description="Its number, or `previous`.")
    who: str = Field(default="", max_length=200)
    why: str = Field(default="", max_length=2000)


def create_app(
    controller: Controller,
    store: Store,
    processes: Callable[[], tuple[ProcessState, ...]],
    usage: Usage,
    keys: Keys,
    auditing: Auditing,
    alarms: Callable[[], Awaitable[list[dict[str, str]]]],
    counters: Callable[[], Awaitable[dict[str, Any]]],
    caching: Caching,
    services: Services,
    discovery: Discovery,
    launched: Callable[[], list[dict[str, Any]]],
    log: Callable[[str], Path],
    listings: ModelListings,
    *,
    loopback: bool,
) -> FastAPI:
    """The application, with the `alarms` of all its parts, the `counters` of rules, the models of `launched` servers.
    `log`: where a process writes, by its name.

    `loopback`: it listens where only this machine reaches it. See `Access` for who may call.
    """
    callers = Access(lambda: controller.live.compiled if controller.live else None, loopback=loopback)
    # The pages that show the description would load scripts from elsewhere, and ask for no token.
    app = FastAPI(
        title="Headgate admin API", version="1", dependencies=[Depends(callers.guard)],
        openapi_url=None, docs_url=None, redoc_url=None,
    )  # fmt: skip
    refuse_wrong_use(app)  # below the audit, which sees what was refused
    _add_audit(app, auditing)
    _add_errors(app)
    _add_reads(app, controller, store, processes, discovery, alarms, listings)
    _add_descriptions(app, auditing)
    app.include_router(usage.router(controller))
    app.include_router(log_calls(controller, processes, log))
    app.include_router(rule_calls(counters))
    app.include_router(cache_calls(caching))
    app.include_router(metadata_calls(controller, listings))
    app.include_router(model_calls(controller, services, launched, auditing))
    app.include_router(register_calls(controller, discovery))
    app.include_router(key_calls(controller, keys, auditing))
    _add_policy_calls(app, controller)
    _add_changes(app, controller, store)
    return app


def _add_audit(app: FastAPI, auditing: Auditing) -> None:
    """Every call that may change something, refused ones too, is in the audit log."""

    @app.middleware("http")
    async def audited(request: Request, proceed: RequestResponseEndpoint) -> Response:
        answer = await proceed(request)
        route = getattr(request.scope.get("route"), "path", "")
        if request.method not in ("GET", "HEAD", "OPTIONS") and route not in _HARMLESS:
            actor = Actor("user", name_of(request), origin(request))
            target = f"{request.method} {request.url.path}"
            await auditing.tell(Event(actor, Action.ADMIN_CALLED, target, {"status": answer.status_code}))
        return answer


def _add_errors(app: FastAPI) -> None:
    app.add_exception_handler(RefusedError, access.answer)

    @app.exception_handler(PolicyError)
    async def invalid(_: Request, error: PolicyError) -> JSONResponse:
        return JSONResponse(
            {"error": "invalid-policy", "diagnostics": [views.diagnostic(d) for d in error.diagnostics]}, 422
        )

    @app.exception_handler(ApplyError)
    async def failed(_: Request, error: ApplyError) -> JSONResponse:
        status = 412 if isinstance(error, ChangedError) else 409
        return JSONResponse({"error": error.code, "message": str(error), "revision": error.revision}, status)

    @app.exception_handler(LedgerError)
    async def unreadable(_: Request, error: LedgerError) -> JSONResponse:
        return JSONResponse({"error": "ledger-unavailable", "message": str(error)}, 503)

    @app.exception_handler(RevisionsError)
    async def unrecorded(_: Request, error: RevisionsError) -> JSONResponse:
        return JSONResponse({"error": "history-unavailable", "message": str(error)}, 503)


def _add_reads(
    app: FastAPI,
    controller: Controller,
    store: Store,
    processes: Callable[[], tuple[ProcessState, ...]],
    discovery: Discovery,
    alarms: Callable[[], Awaitable[list[dict[str, str]]]],
    listings: ModelListings,
) -> None:
    @app.get("/status", summary="What is live, on which nodes, and the last edit that failed")
    async def status() -> dict[str, Any]:
        return {
            "live": views.live(controller.live),
            "at_next_start": list(controller.at_next_start()),
            "failure": views.failure(controller.failure) if controller.failure else None,
            "nodes": [views.node(node) for node in controller.nodes()],
            "endpoints": discovery.counts(),
            "processes": [views.process(process) for process in processes()],
            "alarms": await alarms(),
            "warnings": listings.warnings(),
            "listings": listings.states(),
        }

    @app.get("/nodes", summary="Connected nodes, with what each acknowledged and rejected")
    async def nodes() -> list[dict[str, Any]]:
        return [views.node(node) for node in controller.nodes()]

    @app.get("/history", summary="Revisions, newest first")
    def history(limit: Annotated[int, Query(ge=1, le=1000)] = 20, before: int | None = None) -> list[dict[str, Any]]:
        return [views.revision(found) for found in store.list(limit, before)]

    @app.get("/revisions/{number}", summary="One revision, with its policy")
    def revision(number: int) -> dict[str, Any]:
        found = store.get(number)
        if found is None:
            raise HTTPException(404, f"there is no revision {number}")
        return {**views.revision(found), "text": found.policy_text}

    @app.get("/policy", summary="The policy that is live")
    async def policy() -> dict[str, Any]:
        live = _live(controller)
        return {"revision": live.revision.number, "text": live.text}

    @app.get("/snapshot", summary="The xDS resources that are live, secrets redacted")
    def snapshot() -> dict[str, Any]:
        _live(controller)
        return dump(controller.snapshot() or EMPTY)


def _add_descriptions(app: FastAPI, auditing: Auditing) -> None:
    @app.get("/openapi.json", include_in_schema=False)
    async def described() -> dict[str, Any]:
        return app.openapi()

    @app.get("/audit", summary="Entries of the audit log, newest first")
    def audit(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[int | None, Query(description="Only entries with smaller numbers: the next page.")] = None,
        action: Annotated[str, Query(description="This action and those below it: `key` takes `key.issued`.")] = "",
        since: Annotated[str, Query(description="An age such as 24h, or a time.")] = "",
    ) -> dict[str, Any]:
        try:
            page = auditing.read(limit=limit, before=before, action=action, since=since_when(since, datetime.now(UTC)))
        except ValueError as error:
            raise HTTPException(422, f"since={since}: {error}") from None
        except OSError as error:
            raise HTTPException(503, f"the audit log cannot be read: {error.strerror}") from None
        return views.audit_page(page)


def _add_policy_calls(app: FastAPI, controller: Controller) -> None:
    @app.post("/validate", summary="Checks a policy, then asks Envoy")
    async def validate(body: PolicyBody) -> dict[str, Any]:
        try:
            compiled, verdict = await controller.validate(body.policy)
        except PolicyError as error:
            return {"valid": False, "diagnostics": [views.diagnostic(d) for d in error.diagnostics], "envoy": None}
        found = [views.diagnostic(d) for d in compiled.warnings]
        return {"valid": verdict.ok, "diagnostics": found, "envoy": verdict.message or "accepted"}

    @app.post("/diff", summary="What applying a policy would do")
    async def diff(body: PolicyBody) -> dict[str, Any]:
        revision = controller.live.revision.number if controller.live else None
        return {"revision": revision, **views.difference(await controller.diff(body.policy))}


def _add_changes(app: FastAPI, controller: Controller, store: Store) -> None:
    @app.post("/apply", summary="Makes a policy live on every node, or changes nothing")
    async def apply(body: ApplyBody, request: Request, caller: Called) -> dict[str, Any]:
        done = await controller.apply(
            body.policy, caller.who(body.who), body.why, "api", expected=body.expected, timeout_s=body.timeout,
            origin=origin(request),
        )  # fmt: skip
        return views.applied(done)

    @app.post("/rollback", summary="Makes the policy of an earlier revision live")
    async def rollback(body: RollbackBody, request: Request, caller: Called) -> dict[str, Any]:
        number = body.revision
        if number == "previous":
            before = store.previous(_live(controller).revision.number)
            if before is None:
                raise HTTPException(404, "there is no earlier revision")
            number = before.number
        try:
            return views.applied(await controller.rollback(number, caller.who(body.who), body.why, origin(request)))
        except KeyError:
            raise HTTPException(404, f"there is no revision {number}") from None


def _live(controller: Controller) -> Any:
    if controller.live is None:
        raise HTTPException(503, "no policy is live yet")
    return controller.live
