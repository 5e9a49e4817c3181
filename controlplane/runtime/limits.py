"""The rate limit service as the control plane sees it: what it is told and when, how it is started, how it does."""

import asyncio
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import orjson
import structlog

from controlplane.compiling import Compiled
from controlplane.runtime.child import Child
from controlplane.runtime.failures import LimitsError
from controlplane.runtime.folder import RunFolder
from controlplane.runtime.parts import Alarm, Part, alarm
from controlplane.runtime.supervise import Supervisor
from controlplane.xds.limiting import REDIS_URL, lower
from extproc.limits.service import STATUS
from extproc.limits.settings import Settings, SettingsError, dump, fingerprint, read

NAME = "limits"
_SETTINGS = "limits.json"
_READY_S = 30.0
_ASK_S = 0.5
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Limiting(Part):
    """Runs the service while a policy needs it, and tells it the rules before a request can meet them.

    While a change is on its way, Envoy may ask by the old rules or the new: the service has both until every node has
    acknowledged the new ones, so that no request is half counted.
    """

    folder: RunFolder
    supervisor: Supervisor
    journal: Path
    _told: Settings | None = None
    _url: str = field(default="", repr=False)
    _told_url: str = field(default="", repr=False)  # another one, such as a new password, takes another process

    async def prepare(self, compiled: Compiled) -> None:
        """Before the push: the service runs, and knows the rules of this policy and of the one before.

        Raises:
            LimitsError: it does not start.
            RunFolderError: its settings cannot be written.
        """
        wanted = lower(compiled.plan)
        if wanted is None:
            return
        before = self._told or self._left_behind()
        if compiled.plan.redis is not None:
            self._url = compiled.secrets[compiled.plan.redis].reveal()
        if before is not None:
            redis = wanted.redis or (before.redis if self._url else None)
            rules = {name: rule for name, rule in before.rules.items() if redis or rule.scope == "node"}
            wanted = Settings(rules | dict(wanted.rules), before.prices | wanted.prices, redis)
        await self._tell(wanted)

    async def conclude(self, compiled: Compiled) -> None:
        """After the push, or after it was taken back: only the rules of this policy are left."""
        wanted = lower(compiled.plan)
        if wanted is None:
            if self._told is not None:
                self._told = None
                await self.supervisor.stop(NAME)
            return
        if self._told is not None and self._told.redis is not None:  # its process goes on as it is
            wanted = replace(wanted, redis=self._told.redis)
        try:
            await self._tell(wanted)
        except LimitsError as error:  # it has these rules among others, and `alarms` says that it is away
            _log.error(str(error))

    async def alarms(self) -> list[Alarm]:
        """What the operator should know: the service does not answer, or Redis is away."""
        if self._told is None:
            return []
        status = await self._status()
        if status is None:
            text = f"the rate limit service does not answer; `on_error` decides. Its log is {self.folder.log(NAME)}"
            return [alarm("limits", text)]
        if status["redis"] == "away":
            return [alarm("redis", _AWAY)]
        return []

    def _left_behind(self) -> Settings | None:
        """What a control plane before this one told the service."""
        try:
            return read(self.folder.path / _SETTINGS)
        except (OSError, SettingsError):
            return None

    async def _tell(self, settings: Settings) -> None:
        same = settings == self._told and self._url == self._told_url
        if same and (await self._status() or {}).get("settings") == fingerprint(settings):
            return
        file = self.folder.write(_SETTINGS, dump(settings))
        argv = [sys.executable, "-m", "extproc.limits", "--socket", self.folder.limits_socket, "--settings", str(file)]
        argv += ["--journal", str(self.journal)]
        env = MappingProxyType({REDIS_URL: self._url} if settings.redis else {})
        await self.supervisor.start(Child(name=NAME, argv=tuple(argv), env=env, stop_s=10.0))
        status = await self._until(fingerprint(settings))
        self._told, self._told_url = settings, self._url
        if status["redis"] == "away":
            _log.warning(_AWAY)

    async def _until(self, wanted: str) -> dict[str, Any]:
        """Waits until these settings are in force; the service's status then."""
        deadline = asyncio.get_running_loop().time() + _READY_S
        while asyncio.get_running_loop().time() < deadline:
            status = await self._status()
            if status is not None and status["settings"] == wanted:
                return status
            await asyncio.sleep(0.02)
        raise LimitsError(f"the rate limit service does not start; its log is {self.folder.log(NAME)}")

    async def _status(self) -> dict[str, Any] | None:
        """What the service says of itself; None when it cannot be asked."""
        async with grpc.aio.insecure_channel(f"unix:{self.folder.limits_socket}") as channel:
            try:
                answer = await channel.unary_unary(STATUS, bytes, bytes)(b"", timeout=_ASK_S)
            except grpc.aio.AioRpcError:
                return None
        found: dict[str, Any] = orjson.loads(answer)
        return found


_AWAY = "Redis (gateway.redis) is away: limits with `scope: fleet` are not counted, their `on_error` decides"
