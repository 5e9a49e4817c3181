"""Keeps one service registered: joins, sends heartbeats, joins anew when it was forgotten, leaves at the end."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import structlog

_TIMEOUT_S = 10.0
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 30.0
_LINGER_S = 0.25  # the edge's threads hear of it a moment after the edge does
_OFTENEST_S = 0.01  # between heartbeats, whatever the answer says
_NOBODY = "no control plane answers there"
_LOOK_S = 1.0  # between looks at a service that is away
_log = structlog.get_logger(__name__)


class ServiceAwayError(Exception):
    """The service that is announced does not answer. Its text says how that shows."""


@dataclass(frozen=True, slots=True)
class Said:
    """What is announced; see POST /register of the admin API. `ttl_s` None: as long as the policy says."""

    id: str
    provider: str
    address: str
    models: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    capacity: int = 16
    ttl_s: float | None = None

    def body(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "id": self.id,
            "provider": self.provider,
            "address": self.address,
            "models": self.models,
            "capabilities": self.capabilities,
            "capacity": self.capacity,
        }
        return made if self.ttl_s is None else {**made, "ttl_s": self.ttl_s}


@dataclass(frozen=True, slots=True)
class Busy:
    """How busy a service is: requests that wait, requests in work. `models` None: those that were announced.

    Requests in work beyond the capacity that was announced count as waiting.
    """

    queue: int = 0
    running: int = 0
    models: tuple[str, ...] | None = None


async def _idle() -> Busy:
    return Busy()


class _RefusedError(Exception):
    """The control plane answered, and not with yes. `status` is the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Announcer:
    """One service and one control plane.

    `measure` tells how busy the service is, or raises ServiceAwayError: then it leaves the endpoints until it is back.
    """

    url: str
    token: str = field(repr=False)
    said: Said
    measure: Callable[[], Awaitable[Busy]] = _idle
    transport: httpx.AsyncBaseTransport | None = None  # another one, for tests
    _heartbeat_s: float = 0.0  # 0: not registered

    async def run(self, stop: asyncio.Event) -> None:
        """Keeps the service registered until `stop` is set, then takes it out. Never raises for want of an answer."""
        headers = {"authorization": f"Bearer {self.token}"}
        async with httpx.AsyncClient(
            base_url=self.url.rstrip("/"),
            headers=headers,
            timeout=_TIMEOUT_S,
            trust_env=False,
            transport=self.transport,
        ) as http:
            retry_s = _FIRST_RETRY_S
            while not stop.is_set():
                try:
                    wait_s = await self._turn(http)
                    retry_s = _FIRST_RETRY_S
                except (httpx.HTTPError, _RefusedError) as error:
                    _log.warning("announce: not heard", url=self.url, reason=str(error) or type(error).__name__)
                    wait_s = retry_s * random.uniform(0.5, 1.0)  # noqa: S311 - so that not all come back at once
                    retry_s = min(2 * retry_s, self._heartbeat_s or _LONGEST_RETRY_S)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), wait_s)
            if self._heartbeat_s:
                await self._leave(http)
                await asyncio.sleep(_LINGER_S)

    async def _turn(self, http: httpx.AsyncClient) -> float:
        """Says what is to be said now; how long to wait before the next turn."""
        try:
            busy = await self.measure()
        except ServiceAwayError as away:
            if self._heartbeat_s:
                _log.warning("announce: the service is away", reason=str(away))
                await self._leave(http)
            return _LOOK_S
        if busy.models is not None and busy.models != self.said.models:
            self.said, self._heartbeat_s = replace(self.said, models=busy.models), 0.0
        if not self._heartbeat_s:
            await self._join(http)
        # Of a service that cannot tell what waits: everything beyond what it works on at a time.
        beyond = max(0, busy.running - self.said.capacity)
        body = {"queue": busy.queue + beyond, "running": busy.running - beyond}
        try:
            await _ask(http, "POST", f"/register/{self.said.id}/heartbeat", body)
        except _RefusedError as refused:
            if refused.status != 404:
                raise
            await self._join(http)  # it was forgotten: a restart, or a silence longer than the ttl
        return self._heartbeat_s

    async def _join(self, http: httpx.AsyncClient) -> None:
        self._heartbeat_s = 0.0
        answer = await _ask(http, "POST", "/register", self.said.body())
        try:
            self._heartbeat_s = max(_OFTENEST_S, float(answer["heartbeat_s"]))
        except (KeyError, TypeError, ValueError):
            raise _RefusedError(200, _NOBODY) from None
        _log.info("announce: registered", url=self.url, id=self.said.id, heartbeat_s=self._heartbeat_s)

    async def _leave(self, http: httpx.AsyncClient) -> None:
        if not self._heartbeat_s:
            return
        self._heartbeat_s = 0.0
        try:
            await _ask(http, "DELETE", f"/register/{self.said.id}", None)
        except (httpx.HTTPError, _RefusedError) as error:  # then it leaves when its ttl is over
            _log.warning("announce: could not leave", url=self.url, reason=str(error) or type(error).__name__)
        else:
            _log.info("announce: left", url=self.url, id=self.said.id)


async def _ask(http: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    answer = await http.request(method, path, json=body)
    try:
        data = answer.json()
    except ValueError:
        data = None
    if not answer.is_success or not isinstance(data, dict):
        raise _RefusedError(answer.status_code, f"{answer.status_code} {_words(data)}".strip())
    return data


def _words(data: Any) -> str:
    """Why it was refused, in the control plane's words."""
    if not isinstance(data, dict):
        return _NOBODY
    error = data.get("error")
    return str(error.get("message") if isinstance(error, dict) else data.get("detail") or error)
