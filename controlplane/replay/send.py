"""Sends recorded requests, and notes what becomes of them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

import httpx

from controlplane.replay.outcome import Outcome
from controlplane.replay.said import Said, said, said_in
from sidecars.recording.events import Splitter
from sidecars.recording.exchange import Exchange
from sidecars.recording.usage import usage_in

_IDLE_S = 600.0  # without a byte
_CONNECT_S = 10.0
_AS_IS = "".join(map(chr, range(0x21, 0x7F)))
_SENT = frozenset({"content-type", "accept", "anthropic-version", "anthropic-beta", "openai-beta"})


@dataclass(frozen=True, slots=True)
class Pace:
    """`speed`: how much faster than recorded requests are sent, None: as fast as `concurrency` in flight allow."""

    concurrency: int
    speed: float | None


async def send(exchanges: Sequence[Exchange], url: str, key: str | None, pace: Pace) -> list[Outcome]:
    """Outcomes in the order of the exchanges."""
    slots = asyncio.Semaphore(pace.concurrency)
    starts = offsets(exchanges, pace.speed)
    began = time.perf_counter()
    limits = httpx.Limits(max_connections=pace.concurrency, max_keepalive_connections=pace.concurrency)
    timeout = httpx.Timeout(_IDLE_S, connect=_CONNECT_S)
    async with httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False) as client:

        async def one(exchange: Exchange, start: float) -> Outcome:
            await asyncio.sleep(max(0.0, began + start - time.perf_counter()))
            async with slots:
                return await _send(client, httpx.URL(url).copy_with(raw_path=_raw(exchange)), exchange, key)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*each)) for each in zip(exchanges, starts, strict=True)]
    return [task.result() for task in tasks]


def offsets(exchanges: Sequence[Exchange], speed: float | None) -> list[float]:
    """Seconds after the beginning at which each request is sent."""
    if speed is None or not exchanges:
        return [0.0] * len(exchanges)
    times = [datetime.fromisoformat(exchange.at).timestamp() for exchange in exchanges]
    return [(at - min(times)) / speed for at in times]


def recorded(exchange: Exchange) -> Outcome:
    """What became of it when it was recorded."""
    answer = exchange.answer
    if answer.events is not None:
        heard = said_in([text for _, text in answer.events])
    else:
        heard = said(answer.body.content()) if answer.body is not None else Said()
    error = "" if answer.ended == "complete" else "the answer broke off"
    return Outcome(
        answer.status, heard, exchange.ms.first, exchange.ms.total, exchange.id, error, exchange.usage
    )  # fmt: skip


async def _send(client: httpx.AsyncClient, url: httpx.URL, exchange: Exchange, key: str | None) -> Outcome:
    headers = {name: value for name, value in exchange.request.headers.items() if name in _SENT}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    asked, began = exchange.request, time.perf_counter()
    status, answer_id, first_at, error = 0, "", None, ""
    stream, body, splitter = False, bytearray(), Splitter()
    events: list[str] = []
    try:
        async with client.stream(asked.method, url, headers=headers, content=asked.body.content()) as answer:
            status, answer_id = answer.status_code, answer.headers.get("x-request-id", "")
            stream = answer.headers.get("content-type", "").startswith("text/event-stream")
            async for piece in answer.aiter_bytes():
                first_at = first_at or time.perf_counter()
                if stream:
                    events += [event.decode("utf-8", "replace") for event in splitter.feed(piece)]
                else:
                    body += piece
    except httpx.HTTPError as problem:
        error = f"{type(problem).__name__}: {problem}".rstrip(": ")
    ended = time.perf_counter()
    heard = said_in(events) if stream else said(bytes(body)) if body else Said()
    usage = usage_in(events if stream else [body.decode("utf-8", "replace")])
    first = (first_at or ended) - began
    return Outcome(status, heard, _ms(first), _ms(ended - began), answer_id, error, usage)


def _raw(exchange: Exchange) -> bytes:
    """The path as it was recorded, which is never taken for a URL: requests bear the key, and go to one gateway."""
    return quote(exchange.request.path, safe=_AS_IS).encode()


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
