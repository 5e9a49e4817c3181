"""How services announce themselves. They have tokens of their own, which open these routes and no others."""

import hmac
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from controlplane.admin.access import RefusedError
from controlplane.admin.origin import origin
from controlplane.discovery.registry import HEARTBEATS, MOST, Announced, FullError, Load, TakenError
from controlplane.plan.ir import Endpoint
from controlplane.policy import grammar
from controlplane.policy.discovery import Registration
from controlplane.runtime.controller import Controller
from controlplane.runtime.discovery import Discovery, registrations

_Name = Annotated[str, Field(pattern=grammar.NAME)]
_Model = Annotated[str, Field(pattern=grammar.MODEL)]
_Capacity = Annotated[int, Field(ge=1, le=10_000)]
_Count = Annotated[int, Field(ge=0, le=1_000_000)]
_SHORTEST_TTL_S = 1.0


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class RegisterBody(_Body):
    """A service that is there."""

    id: _Name = Field(description="Its name, the same after a restart.")
    provider: _Name = Field(description="The provider of the policy whose endpoint it is.")
    address: str = Field(max_length=64, description="IP address and port where it serves.")
    models: list[_Model] = Field([], max_length=1000, description="The models that it has; empty: all.")
    capabilities: list[_Name] = Field([], max_length=100, description="What it can do, for people to read.")
    capacity: _Capacity = Field(description="How many requests it works on at a time.")
    ttl_s: Annotated[float, Field(ge=_SHORTEST_TTL_S)] | None = Field(
        None, description="How long it stays without a heartbeat; at most, and by default, as long as the policy says."
    )


class HeartbeatBody(_Body):
    """A service that is still there."""

    queue: _Count = Field(0, description="Requests that wait.")
    running: _Count = Field(0, description="Requests in work.")
    capacity: _Capacity | None = Field(None, description="How many it works on at a time, where that changed.")


def router(controller: Controller, discovery: Discovery) -> APIRouter:
    """POST, DELETE and the heartbeat for services; GET /endpoints for operators."""
    made, calls = APIRouter(), _Calls(controller, discovery)
    guard = [Depends(calls.guard)]
    made.post("/register", summary="A service joins the endpoints of a provider", dependencies=guard)(calls.register)
    made.post("/register/{id}/heartbeat", summary="A service is alive, and so busy", dependencies=guard)(
        calls.heartbeat
    )
    made.delete("/register/{id}", summary="A service leaves the endpoints at once", dependencies=guard)(calls.leave)
    made.get("/endpoints", summary="The endpoints that were discovered")(calls.listed)
    return made


class _Calls:
    """The routes."""

    def __init__(self, controller: Controller, discovery: Discovery) -> None:
        self._controller, self._discovery = controller, discovery

    async def guard(
        self,
        request: Request,
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        """Raises RefusedError unless the token opens a provider; those that it opens are kept with the request."""
        request.state.opened = self._opened(given.credentials if given else "")
        if not request.state.opened:
            raise _unauthorized()

    async def register(self, body: RegisterBody, request: Request) -> dict[str, Any]:
        wanted = request.state.opened.get(body.provider)
        if wanted is None:
            raise _unauthorized()
        request.state.service = body.id
        longest_s = wanted.ttl / 1000
        said = Announced(
            id=body.id,
            provider=body.provider,
            endpoint=_endpoint(body.address, wanted),
            models=tuple(dict.fromkeys(body.models)),
            capabilities=tuple(dict.fromkeys(body.capabilities)),
            capacity=body.capacity,
            ttl_s=min(body.ttl_s or longest_s, longest_s),
        )
        try:
            await self._discovery.join(said, origin(request))
        except TakenError:
            message = f"`{body.id}` is a service of another provider: choose an id of your own."
            raise RefusedError(409, "id_taken", message) from None
        except FullError:
            message = f"`{body.provider}` has {MOST} services, which is as many as a provider may have."
            raise RefusedError(409, "provider_full", message) from None
        return {"id": said.id, "ttl_s": said.ttl_s, "heartbeat_s": said.ttl_s / HEARTBEATS}

    async def heartbeat(self, id: str, body: HeartbeatBody, request: Request) -> dict[str, Any]:  # noqa: A002 - the path's
        self._expect(id, request)
        service = self._discovery.heartbeat(id, Load(body.queue, body.running), body.capacity)
        return {"id": id, "ttl_s": service.said.ttl_s, "heartbeat_s": service.said.ttl_s / HEARTBEATS}

    async def leave(self, id: str, request: Request) -> dict[str, Any]:  # noqa: A002 - the path's
        self._expect(id, request)
        request.state.service = id
        return {"id": id, "everywhere": await self._discovery.leave(id, origin(request), self._controller)}

    async def listed(self, provider: str | None = None) -> dict[str, Any]:
        rows = self._discovery.rows()
        return {"rows": [row for row in rows if provider in (None, row["provider"])]}

    def _expect(self, name: str, request: Request) -> None:
        """Raises RefusedError unless there is such a service, of a provider that the token opens."""
        service = self._discovery.registry.services.get(name)
        if service is None or service.said.provider not in request.state.opened:
            message = f"No service `{name}` is registered: register it again."
            raise RefusedError(404, "not_registered", message)

    def _opened(self, token: str) -> Mapping[str, Registration]:
        """The providers that a token opens. How long it takes depends on no token, only on how many there are."""
        live = self._controller.live
        if live is None:
            return {}
        given = token.encode("utf-8", "surrogatepass")
        known = registrations(live.compiled.policy)
        opened = {
            name: hmac.compare_digest(live.compiled.secrets[each.token].reveal().encode(), given)
            for name, each in known.items()
        }
        return {name: known[name] for name, fits in opened.items() if fits}


def _endpoint(text: str, wanted: Registration) -> Endpoint:
    try:
        found = grammar.endpoint(text)
    except ValueError as error:
        raise RefusedError(422, "invalid_address", f"address: {text!r} is not valid, expected {error}") from None
    address = ip_address(found.host)
    if wanted.networks and not any(address in ip_network(network) for network in wanted.networks):
        message = f"{found.host} is in none of the networks that the policy allows services to be in."
        raise RefusedError(403, "address_not_allowed", message)
    return Endpoint(found.host, found.port)


def _unauthorized() -> RefusedError:
    message = "The token is not the provider's: send `Authorization: Bearer TOKEN` with the one of its `discover`."
    return RefusedError(401, "invalid_registration_token", message)
