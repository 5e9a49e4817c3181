"""Servers of vLLM as the control plane sees them: how each is started, kept, ended, and how it does.

Nothing waits for a server: it takes minutes to load a model, and what else a policy changes is live meanwhile. A server
is no endpoint that Envoy finds healthy until it answers, so requests go where the model's other targets are.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

from controlplane.compiling import Compiled
from controlplane.plan.launches import Server
from controlplane.policy.secrets import SecretRef, Secrets
from controlplane.runtime import vllm_client
from controlplane.runtime.child import Backoff, Child, ProcessState, StartError, Status
from controlplane.runtime.folder import RunFolder, RunFolderError
from controlplane.runtime.parts import Alarm, Part, alarm
from controlplane.runtime.supervise import Supervisor

_log = structlog.get_logger(__name__)

_KIND = "vllm"
_MODULE = "vllm.entrypoints.openai.api_server"  # `vllm serve` does not run where the package has another name
# The environment is vLLM's own: nothing of a folder that happens to be the current one, and no word to others.
_ENV = {"PYTHONSAFEPATH": "1", "VLLM_NO_USAGE_STATS": "1"}
_LOADING_S, _SERVING_S = 0.5, 2.0  # between looks
_DRAIN_S = 0.2
_FIRST_S, _MOST_S = 1.0, 60.0  # between restarts


@dataclass(slots=True)
class _Kept:
    """A server as it is wanted now (None: not any more), and how it does."""

    wanted: tuple[Server, Child] | None
    edited: asyncio.Event = field(default_factory=asyncio.Event)
    tending: asyncio.Task[None] | None = None
    running: str = ""  # the fingerprint of what was started
    served: datetime | None = None  # when it last answered
    ready: bool = False
    late: bool = False  # it did not get ready in time, and has not been since
    refused: str | None = None  # why it cannot be started at all


@dataclass(slots=True)
class Servers(Part):
    """Runs the servers that a policy launches. `base` is the folder of the policy."""

    folder: RunFolder
    supervisor: Supervisor
    base: Path
    _kept: dict[str, _Kept] = field(default_factory=dict)

    async def conclude(self, compiled: Compiled) -> None:
        """After the push, or after it was taken back: the servers of this policy are started, others end. No wait."""
        wanted = {server.name: (server, self._child(server, compiled.secrets)) for server in compiled.plan.servers}
        for name in {*wanted, *self._kept, *self._left_behind()}:
            kept = self._kept.get(name)
            if kept is None:
                kept = self._kept[name] = _Kept(wanted.get(name))
                kept.tending = asyncio.create_task(self._tend(name, kept), name=f"keep-{name}")
            elif kept.wanted is None or kept.wanted != wanted.get(name):
                kept.wanted = wanted.get(name)
                kept.edited.set()

    async def close(self) -> None:
        """Looks after them no more; what runs is the supervisor's to stop or to leave."""
        tasks = [kept.tending for kept in self._kept.values() if kept.tending is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def alarms(self) -> list[Alarm]:
        """Servers that do not run, cannot be started, or did not get ready in time."""
        found = []
        for name, kept in self._kept.items():
            if kept.wanted is not None and (why := self._failing(name, kept)) is not None:
                text = f"the server of `{kept.wanted[0].provider}` {why}. Its log is {self.folder.log(name)}"
                found.append(alarm("server", text))
        return found

    def models(self) -> list[dict[str, Any]]:
        """The models of the servers, and whether they are ready."""
        rows = []
        for name, kept in self._kept.items():
            if kept.wanted is not None:
                why = self._failing(name, kept)
                state = "ready" if kept.ready else "failed" if why is not None else "loading"
                server = kept.wanted[0]
                rows += [
                    {"provider": server.provider, "model": model, "state": state, "why": None if kept.ready else why}
                    for model in server.told.served
                ]
        return rows

    def _failing(self, name: str, kept: _Kept) -> str | None:
        """Why a server is no good; None while it serves, or may still come to it."""
        if kept.ready:
            return None
        if kept.refused is not None:
            return f"cannot be started ({kept.refused})"
        state = self._state(name)
        if state is None or state.status is Status.STOPPING or not (kept.late or state.last_exit):
            return None
        if state.status is Status.RUNNING and not kept.late and kept.served is not None and kept.served > state.since:
            return None  # it is slow to answer just now
        said = f"; it said: {state.last_log[-1]}" if state.last_log else ""
        if kept.late:
            return f"did not get ready in time, and is started again{said}"
        return f"ended, and is started again ({state.last_exit}{said})"

    async def _tend(self, name: str, kept: _Kept) -> None:
        """Has one server be as it is wanted, and looks how it does, until it is not wanted any more."""
        while True:
            kept.edited.clear()
            if kept.wanted is None:
                await self.supervisor.stop(name)
                await self.supervisor.clear(name)
                if kept.wanted is None:  # it was not put back meanwhile
                    del self._kept[name]
                    return
                continue
            server, child = kept.wanted
            if (fingerprint := child.fingerprint()) != kept.running:
                kept.running, kept.served, kept.ready, kept.late = fingerprint, None, False, False
            try:
                await self.supervisor.start(child)  # which ends one that is not this one
                kept.refused = None
            except (StartError, RunFolderError) as error:
                kept.refused = str(error)
            else:
                await self._look(server, kept)
            with suppress(TimeoutError):
                async with asyncio.timeout(_SERVING_S if kept.ready else _LOADING_S):
                    await kept.edited.wait()

    async def _look(self, server: Server, kept: _Kept) -> None:
        """Notes whether it serves; ends one that did not for too long, to be started again."""
        now, state = datetime.now(UTC), self._state(server.name)
        kept.ready = await vllm_client.healthy(self._socket(server))
        if kept.ready:
            kept.served, kept.late = now, False
        elif state is not None and state.status is Status.RUNNING:
            since = state.since if kept.served is None else max(state.since, kept.served)
            if now - since > timedelta(milliseconds=server.told.ready_within):
                _log.error("server not ready in time", process=server.name)
                kept.late = True
                self.supervisor.kill(server.name)

    def _child(self, server: Server, secrets: Secrets) -> Child:
        launch, socket = server.told, self._socket(server)
        python = self.base / launch.python
        model = str(self.base / launch.model) if launch.is_path else launch.model
        argv = [str(python), "-m", _MODULE, "--model", model, "--served-model-name", *launch.served, "--uds", socket]
        told = {
            name: secrets[value].reveal() if isinstance(value, SecretRef) else value
            for name, value in launch.env.items()
        }
        return Child(
            name=server.name,
            argv=(*argv, *launch.args),
            env=MappingProxyType({**_ENV, **told}),
            drain=_drain(socket),
            drain_s=launch.drain / 1000,
            stop_s=launch.stop_within / 1000,
            stale=(Path(socket),),
            family=True,
            first_path=str(python.parent),  # tools that vLLM calls are installed beside its interpreter
            secrets=tuple(secrets[value] for value in launch.env.values() if isinstance(value, SecretRef)),
            backoff=Backoff(_FIRST_S, _MOST_S, calm_s=launch.ready_within / 1000),
        )

    def _state(self, name: str) -> ProcessState | None:
        return next((state for state in self.supervisor.states() if state.name == name), None)

    def _left_behind(self) -> set[str]:
        """Servers that a control plane before this one started."""
        return {record.stem for record in self.folder.path.glob(f"{_KIND}-*.pid")}

    def _socket(self, server: Server) -> str:
        return self.folder.service_socket.format(server.socket)


def _drain(socket: str) -> Callable[[], Awaitable[None]]:
    """Waits until a server has nothing to do. Twice nothing: what has just come is counted a moment later."""

    async def drain() -> None:
        idle = 0
        while idle < 2:
            idle = idle + 1 if await vllm_client.idle(socket) else 0
            await asyncio.sleep(_DRAIN_S)

    return drain
