"""The application: from a request on the wire to its answer, one path for every operation."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from sidecars.mock import audio, catalog, chat, classification, completions, embeddings, images, responses, scoring
from sidecars.mock.answer import Plain, Stream, Usage
from sidecars.mock.call import Body, Call, digest
from sidecars.mock.canned import Canned
from sidecars.mock.controls import Controls, read_controls
from sidecars.mock.deliver import Delivery, content_type_of
from sidecars.mock.errors import MockError, asked_for
from sidecars.mock.faults import Fate
from sidecars.mock.fixtures.library import Asked
from sidecars.mock.multipart import read_form
from sidecars.mock.profile import Current, Profile
from sidecars.mock.recorder import Recorded, Recorder
from sidecars.mock.stats import Meter, Stats
from sidecars.mock.wire import Wire

_log = logging.getLogger("mock")

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path. `reads` is the body it takes: `json`, `form` or `nothing`."""

    method: str
    path: str
    reads: str
    answer: Callable[[Call], Plain | Stream]


OPERATIONS = (
    Operation("POST", "/v1/chat/completions", "json", chat.answer),
    Operation("POST", "/v1/completions", "json", completions.answer),
    Operation("POST", "/v1/embeddings", "json", embeddings.answer),
    Operation("POST", "/v1/responses", "json", responses.answer),
    Operation("POST", "/v1/moderations", "json", scoring.moderation),
    Operation("POST", "/v1/rerank", "json", scoring.rerank),
    Operation("POST", "/v1/classify", "json", classification.classify),
    Operation("POST", "/v1/nli", "json", classification.nli),
    Operation("POST", "/v1/images/generations", "json", images.generation),
    Operation("POST", "/v1/images/edits", "form", images.edit),
    Operation("POST", "/v1/images/variations", "form", images.variation),
    Operation("POST", "/v1/audio/speech", "json", audio.speech),
    Operation("POST", "/v1/audio/transcriptions", "form", audio.transcription),
    Operation("POST", "/v1/audio/translations", "form", audio.translation),
    Operation("GET", "/v1/models", "nothing", catalog.listing),
    Operation("GET", "/v1/models/{id:path}", "nothing", catalog.entry),
)


# What can say a text that was written beforehand.
_TEXTUAL = frozenset({chat.answer, completions.answer, responses.answer})


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says: the profile holds for every request that asks for nothing else."""

    name: str
    api_key: str | None
    current: Current
    record: int


def build_app(settings: Settings) -> ASGIApp:
    """The mock as an ASGI application for `WireProtocol`."""
    state = _State(settings, Stats(), Recorder(settings.record), set())
    routes: list[BaseRoute] = [Route(operation.path, _Endpoint(state, operation)) for operation in OPERATIONS]
    routes.append(Route("/health", _Health(state)))
    routes.append(Route("/mock/requests", state.requests, methods=["GET", "DELETE"]))
    routes.append(Route("/mock/stats", state.statistics))
    routes.append(Route("/mock/settings", state.in_force))
    return Router(routes, redirect_slashes=False, default=_Endpoint(state, None))


@dataclass(frozen=True, slots=True)
class _State:
    settings: Settings
    stats: Stats
    recorder: Recorder
    tried: set[str]

    def attempt(self, controls: Controls, request: str) -> Controls:
        """`first-status` holds for the first attempt of a request."""
        if controls.first_status is None or request in self.tried:
            return controls
        self.tried.add(request)
        return replace(controls, status=controls.first_status)

    async def requests(self, request: Request) -> Response:
        """GET /mock/requests?last=N and DELETE /mock/requests."""
        if request.method == "DELETE":
            self.recorder.clear()
            return Response(status_code=204)
        last = request.query_params.get("last", str(self.settings.record))
        if not (last.isascii() and last.isdigit()):
            error = MockError(400, f"'last' is '{last}'; expected a whole number.", param="last")
            return Response(error.body(), 400, media_type="application/json")
        found = [recorded.document() for recorded in self.recorder.last(int(last))]
        return Response(orjson.dumps({"requests": found}), media_type="application/json")

    async def statistics(self, _request: Request) -> Response:
        """GET /mock/stats."""
        report = {"name": self.settings.name, **self.stats.report()}
        return Response(orjson.dumps(report), media_type="application/json")

    async def in_force(self, _request: Request) -> Response:
        """GET /mock/settings."""
        return Response(orjson.dumps(self.settings.current.report()), media_type="application/json")


class _Health:
    """GET /health: in no count but its own, not recorded, and as sick as the flags say."""

    def __init__(self, state: _State) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._state.stats.health_check()
        defaults = self._state.settings.current.profile.defaults
        await asyncio.sleep(defaults.delay if isinstance(defaults.delay, float) else 0)
        if defaults.status >= 300:
            response = Response(asked_for(defaults.status).body(), defaults.status, media_type="application/json")
        else:
            response = Response(b'{"status":"ok"}', defaults.status, media_type="application/json")
        await response(scope, receive, send)


class _Endpoint:
    """Serves one operation; without one, every path that the mock does not know."""

    def __init__(self, state: _State, operation: Operation | None) -> None:
        self._state = state
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire: Wire = scope["state"]["wire"]
        wire.begin()
        meter = self._state.stats.begin()
        try:
            raw = await _read(receive)
            if raw is not None:
                self._record(scope, wire, raw)
                await self._serve(scope, send, wire, meter, raw)
        except asyncio.CancelledError:
            # The connection is gone, or the process is told to end: either way nothing is left to be sent.
            wire.transport.close()
        finally:
            wire.end()
            meter.end()

    def _record(self, scope: Scope, wire: Wire, raw: bytes) -> None:
        target: bytes = scope["raw_path"]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        self._state.recorder.add(Recorded(scope["method"], target.decode("latin-1"), wire.headers, raw))

    async def _serve(self, scope: Scope, send: Send, wire: Wire, meter: Meter, raw: bytes) -> None:
        settings, headers = self._state.settings, scope["headers"]
        profile = settings.current.profile
        body, controls = Body(digest(raw or scope["raw_path"])), profile.defaults
        canned: Canned | None = None
        fate = Fate(controls)
        answer: Plain | Stream
        try:
            problem = None
            try:
                body = self._decode(headers, raw, body)
                if profile.settings.fixtures is not None:
                    canned = self._canned(profile, scope, body, raw)
            except MockError as error:
                problem = error  # told only when no control decides otherwise
            if canned is not None and canned.controls:
                controls = replace(controls, **canned.controls)
            controls = read_controls(controls, body.model, headers)
            controls = self._state.attempt(controls, _header(headers, b"x-request-id") or body.digest)
            fate = profile.decide(controls, body.model)
            controls = fate.controls
            self._admit(headers)
            answer = self._answer(scope, body, controls, canned, problem)
        except MockError as error:
            answer = Plain(error.body(), status=error.status)
        except Exception:
            _log.exception("mock: %s %s failed", scope["method"], scope["path"])
            answer = Plain(MockError(500, "The mock failed; its log has the reason.").body(), status=500)
        waits = iter(canned.waits) if canned is not None and canned.waits is not None else fate.waits
        name, request_id = settings.name.encode(), f"req_{body.digest}".encode()
        delivery = Delivery(controls, name, request_id, wire, send, meter, fate.delay, fate.pause, waits)
        unanswered = controls.hang == "headers" or controls.fail_after == 0
        shown = 0 if unanswered else controls.status if isinstance(answer, Stream) else answer.status
        meter.answering(body.model, shown, stream=isinstance(answer, Stream))
        if isinstance(answer, Stream):
            await delivery.stream(answer, controls.status)
        else:
            await delivery.plain(answer)

    def _canned(self, profile: Profile, scope: Scope, body: Body, raw: bytes) -> Canned | None:
        """The fixture for a request. Raises MockError where there must be one."""
        if profile.library is None:
            raise MockError(500, f"The fixtures cannot be used: {profile.problem}", code="invalid_fixtures")
        data = body.data
        if self._operation is None:  # fixtures may answer paths that the mock does not know
            try:
                data = orjson.loads(raw)
            except orjson.JSONDecodeError:
                data = {}
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        asked = Asked(scope["path"], body.model, headers, data if isinstance(data, dict) else {}, body.digest)
        found = profile.library.find(asked)
        strict = profile.settings.strict
        if found is None and strict is not None and scope["method"] == "POST":
            raise MockError(strict, f"No fixture matches this request to {scope['path']}.", code="no_fixture")
        return found

    def _decode(self, headers: Headers, raw: bytes, empty: Body) -> Body:
        reads = self._operation.reads if self._operation else "nothing"
        if reads == "form":
            return read_form(_header(headers, b"content-type"), raw)
        if reads == "nothing":
            return empty
        try:
            data = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise MockError(400, f"The body is not valid JSON: {error}.") from None
        if not isinstance(data, dict):
            raise MockError(400, "The body is not a JSON object.")
        return Body(empty.digest, data)

    def _admit(self, headers: Headers) -> None:
        key = self._state.settings.api_key
        if key is not None and _header(headers, b"authorization") != f"Bearer {key}":
            raise MockError(401, "Incorrect API key provided.", code="invalid_api_key")

    def _answer(
        self, scope: Scope, body: Body, controls: Controls, canned: Canned | None, problem: MockError | None
    ) -> Plain | Stream:
        status = controls.status
        if controls.body is not None:
            return Plain(controls.body, content_type_of(controls), status=status)
        if status >= 300:
            raise asked_for(status)
        if canned is not None and canned.events is not None:
            usage = Usage(*controls.usage) if controls.usage is not None else Usage()
            return Stream(b"", canned.events, len(canned.events), b"", chat.failure_event(), usage)
        if self._operation is None:
            raise MockError(404, f"Unknown request URL: {scope['method']} {scope['path']}.", code="unknown_url")
        if scope["method"] != self._operation.method:
            raise MockError(405, f"Not allowed to {scope['method']} on {scope['path']}.", code="method_not_supported")
        if problem is not None:
            raise problem
        if canned is not None and canned.speaks and self._operation.answer not in _TEXTUAL:
            raise MockError(500, f"{canned.place}: {scope['path']} has no place for a text; give the answer a `body`.")
        answer = self._operation.answer(Call(body, controls, scope["path_params"].get("id", ""), canned))
        if isinstance(answer, Stream):
            return answer
        if controls.error_after is not None:
            raise asked_for(500)
        kind = content_type_of(controls) if controls.content_type else answer.content_type
        return Plain(answer.body, kind, answer.usage, status)


async def _read(receive: Receive) -> bytes | None:
    """The whole body, None when the client left before its end."""
    message = await receive()
    if message["type"] == "http.request" and not message["more_body"]:
        body: bytes = message["body"]
        return body
    parts = []
    while message["type"] == "http.request":
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)
        message = await receive()
    return None


def _header(headers: Headers, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key == name), "")
