"""What outlives a restart: who is registered, and the last good content of files, as a JSON document. Pure."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import orjson

from controlplane.discovery import weights
from controlplane.discovery.found import Found
from controlplane.discovery.registry import Announced, Registry, Service
from controlplane.plan.ir import Endpoint

_VERSION = 1

Files = Mapping[str, tuple[Found, ...]]


class KeptError(Exception):
    """The document is damaged, or of another version. Its text says how."""


def dump(registry: Registry, files: Files) -> bytes:
    """Without load and without times: neither means anything later."""
    services = [_written(registry.services[name]) for name in sorted(registry.services)]
    listed = {name: [_listed(found) for found in files[name]] for name in sorted(files)}
    return orjson.dumps({"version": _VERSION, "services": services, "files": listed}, option=orjson.OPT_INDENT_2)


def read(text: bytes, now_s: float) -> tuple[Registry, Files]:
    """What was kept. While nobody listened, nobody could be heard: each service has all of its time from now on.

    Raises:
        KeptError: it is no such document.
    """
    try:
        data = orjson.loads(text)
        if data["version"] != _VERSION:
            raise KeptError(f"it is of version {data['version']!r}, and {_VERSION} was expected")
        services = [_service(each, now_s) for each in data["services"]]
        files = {str(name): tuple(map(_found, listed)) for name, listed in data["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeptError(f"it is damaged ({type(error).__name__})") from None
    return Registry(MappingProxyType({service.said.id: service for service in services})), MappingProxyType(files)


def _written(service: Service) -> dict[str, Any]:
    said = service.said
    return {
        "id": said.id,
        "provider": said.provider,
        "host": said.endpoint.host,
        "port": said.endpoint.port,
        "models": said.models,
        "capabilities": said.capabilities,
        "capacity": said.capacity,
        "ttl_s": said.ttl_s,
        "joined": service.joined.isoformat(),
    }


def _service(data: dict[str, Any], now_s: float) -> Service:
    said = Announced(
        id=str(data["id"]),
        provider=str(data["provider"]),
        endpoint=Endpoint(str(data["host"]), int(data["port"])),
        models=tuple(map(str, data["models"])),
        capabilities=tuple(map(str, data["capabilities"])),
        capacity=int(data["capacity"]),
        ttl_s=float(data["ttl_s"]),
    )
    return Service(said, datetime.fromisoformat(data["joined"]), now_s, weight=weights.full(said.capacity))


def _listed(found: Found) -> dict[str, Any]:
    return {"host": found.endpoint.host, "port": found.endpoint.port, "weight": found.weight, "models": found.models}


def _found(data: dict[str, Any]) -> Found:
    weight = int(data["weight"])
    return Found(Endpoint(str(data["host"]), int(data["port"])), weight, weight, tuple(map(str, data["models"])))
