"""The store of the response cache as the control plane sees it: how it is started, how it does, what it holds."""

import asyncio
import sys
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from controlplane.compiling import Compiled
from controlplane.runtime.child import Child
from controlplane.runtime.failures import CacheError
from controlplane.runtime.folder import RunFolder
from controlplane.runtime.parts import Alarm, Part, alarm
from controlplane.runtime.supervise import Supervisor
from extproc.cache import URL_ENV
from extproc.cache.client import Client

NAME = "cache"
_READY_S, _ASK_S, _WALK_S = 30.0, 1.0, 60.0
_POLL_S = 0.02


@dataclass(slots=True)
class Caching(Part):
    """Runs the store while a policy needs it."""

    folder: RunFolder
    supervisor: Supervisor
    _running: bool = False

    async def prepare(self, compiled: Compiled) -> None:
        """Before the push: the store takes calls.

        Raises:
            CacheError: it does not start.
            StartError: Python cannot be executed.
            RunFolderError: its record cannot be written.
        """
        wanted = compiled.plan.caching
        if wanted is None:
            return
        argv = [sys.executable, "-m", "extproc.cache", "--socket", self.folder.cache_socket]
        argv += ["--memory", str(wanted.memory), "--inside", self.folder.inside_socket]
        env = {} if wanted.redis is None else {URL_ENV: compiled.secrets[wanted.redis].reveal()}
        await self.supervisor.start(Child(name=NAME, argv=tuple(argv), env=MappingProxyType(env), stop_s=5.0))
        self._running = True
        deadline = asyncio.get_running_loop().time() + _READY_S
        while await self._ask({"op": "status"}, _ASK_S) is None:
            if asyncio.get_running_loop().time() > deadline:
                raise CacheError(f"the store of the response cache does not start; its log is {self.folder.log(NAME)}")
            await asyncio.sleep(_POLL_S)

    async def conclude(self, compiled: Compiled) -> None:
        """After the push, or after it was taken back: a store that nothing uses goes, and what is in it."""
        if compiled.plan.caching is None and self._running:
            self._running = False
            await self.supervisor.stop(NAME)

    async def show(self) -> dict[str, Any] | None:
        """What is in it, by rule; None where it does not run or does not answer."""
        return await self._ask({"op": "show"}, _WALK_S) if self._running else None

    async def clear(self, rule: str | None) -> dict[str, Any] | None:
        """Removes the answers of a rule, or all; how many. None where it does not run or does not answer."""
        return await self._ask({"op": "clear", "rule": rule}, _WALK_S) if self._running else None

    async def alarms(self) -> list[Alarm]:
        """What the operator should know."""
        if not self._running:
            return []
        status = await self._ask({"op": "status"}, _ASK_S)
        if status is None:
            text = f"the store of the response cache does not answer, nothing is found: see {self.folder.log(NAME)}"
            return [alarm("cache", text)]
        found = []
        if status["redis"] == "away":
            found.append(alarm("cache-redis", "Redis (gateway.redis) is away: what is cached there is not found"))
        if status["embeddings"] == "away":
            found.append(alarm("cache-embeddings", "no embeddings: caches find equal requests only"))
        return found

    async def _ask(self, head: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
        client = Client(self.folder.cache_socket)
        try:
            return await client.told(head, timeout_s)
        finally:
            client.close()
