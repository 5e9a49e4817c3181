"""The recording proxy: passes everything through as it comes, and writes down what passed.

A request is sent on when it is complete, its answer byte by byte as it arrives. `accept-encoding` is not passed on, so
that what is recorded, and redacted, is readable.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from sidecars.recording import redact
from sidecars.recording.events import Splitter
from sidecars.recording.exchange import Answer, Body, Exchange, Request, Times
from sidecars.recording.usage import model_of, usage_in

# RFC 9110, section 7.6.1, and what the two sides settle for themselves.
_OWN = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host",
     "content-length", "accept-encoding", "expect"}
)  # fmt: skip
_MOST_BODY = 64 << 20
_PAIR = tuple[str, str]


@dataclass(slots=True)
class _Seen:
    """What was seen of an answer; times are of `time.perf_counter`."""

    began: float
    status: int = 0
    headers: Sequence[_PAIR] = ()
    stream: bool = False
    headers_at: float = 0.0
    first_at: float | None = None
    body: bytearray = field(default_factory=bytearray)
    events: list[tuple[float, bytes]] = field(default_factory=list)
    splitter: Splitter = field(default_factory=Splitter)
    ended: str = "left"

    def take(self, data: bytes) -> None:
        now = time.perf_counter()
        if self.first_at is None:
            self.first_at = now
        if self.stream:
            self.events += [(now, event) for event in self.splitter.feed(data)]
        else:
            self.body += data

    def finish(self) -> None:
        if rest := self.splitter.end():
            self.events.append((time.perf_counter(), rest))


def build_app(upstream: str, client: httpx.AsyncClient, write: Callable[[bytes], None]) -> ASGIApp:
    """The proxy as an ASGI application: requests go to `upstream` and their path; `write` gets a line for each."""
    provider = upstream.partition("://")[2]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        if body is None:
            return
        headers = _text(scope["headers"])
        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1")
        at, seen = datetime.now(UTC), _Seen(time.perf_counter())
        request = client.build_request(
            scope["method"],
            upstream + path + (f"?{query}" if query else ""),
            headers=[*((n, v) for n, v in headers if n not in _OWN), ("accept-encoding", "identity")],
            content=body,
        )
        try:
            await _while_there(receive, _pass(client, request, send, seen))
        finally:
            if seen.status:
                seen.finish()
                write(_exchange(scope["method"], path, query, headers, body, at, seen, provider).line())

    return app


async def _while_there(receive: Receive, work: Coroutine[None, None, None]) -> None:
    """Does the work until the client leaves."""
    working, leaving = asyncio.create_task(work), asyncio.ensure_future(receive())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait((working, leaving))


async def _pass(client: httpx.AsyncClient, request: httpx.Request, send: Send, seen: _Seen) -> None:
    try:
        answer = await client.send(request, stream=True)
    except httpx.TransportError as error:
        await _unreachable(send, type(error).__name__)
        return
    seen.status, seen.headers_at = answer.status_code, time.perf_counter()
    seen.headers = _text(answer.headers.raw)
    seen.stream = answer.headers.get("content-type", "").startswith("text/event-stream")
    kept = [
        (n, v) for n, v in answer.headers.raw if n.lower() not in (b"connection", b"transfer-encoding", b"keep-alive")
    ]
    try:
        await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
        async for piece in answer.aiter_raw():
            seen.take(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except httpx.TransportError:
        seen.ended = "cut"
        raise  # uvicorn cuts the client's connection, too
    finally:
        with suppress(httpx.TransportError):
            await answer.aclose()
    seen.ended = "complete"
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _unreachable(send: Send, why: str) -> None:
    message = f"The recorder cannot reach upstream ({why})."
    error = {"message": message, "type": "server_error", "param": None, "code": "upstream_unreachable"}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 502, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps({"error": error})})


async def _read(receive: Receive) -> bytes | None:
    """The whole body, None when the client left before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


def _text(headers: Sequence[tuple[bytes, bytes]]) -> list[_PAIR]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]


def _exchange(
    method: str,
    path: str,
    query: str,
    headers: Sequence[_PAIR],
    body: bytes,
    at: datetime,
    seen: _Seen,
    provider: str,
) -> Exchange:
    """The exchange without its secrets."""
    known = redact.credentials([*headers, *seen.headers], query)
    kept = {name: redact.scrub(value, known) for name, value in redact.answer_headers(seen.headers).items()}
    asked = {name: redact.scrub(value, known) for name, value in redact.request_headers(headers).items()}
    target = redact.scrub(redact.target(path, query), known)
    events = [event.decode("utf-8", "replace") for _, event in seen.events]
    clean = redact.scrub_events(events, known)
    answer = Answer(
        status=seen.status,
        headers=kept,
        body=None if seen.stream else _body(bytes(seen.body), seen.headers, known),
        events=tuple(
            (_ms(at - seen.began), text) for (at, _), text in zip(seen.events, clean, strict=True)
        ) if seen.stream else None,
        ended=seen.ended,
    )  # fmt: skip
    first = seen.first_at if seen.first_at is not None else seen.headers_at
    total = time.perf_counter()
    return Exchange(
        id=kept.get("x-request-id") or kept.get("request-id") or "",
        at=at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        model=redact.scrub(model_of(body), known),
        provider=provider,
        request=Request(method=method, path=target, headers=asked, body=_body(body, headers, known)),
        answer=answer,
        ms=Times(
            headers=_ms(seen.headers_at - seen.began), first=_ms(first - seen.began), total=_ms(total - seen.began)
        ),
        usage=usage_in(clean if seen.stream else [seen.body.decode("utf-8", "replace")]),
    )


def _body(data: bytes, headers: Sequence[_PAIR], known: frozenset[str]) -> Body:
    """A body without secrets. What cannot be looked through is not kept."""
    if any(name == "content-encoding" and value != "identity" for name, value in headers):
        return Body(withheld="compressed: secrets in it cannot be seen")
    if len(data) > _MOST_BODY:
        return Body(withheld=f"larger than {_MOST_BODY} bytes")
    try:
        return Body(text=redact.scrub(data.decode(), known))
    except UnicodeDecodeError:
        # Latin-1 gives every byte a character, so that what is not text stays as it is.
        return Body.of(redact.scrub(data.decode("latin-1"), known).encode("latin-1"))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
