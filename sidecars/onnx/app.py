"""The API: OpenAI's and its neighbours' under `/v1`, the life of the models and what watches them beside it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp

from sidecars.onnx import operations
from sidecars.onnx.batch import Priority
from sidecars.onnx.bodies import Body, ClassifyBody, EmbeddingsBody, NliBody, RerankBody, parse
from sidecars.onnx.exchange import Edge, add_errors, priority_of, read_body, stream_unless_left, unless_left
from sidecars.onnx.fleet import Fleet
from sidecars.onnx.folder import Card
from sidecars.onnx.generate import operations as generation
from sidecars.onnx.generate.bodies import ChatBody, CompletionBody, GenerateBody
from sidecars.onnx.generate.card import GeneratorCard
from sidecars.onnx.generate.loaded import LoadedGenerator
from sidecars.onnx.loaded import LoadedEncoder
from sidecars.onnx.metrics import CONTENT_TYPE
from sidecars.onnx.models import Model, Reason, State
from sidecars.onnx.operations import Call
from sidecars.onnx.settings import Task

_CREATED = 1_700_000_000  # what OpenAI's clients demand of a model; nothing here has a date
_OWNER = "headgate"
_B = TypeVar("_B", bound=Body)
_G = TypeVar("_G", bound=GenerateBody)
_Operation = Callable[[Call, _B], Awaitable[bytes]]
_Generation = Callable[[generation.Call, _G], Awaitable[generation.Order]]


def build_app(fleet: Fleet) -> ASGIApp:
    """The application over a started fleet."""
    # The pages that show the description would load scripts from elsewhere.
    app = FastAPI(title="Headgate ONNX service", openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    add_errors(app)
    _add_operations(app, fleet)
    _add_generation(app, fleet)
    _add_models(app, fleet)
    _add_lifecycle(app, fleet)
    _add_watching(app, fleet)
    return Edge(app, fleet.metrics)


async def _asked(request: Request, fleet: Fleet, name: str, body: type[_B]) -> tuple[_B, Model, Priority]:
    """What a request of the operation `name` says, and of which model. Raises ServiceError."""
    request.state.operation = name
    asked = parse(body, await read_body(request, fleet.settings.max_body_bytes))
    model = fleet.find(asked.model)
    request.state.model = model.name
    return asked, model, priority_of(request)


def _add_operations(app: FastAPI, fleet: Fleet) -> None:
    def add(name: str, body: type[_B], operation: _Operation[_B]) -> None:
        async def serve(request: Request) -> Response:
            asked, model, priority = await _asked(request, fleet, name, body)

            async def work() -> bytes:
                async with model.lease() as loaded:
                    if not isinstance(loaded, LoadedEncoder):
                        raise operations.unfit(model.name, loaded)
                    return await operation(Call(model.name, loaded, priority, fleet.settings.max_inputs), asked)

            return _json(await unless_left(request, work()))

        app.post(f"/v1/{name}", name=name, response_model=None)(serve)

    add("embeddings", EmbeddingsBody, operations.embeddings)
    add("rerank", RerankBody, operations.rerank)
    add("classify", ClassifyBody, operations.classify)
    add("nli", NliBody, operations.nli)


def _add_generation(app: FastAPI, fleet: Fleet) -> None:
    def add(path: str, name: str, body: type[_G], operation: _Generation[_G]) -> None:
        async def serve(request: Request) -> Response:
            asked, model, priority = await _asked(request, fleet, name, body)

            @asynccontextmanager
            async def order() -> AsyncIterator[tuple[generation.Call, generation.Order]]:
                async with model.lease() as loaded:
                    if not isinstance(loaded, LoadedGenerator):
                        raise operations.unfit(model.name, loaded)
                    call = generation.Call(model.name, loaded, priority, fleet.settings.max_inputs)
                    yield call, await operation(call, asked)

            async def whole() -> bytes:
                async with order() as (call, wanted):
                    return await generation.whole(call, wanted)

            async def events() -> AsyncGenerator[bytes]:
                async with order() as (call, wanted), aclosing(generation.stream(call, wanted)) as pieces:
                    async for piece in pieces:
                        yield piece

            if asked.stream:
                return await stream_unless_left(request, events())
            return _json(await unless_left(request, whole()))

        app.post(path, name=name, response_model=None)(serve)

    add("/v1/chat/completions", "chat", ChatBody, generation.chat)
    add("/v1/completions", "completions", CompletionBody, generation.complete)


def _add_models(app: FastAPI, fleet: Fleet) -> None:
    @app.get("/v1/models", response_model=None)
    async def listing() -> Response:
        return _json(orjson.dumps({"object": "list", "data": [_entry(model) for model in fleet.models.values()]}))

    @app.get("/v1/models/{name:path}", response_model=None)
    async def entry(name: str) -> Response:
        return _json(orjson.dumps(_entry(fleet.find(name))))


def _add_lifecycle(app: FastAPI, fleet: Fleet) -> None:
    @app.get("/models", response_model=None)
    async def states() -> Response:
        await asyncio.gather(*(model.look() for model in fleet.models.values()))
        found = [view(model) for model in fleet.models.values()]
        return _json(orjson.dumps({"models": found, "tag": fleet.settings.tag}))

    @app.post("/models/{name:path}/load", response_model=None)
    async def load(name: str) -> Response:
        model = fleet.find(name)
        await model.load()
        return _json(orjson.dumps(view(model)))

    @app.post("/models/{name:path}/unload", response_model=None)
    async def unload(name: str) -> Response:
        model = fleet.find(name)
        await model.unload(Reason.ASKED)
        return _json(orjson.dumps(view(model)))


def _add_watching(app: FastAPI, fleet: Fleet) -> None:
    @app.get("/health", response_model=None)
    async def health() -> Response:
        return _json(b'{"status":"ok"}')

    @app.get("/ready", response_model=None)
    async def ready() -> Response:
        states = {name: model.state for name, model in fleet.models.items()}
        return _json(orjson.dumps({"ready": not fleet.starting, "models": states}), 503 if fleet.starting else 200)

    @app.get("/ready/{name:path}", response_model=None)
    async def model_ready(name: str) -> Response:
        model = fleet.find(name)
        return _json(orjson.dumps(view(model)), 200 if model.state is State.READY else 503)

    @app.get("/metrics", response_model=None)
    async def counts() -> Response:
        return Response(fleet.metrics.text(), headers={"content-type": CONTENT_TYPE})


def view(model: Model) -> dict[str, Any]:
    """A model and its life, for those who run the service; more of it once its folder was looked at, and while it is
    loaded."""
    reading = model.reading()
    found: dict[str, Any] = {
        "model": model.name,
        "state": model.state,
        "why": model.why,
        "device": model.settings.device,
        "open_requests": reading.requests,
        "waiting_sequences": reading.waiting_sequences,
        "waiting_tokens": reading.waiting_tokens,
        "memory_bytes": reading.memory_bytes,
    }
    if model.card is not None:
        found |= {"task": model.card.task, "max_tokens": model.card.max_tokens, **_details(model.card)}
    if model.loaded is not None:
        found["threads"] = model.loaded.threads
        if isinstance(model.loaded, LoadedEncoder) and model.loaded.card.task is Task.EMBED:
            found["dimensions"] = model.loaded.width
    return found


def _details(card: Card | GeneratorCard) -> dict[str, Any]:
    if isinstance(card, GeneratorCard):
        return {"max_output_tokens": card.max_output_tokens, "chat": card.template is not None}
    return {"prompts": list(card.prompts)} if card.task is Task.EMBED else {"labels": card.labels}


def _entry(model: Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": _CREATED, "owned_by": _OWNER}


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")
