"""Calls webhooks for verdicts: signed, over connections that stay, each within its time. None is waited for long.

Signed as Standard Webhooks 1.0.0 say: extproc/usage/webhooks/body.py.
"""

import asyncio
import time
import uuid

import httpx
import structlog

from extproc.stages.webhook import MOST_ANSWER, Call
from extproc.usage.webhooks.body import headers

_log = structlog.get_logger(__name__)

_KEPT = 64  # connections that wait for the next call
_KEPT_S = 30.0


class _NoVerdictError(Exception):
    """What came is no answer; says why, without a word of it."""


class Hooks:
    """The calls of one worker. Close it at the end."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None
        self._rooms: dict[tuple[str, int], asyncio.Semaphore] = {}

    async def ask(self, rule: str, call: Call) -> bytes | None:
        """The body of the answer; None where there is none in time."""
        name = call.hook.name
        room = self._rooms.setdefault((name, call.concurrent), asyncio.Semaphore(call.concurrent))
        try:
            async with asyncio.timeout(call.timeout_s), room:
                return await self._posted(call)
        except TimeoutError:
            reason = f"not within {call.timeout_s:g} s"
        except _NoVerdictError as error:
            reason = str(error)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            reason = type(error).__name__  # the text of some of these holds the URL
        _log.warning("a webhook gave no verdict", rule=rule, webhook=name, reason=reason)
        return None

    async def close(self) -> None:
        """Ends the connections that stayed."""
        if self._client is not None:
            await self._client.aclose()

    async def _posted(self, call: Call) -> bytes:
        event = f"msg_{uuid.uuid4().hex}"
        try:
            return await self._tried(call, event)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            # A connection that stayed may have been closed at the other end just now.
            return await self._tried(call, event)

    async def _tried(self, call: Call, event: str) -> bytes:
        signed = headers(call.hook.secret, event, int(time.time()), call.body)
        async with self._http().stream("POST", call.hook.url, content=call.body, headers=signed) as answer:
            if answer.status_code != httpx.codes.OK:
                raise _NoVerdictError(f"status {answer.status_code}")
            found = bytearray()
            async for part in answer.aiter_bytes():
                found += part
                if len(found) > MOST_ANSWER:
                    raise _NoVerdictError(f"more than {MOST_ANSWER} bytes")
            return bytes(found)

    def _http(self) -> httpx.AsyncClient:
        """Made when first needed: most workers never ask anybody."""
        if self._client is None:
            # Rooms bound the calls, and the call's own time all that can take long.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT, keepalive_expiry=_KEPT_S)
            self._client = httpx.AsyncClient(timeout=None, limits=limits)  # noqa: S113
        return self._client
