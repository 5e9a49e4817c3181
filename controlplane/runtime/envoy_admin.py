"""Envoy's admin interface, over its unix socket.

https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin
"""

import asyncio
import time
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

_ACTIVE = r"^http\..*\.downstream_rq_active$"
_OURS = "http.admin."
_POLL_S = 0.05
_ANSWER_S = 5.0


class EnvoyAdminError(Exception):
    """Envoy's admin interface does not answer, or not with success."""


class EnvoyAdmin:
    """A client of the Envoy at a unix socket, whichever that is at the time.

    Use it as an async context manager, or `close` it. It opens again when used after that: the drain of an Envoy
    may well be the last thing that happens.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def ready(self) -> bool:
        """Whether Envoy is LIVE: it has its first configuration and takes traffic. False too when it is not there."""
        try:
            answer = await self._http().get("/ready")
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    async def wait_ready(self, timeout_s: float) -> bool:
        """Waits until Envoy is LIVE; False when it is not after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while not await self.ready():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def stats(self, pattern: str = "") -> dict[str, int]:
        """Counters and gauges whose names match the regular expression, by name."""
        query = {"format": "json", **({"filter": pattern} if pattern else {})}
        found = orjson.loads((await self._ask("GET", "/stats", query)).content)["stats"]
        return {s["name"]: s["value"] for s in found if isinstance(s.get("value"), int)}

    async def config_dump(self) -> dict[str, Any]:
        """The configuration in effect. Envoy leaves out the values of SDS secrets and API keys."""
        dump: dict[str, Any] = orjson.loads((await self._ask("GET", "/config_dump")).content)
        return dump

    async def drain(self, accept_s: float = 0.0) -> None:
        """Lets the requests in flight finish; returns when there are none. Bound it with a deadline.

        Health answers turn bad and every answer closes its connection at once, so that load balancers and
        clients go elsewhere. New connections are taken for at most `accept_s` seconds more, none after that.
        """
        await self._ask("POST", "/healthcheck/fail")
        await self._ask("POST", "/drain_listeners?graceful&skip_exit")
        await self._until_idle(accept_s)
        # The graceful drain would go on accepting for all of --drain-time-s.
        await self._ask("POST", "/drain_listeners")
        await self._until_idle(None)

    async def _until_idle(self, timeout_s: float | None) -> None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while await self._in_flight() and (deadline is None or time.monotonic() < deadline):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)  # Envoy has no way to tell when

    async def _in_flight(self) -> int:
        """Requests being served, those of this client to the admin interface not counted."""
        active = await self.stats(_ACTIVE)
        return sum(count for name, count in active.items() if not name.startswith(_OURS))

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            limits = httpx.Limits(max_keepalive_connections=0)  # the next request may meet another Envoy
            transport = httpx.AsyncHTTPTransport(uds=self._socket, limits=limits, verify=False)
            self._client = httpx.AsyncClient(
                transport=transport, base_url="http://envoy", timeout=_ANSWER_S, trust_env=False
            )
        return self._client

    async def _ask(self, method: str, path: str, query: dict[str, str] | None = None) -> httpx.Response:
        try:
            answer = await self._http().request(method, path, params=query)
        except httpx.HTTPError as error:
            raise EnvoyAdminError(
                f"Envoy's admin interface at {self._socket} does not answer {path}: {error or type(error).__name__}"
            ) from error
        if answer.status_code != 200:
            raise EnvoyAdminError(f"Envoy's admin interface answered {path} with status {answer.status_code}")
        return answer
