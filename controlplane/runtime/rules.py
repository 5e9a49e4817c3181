"""The workers of rules as the control plane sees them: what they are told, how they are started, whether they run."""

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import orjson

from controlplane.compiling import Compiled
from controlplane.plan.rules import Inline
from controlplane.policy.webhooks import hooks
from controlplane.runtime.child import Child, ProcessState, Status
from controlplane.runtime.failures import RulesError
from controlplane.runtime.folder import RunFolder
from controlplane.runtime.parts import Alarm, Part, alarm
from controlplane.runtime.supervise import Supervisor
from extproc.server.settings import file_name, hooks_file, tokenizer_file

_NAME = "rules-"
_KEPT = 8  # versions; requests may still be on their way with an older one
_SERVING, _CHECK = b"\x08\x01", "/grpc.health.v1.Health/Check"
_COUNTERS, _ASK_S = "/headgate.inline.v1.Counters/Read", 2.0
_READY_S, _POLL_S = 30.0, 0.02


@dataclass(frozen=True, slots=True)
class Ruling(Part):
    """Runs the workers from the first policy on that needs them."""

    folder: RunFolder
    supervisor: Supervisor

    async def prepare(self, compiled: Compiled) -> None:
        """Has every worker that the plan needs ready, for requests of this version of its rules before any names it.

        Raises RulesError, StartError, RunFolderError.
        """
        plan = compiled.plan
        if not plan.workers:
            return
        settings = self.folder.rules_settings
        if plan.inline is not None:
            _write(settings, plan.inline, hooks(compiled.policy, compiled.secrets))
        version = plan.inline.version if plan.inline is not None else ""
        for number in range(plan.workers):
            await self.supervisor.start(_child(number, self.folder, settings))
        await asyncio.gather(*(_ready(self.folder, number, version) for number in range(plan.workers)))

    async def conclude(self, compiled: Compiled) -> None:
        """After the push, or after it was taken back: workers that are too many end. Without rules all stay."""
        if not compiled.plan.workers:
            return
        wanted = {f"{_NAME}{number}" for number in range(compiled.plan.workers)}
        for name in {state.name for state in self._workers()} - wanted:
            await self.supervisor.stop(name)
        for name in {record.stem for record in self.folder.path.glob(f"{_NAME}*.pid")} - wanted:
            await self.supervisor.clear(name)

    async def alarms(self) -> list[Alarm]:
        """What to tell of workers that do not run."""
        workers = self._workers()
        lost = [state for state in workers if state.status is not Status.RUNNING]
        if not lost:
            return []
        meanwhile = "the others do their work"
        if len(lost) == len(workers):
            meanwhile = (
                "requests whose rules must hold, or that need translation, fail; others pass without their rules"
            )
        last = lost[-1].last_exit or "no exit known"
        return [alarm("rules", f"{len(lost)} of {len(workers)} workers of rules do not run ({last}); {meanwhile}")]

    async def counters(self) -> dict[str, Any]:
        """What the workers that answer counted, summed."""
        sockets = [self.folder.rules_socket.format(state.name.removeprefix(_NAME)) for state in self._workers()]
        told = await asyncio.gather(*map(_read, sockets))
        total: dict[str, Any] = {"workers": len([each for each in told if each])}
        for each in told:
            for name, value in each.items():
                if isinstance(value, dict):
                    total[name] = dict(Counter(total.get(name, {})) + Counter(value))
                else:
                    total[name] = total.get(name, 0) + value
        return total

    def _workers(self) -> list[ProcessState]:
        return [state for state in self.supervisor.states() if state.name.startswith(_NAME)]


async def _read(socket: str) -> dict[str, Any]:
    """What one counted; nothing of one that does not answer."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        async with grpc.aio.insecure_channel(f"unix:{socket}", options=_ALONE) as channel:
            found: dict[str, Any] = orjson.loads(await channel.unary_unary(_COUNTERS, None, None)(b"", timeout=_ASK_S))
            return found
    return {}


def _child(number: int, folder: RunFolder, settings: Path) -> Child:
    socket = folder.rules_socket.format(number)
    argv = [sys.executable, "-m", "extproc.server", "--socket", socket, "--settings", str(settings)]
    argv += ["--cache", folder.cache_socket]  # also where no rule caches: an edit that begins to replaces no worker
    return Child(name=f"{_NAME}{number}", argv=tuple(argv), stop_s=12.0)


def _write(settings: Path, inline: Inline, hooks: str) -> None:
    """Puts the document where workers look for its version, what it names beside it, and removes the oldest ones."""
    beside = {tokenizer_file(digest): text for digest, text in inline.texts.items()}
    if inline.hooks:
        beside[hooks_file(inline.hooks)] = hooks
    for name, text in beside.items():
        file = settings / name
        if file.exists():
            file.touch()
        else:
            _put(file, text.encode())
    _put(settings / file_name(inline.version), inline.document)
    _forget(settings.glob("*.json"), _KEPT)
    _forget(settings.glob("*.hooks"), _KEPT)
    _forget(settings.glob("*.tokenizer"), max(_KEPT, len(inline.texts)))


def _put(file: Path, content: bytes) -> None:
    """Whole or not at all, and for nobody else to read."""
    fresh = file.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        opened.write(content)
    fresh.replace(file)


def _forget(files: Iterable[Path], kept: int) -> None:
    """All but the latest."""
    known = sorted(files, key=lambda each: each.stat().st_mtime_ns)
    for old in known[:-kept]:
        old.unlink(missing_ok=True)


async def _ready(folder: RunFolder, number: int, version: str) -> None:
    """Waits until a worker can serve the version, which it reads when it is asked for its health."""
    name = version.encode()
    request = b"\x0a" + bytes([len(name)]) + name if name else b""
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(_READY_S),
            grpc.aio.insecure_channel(f"unix:{folder.rules_socket.format(number)}", options=_ALONE) as channel,
        ):
            check = channel.unary_unary(_CHECK, None, None)
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    if await check(request, wait_for_ready=True) == _SERVING:
                        return
                await asyncio.sleep(_POLL_S)
    log = folder.log(f"{_NAME}{number}")
    raise RulesError(f"worker {number} of rules cannot serve settings {version}; its log is {log}")


# A channel of its own, so that no other one's backoff delays it.
_ALONE = (("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50))
