"""Sends an answer the way the controls say: late, slowly, compressed, cut off, or never."""

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.types import Send

from sidecars.mock.answer import JSON, Plain, Stream
from sidecars.mock.controls import Controls
from sidecars.mock.stats import Meter
from sidecars.mock.wire import Wire

_SLICE = 64 << 10
_BODILESS = (204, 304)

# What OpenAI's edge sends along, for tests to see what a gateway passes on.
_PROVIDER_HEADERS = [
    (b"server", b"mock"),
    (b"openai-version", b"2020-10-01"),
    (b"openai-organization", b"org-mock"),
    (b"openai-processing-ms", b"7"),
    (b"x-ratelimit-limit-requests", b"10000"),
    (b"x-ratelimit-limit-tokens", b"2000000"),
    (b"x-ratelimit-remaining-requests", b"9999"),
    (b"x-ratelimit-remaining-tokens", b"1999999"),
    (b"x-ratelimit-reset-requests", b"6ms"),
    (b"x-ratelimit-reset-tokens", b"0s"),
    (b"cf-ray", b"mock"),
    (b"alt-svc", b'h3=":443"; ma=86400'),
]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One answer on its way. `name` is the instance's and `request_id` the answer's own.

    `delay` is waited before the headers and `pause` before each chunk, in seconds; `waits` takes the place of `pause`.
    """

    controls: Controls
    name: bytes
    request_id: bytes
    wire: Wire
    send: Send
    meter: Meter
    delay: float = 0.0
    pause: float = 0.0
    waits: Iterator[float] | None = None

    async def plain(self, answer: Plain) -> None:
        """Sends a whole answer; `fail-after` cuts it in the middle of its body."""
        await self._before_headers()
        body = b"" if answer.status in _BODILESS else answer.body
        headers = self._headers(answer.content_type)
        if self.controls.gzip:
            body = gzip.compress(body, mtime=0)
            headers.append((b"content-encoding", b"gzip"))
        if answer.status not in _BODILESS:
            headers.append((b"content-length", b"%d" % len(body)))
        await self._start(answer.status, headers)
        if self.controls.fail_after:
            await self._send(body[: len(body) // 2])
            await self._cut()
        # In slices, so that a client that leaves in the middle of a large body is noticed.
        for start in range(0, len(body) - _SLICE, _SLICE):
            await self._send(body[start : start + _SLICE])
        self.meter.served(answer.usage, 1, 1)
        await self._send(body[(len(body) - 1) // _SLICE * _SLICE :] if body else b"", more=False)
        self.meter.completed()

    async def stream(self, answer: Stream, status: int) -> None:
        await self._before_headers()
        headers = self._headers(b"text/event-stream; charset=utf-8")
        headers.append((b"cache-control", b"no-cache"))
        squeeze = zlib.compressobj(wbits=31) if self.controls.gzip else None
        if squeeze is not None:
            headers.append((b"content-encoding", b"gzip"))
        await self._start(status, headers)
        sent, pause, waits = 0, self.pause, self.waits
        try:
            if answer.opening:
                await self._send(_encode(squeeze, answer.opening))
            ends_at = self.controls.error_after
            for chunk in answer.chunks:
                if sent == ends_at:
                    break
                # Even without a delay the loop gets a turn, so that each chunk is a write of its own.
                await asyncio.sleep(pause if waits is None else next(waits, 0.0))
                await self._send(_encode(squeeze, chunk))
                sent += 1
                if sent == self.controls.fail_after:
                    await self._cut()
        finally:
            self.meter.served(answer.usage, sent, answer.total)
        await asyncio.sleep(0)
        last = answer.failure if ends_at is not None and ends_at <= answer.total else answer.closing
        await self._send(_encode(squeeze, last) + (squeeze.flush() if squeeze else b""), more=False)
        self.meter.completed()

    async def _before_headers(self) -> None:
        controls = self.controls
        if self.delay:
            await asyncio.sleep(self.delay)
        if controls.hang == "headers":
            await _forever()
        if controls.fail_after == 0:
            await self._cut()

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        if self.controls.hang == "body":
            await _forever()

    def _headers(self, content_type: bytes) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"content-type", content_type),
            (b"x-request-id", self.request_id),
            (b"x-mock-name", self.name),
            *_PROVIDER_HEADERS,
        ]
        if self.controls.retry_after is not None:
            headers.append((b"retry-after", self.controls.retry_after.encode()))
        if own := self.controls.headers:
            replaced = {name for name, _ in own}
            headers = [header for header in headers if header[0] not in replaced] + list(own)
        return headers

    async def _send(self, body: bytes, *, more: bool = True) -> None:
        # A failed write resumes the writer before the loss is reported: what is sent then would go nowhere, and the
        # answer would pass for completed.
        wire = self.wire
        if wire.flow.write_paused:
            await wire.flow.drain()
        if wire.transport.is_closing():
            await _forever()
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def _cut(self) -> None:
        """Closes the connection under the client, after what was written has left."""
        self.meter.cut()
        self.wire.transport.close()
        await _forever()


async def _forever() -> None:
    """Waits until the connection is lost, which cancels the task."""
    await asyncio.get_running_loop().create_future()


def _encode(squeeze: "zlib._Compress | None", data: bytes) -> bytes:
    return squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH) if squeeze else data


def content_type_of(controls: Controls) -> bytes:
    """The content type of `body`: what was asked for, JSON otherwise."""
    return controls.content_type.encode() if controls.content_type else JSON
