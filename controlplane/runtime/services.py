"""The services that providers are, as the control plane sees them: what they are told, how they run, how they do."""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import httpx

from controlplane.compiling import Compiled
from controlplane.plan.services import Service
from controlplane.policy.onnx import OnnxProvider
from controlplane.runtime.child import Child, ProcessState, Status
from controlplane.runtime.failures import ServiceError
from controlplane.runtime.folder import RunFolder
from controlplane.runtime.parts import Alarm, Part, alarm
from controlplane.runtime.supervise import Supervisor
from controlplane.xds import local_models, mock_settings

_READY_S, _POLL_S = 30.0, 0.02
_ASK_S, _LOAD_S = 2.0, 300.0
_HOPELESS = 3  # starts that ended at once
_SETTLED_S = 60.0  # a process that runs for longer is no alarm any more


@dataclass(frozen=True, slots=True)
class _Program:
    """How a kind of service is run: a module, the path that tells which document is in force there, what it needs to be
    installed, and by which extra of this package."""

    module: str
    in_force: str
    needs: tuple[str, ...] = ()
    extra: str = ""


_PROGRAMS: Mapping[str, _Program] = MappingProxyType(
    {
        "mock": _Program("sidecars.mock", "/mock/settings"),
        "onnx": _Program("sidecars.onnx", "/models", ("onnxruntime", "prometheus_client", "jinja2"), "onnx"),
    }
)


@dataclass(slots=True)
class Services(Part):
    """Runs every service that a policy needs.

    A service with a document follows it: models come, change and go without a restart. While an edit is on its way the
    service has the models of both policies, so that no request meets one that is gone, or not there yet.
    `base` is the folder of the policy.
    """

    folder: RunFolder
    supervisor: Supervisor
    base: Path
    _running: dict[str, Service] = field(default_factory=dict)
    _told: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # documents

    async def prepare(self, compiled: Compiled) -> None:
        """Before the push: the services take requests, and know the models of this policy and of the one before.

        Raises:
            ServiceError: one cannot run, or does not start.
            StartError: Python cannot be executed.
            RunFolderError: its document cannot be written.
        """
        for service in compiled.plan.services:
            _expect_installed(service)
        await asyncio.gather(*(self._prepare(service, compiled) for service in compiled.plan.services))

    async def conclude(self, compiled: Compiled) -> None:
        """After the push, or after it was taken back: only the services and models of this policy are left."""
        wanted = {service.name: service for service in compiled.plan.services}
        for service in wanted.values():
            if (document := self._document(service, compiled)) is not None:
                self._tell(service, document)
        for name in self._running.keys() - wanted.keys():
            await self.supervisor.stop(name)
            self._told.pop(name, None)
        for name in self._left_behind() - wanted.keys():
            await self.supervisor.clear(name)
        self._running = wanted

    async def alarms(self) -> list[Alarm]:
        """Services that do not run, or that were started again lately, and models that failed."""
        now, found = datetime.now(UTC), []
        for state in self.supervisor.states():
            service, log = self._running.get(state.name), self.folder.log(state.name)
            if service is None:
                continue
            if state.status is not Status.RUNNING:
                text = f"the service of `{service.provider}` does not run ({state.last_exit}): see {log}"
                found.append(alarm("service", text))
            elif state.restarts and (now - state.since).total_seconds() < _SETTLED_S:
                text = f"the service of `{service.provider}` was started again ({state.last_exit}): see {log}"
                found.append(alarm("service", text))
        failed = [row for row in await self.models() if row["state"] == "failed"]
        return [
            *found,
            *(alarm("model", "the model `{model}` of `{provider}` failed: {why}".format(**row)) for row in failed),
        ]

    async def models(self) -> list[dict[str, Any]]:
        """Every local model, as its service sees it; with the state `unknown` where that does not answer."""
        local = [service for service in self._running.values() if isinstance(service.told, OnnxProvider)]
        answers = await asyncio.gather(*(self._ask(service, "GET", "/models") for service in local))
        return [row for service, answer in zip(local, answers, strict=True) for row in _rows(service, answer)]

    async def change(self, verb: str, provider: str, model: str) -> tuple[int, dict[str, Any]] | None:
        """Has a model loaded or unloaded (`verb`): the status and the words of its service; None if it is away."""
        service = next((of for of in self._running.values() if of.provider == provider), None)
        if service is None:
            return None
        return await self._ask(service, "POST", f"/models/{quote(model, safe='')}/{verb}", _LOAD_S)

    async def _prepare(self, service: Service, compiled: Compiled) -> None:
        tag, wanted = None, self._document(service, compiled)
        if wanted is not None:
            if isinstance(service.told, OnnxProvider):
                wanted = local_models.both(self._told.get(service.name, wanted), wanted)
            tag = self._tell(service, wanted)
        await self.supervisor.start(self._child(service, compiled))
        self._running[service.name] = service
        await self._ready(service, tag)

    def _document(self, service: Service, compiled: Compiled) -> dict[str, Any] | None:
        """What a service is told; None where it needs nothing."""
        if not isinstance(service.told, OnnxProvider):
            return None if service.told.plain else mock_settings.lower(service.told, self.base)
        gateway = compiled.policy.gateway
        return local_models.lower(service.told, self.base, max_body=gateway.max_body, drain_ms=gateway.drain)

    def _tell(self, service: Service, document: Mapping[str, Any]) -> str:
        """Puts a document where the service follows it; its tag."""
        content, tag = local_models.dump(document)
        if document != self._told.get(service.name):
            self.folder.write(f"{service.name}.json", content)
            self._told[service.name] = document
        return tag

    def _child(self, service: Service, compiled: Compiled) -> Child:
        program = _PROGRAMS[service.told.kind]
        argv = [sys.executable, "-m", program.module, "--listen", f"unix:{self._socket(service)}"]
        inputs: tuple[bytes, ...] = ()
        if self._document(service, compiled) is not None:
            argv += ["--settings", str(self.folder.path / f"{service.name}.json")]
        if isinstance(service.told, OnnxProvider):
            inputs = (str(service.told.tokenizer_threads).encode(),)  # read at the start only
        drain_s = compiled.policy.gateway.drain / 1000
        return Child(name=service.name, argv=tuple(argv), inputs=inputs, stop_s=drain_s + 5)

    async def _ready(self, service: Service, tag: str | None) -> None:
        """Waits until it takes requests, and its document is in force. Raises ServiceError."""
        deadline = asyncio.get_running_loop().time() + _READY_S
        path = _PROGRAMS[service.told.kind].in_force
        before = self._state(service).restarts
        while asyncio.get_running_loop().time() < deadline:
            answer = await self._ask(service, "GET", "/health" if tag is None else path)
            if answer is not None and answer[1].get("tag") == tag:
                return
            if self._state(service).restarts >= before + _HOPELESS:
                break
            await asyncio.sleep(_POLL_S)
        words = self._state(service).last_log
        said = f" It said: {words[-1]}" if words else ""
        log = self.folder.log(service.name)
        raise ServiceError(f"the service of the provider `{service.provider}` does not start; its log is {log}.{said}")

    def _state(self, service: Service) -> ProcessState:
        return next(state for state in self.supervisor.states() if state.name == service.name)

    def _left_behind(self) -> set[str]:
        """Services that a control plane before this one started."""
        names = {record.stem for record in self.folder.path.glob("*.pid")}
        return {name for name in names if name.partition("-")[0] in _PROGRAMS}

    async def _ask(
        self, service: Service, method: str, path: str, timeout_s: float = _ASK_S
    ) -> tuple[int, dict[str, Any]] | None:
        """The status and the JSON of an answer; None where there is none."""
        transport = httpx.AsyncHTTPTransport(
            uds=self._socket(service), verify=False
        )  # loading certificates takes 20 ms
        try:
            async with httpx.AsyncClient(transport=transport, timeout=timeout_s, trust_env=False) as client:
                answer = await client.request(method, f"http://{service.name}{path}")
                return answer.status_code, answer.json()
        except (httpx.HTTPError, ValueError):
            return None

    def _socket(self, service: Service) -> str:
        return self.folder.service_socket.format(service.socket)


def _expect_installed(service: Service) -> None:
    """Raises ServiceError."""
    program = _PROGRAMS[service.told.kind]
    missing = [name for name in program.needs if find_spec(name) is None]
    if missing:
        raise ServiceError(
            f"the provider `{service.provider}` needs {' and '.join(missing)}, which is not installed: "
            f"pip install 'headgate[{program.extra}]'"
        )


def _rows(service: Service, answer: tuple[int, dict[str, Any]] | None) -> list[dict[str, Any]]:
    known = {row["model"]: row for row in answer[1].get("models", ())} if answer is not None else {}
    assert isinstance(service.told, OnnxProvider)  # noqa: S101 - only these have models of their own
    unknown = {"state": "unknown", "why": "its service does not answer"}
    return [{"provider": service.provider, "model": name, **known.get(name, unknown)} for name in service.told.models]
