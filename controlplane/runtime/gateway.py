"""`ctl up`: the whole gateway in the foreground. Startup, main loop and shutdown, readable from top to bottom."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import structlog

from controlplane.admin.app import create_app
from controlplane.admin.usage import Usage
from controlplane.audit.log import AuditLog
from controlplane.compiling import Compiler
from controlplane.plan.denials import Spent
from controlplane.policy.check import check, secret_refs
from controlplane.policy.diagnostics import PolicyError
from controlplane.policy.language import Gateway as Settings
from controlplane.policy.language import Policy
from controlplane.policy.load import LoadCache, not_utf8
from controlplane.revisions.store import Store
from controlplane.runtime import apis
from controlplane.runtime.accounting import NAME, Accounting, Collecting
from controlplane.runtime.auditing import Auditing
from controlplane.runtime.bootstrap import Node, build_bootstrap
from controlplane.runtime.caching import Caching
from controlplane.runtime.changes import Applied, Live, utc_now
from controlplane.runtime.command import NAME as ENVOY
from controlplane.runtime.command import envoy_child
from controlplane.runtime.controller import Controller
from controlplane.runtime.discovery import Discovery
from controlplane.runtime.envoy import find_envoy
from controlplane.runtime.envoy_admin import EnvoyAdmin
from controlplane.runtime.failures import ApplyError, KeysUnavailableError, NotReadyError, UnreadableError
from controlplane.runtime.folder import RunFolder, lock, rules_log, run_folder, usage_log
from controlplane.runtime.interpreters import interpreter_prober
from controlplane.runtime.judge import in_envoys_words
from controlplane.runtime.keys import Keys
from controlplane.runtime.limits import Limiting
from controlplane.runtime.memory import frugal
from controlplane.runtime.model_listings import ModelListings
from controlplane.runtime.parts import Alarm, Parts
from controlplane.runtime.process import connection_limit
from controlplane.runtime.pulse import Pulse, watch
from controlplane.runtime.rules import Ruling
from controlplane.runtime.services import Services
from controlplane.runtime.signals import Ending
from controlplane.runtime.supervise import Supervisor
from controlplane.runtime.surroundings import (
    fixture_files,
    fixture_reader,
    folder_lister,
    secret_files,
    secret_reader,
    surroundings,
)
from controlplane.runtime.vllm import Servers
from controlplane.runtime.watch import changes
from controlplane.xds.server import AdsServer

_READY_S = 30.0
_LONGEST_S = 3600.0  # between looks for keys that ended
_AGAIN_S = 5.0  # between attempts to tell the edge what became of keys


class Console(Protocol):
    """What `ctl up` tells the person in front of it."""

    def started(self, live: Live, nodes: tuple[str, ...]) -> None: ...
    def applied(self, applied: Applied) -> None: ...
    def failed(self, error: PolicyError | ApplyError, text: str) -> None: ...
    def reread(self, files: tuple[str, ...]) -> None: ...
    def pending(self, names: tuple[str, ...]) -> None: ...
    def draining(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Gateway:
    """The running parts, for the tasks that work on them."""

    policy: Path
    text: str
    controller: Controller
    console: Console
    started: Settings
    accounting: Accounting
    keys: Keys
    auditing: Auditing
    supervisor: Supervisor
    pulse: Pulse
    discovery: Discovery
    listings: ModelListings
    adapt: Callable[[str], str]


async def serve(policy: Path, who: str, console: Console, adapt: Callable[[str], str] = str) -> None:
    """Runs until SIGINT or SIGTERM, then drains; a second signal ends it at once.

    `adapt` has the last word on the policy's text, whenever the file is read.

    Raises PolicyError, ApplyError, StartError, RunFolderError, RevisionsError, NotReadyError, OSError.
    """
    frugal()
    text = adapt(await asyncio.to_thread(_read, policy))
    # Standard output is not ours, and what people should know the console tells them.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Before anything is started or locked: a wrong policy is the likeliest reason to end here.
    cache = LoadCache()
    ending = Ending()
    async with _running(policy, text, who, console, _settings(text, policy, cache), cache, adapt) as gateway:
        await _until(ending, gateway)


def _read(policy: Path) -> str:
    """Raises PolicyError, UnreadableError."""
    try:
        return policy.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(error, str(policy)) from None
    except OSError as error:
        raise UnreadableError(f"{policy} cannot be read: {error.strerror or error}") from error


def _settings(text: str, policy: Path, cache: LoadCache) -> Settings:
    """Raises PolicyError."""
    checked = check(text, str(policy), cache)
    if checked.policy is None:
        raise PolicyError(checked.diagnostics)
    return checked.policy.gateway


@asynccontextmanager
async def _running(
    policy: Path,
    text: str,
    who: str,
    console: Console,
    started: Settings,
    cache: LoadCache,
    adapt: Callable[[str], str],
) -> AsyncIterator[Gateway]:
    state = policy.parent / started.state
    async with AsyncExitStack() as stack:
        stack.enter_context(lock(state))
        listener = stack.enter_context(apis.listening(started.admin.listen))
        folder = run_folder(state)
        store = stack.enter_context(Store.open(state / "revisions.db"))
        ads = AdsServer(f"unix:{folder.xds_socket}", redact=lambda words: in_envoys_words(words, controller.secrets()))
        await ads.start()
        stack.push_async_callback(ads.stop, 1.0)
        supervisor = await stack.enter_async_context(Supervisor(folder))
        around = surroundings(folder, usage_log(state), rules_log(state))
        keys = stack.enter_context(Keys(state.resolve()))
        base = policy.parent
        compiler = Compiler(
            str(policy), secret_reader(base), around, cache, keys.tokens,
            files=folder_lister(base), fixtures=fixture_reader(base), probe=interpreter_prober(base),
        )  # fmt: skip
        adopting = await _serving(folder)
        accounting = Accounting(folder, state.resolve(), started.ledger)
        auditing = Auditing(AuditLog.open(state.resolve() / "audit"), accounting.denials)
        services, caching = Services(folder, supervisor, base.resolve()), Caching(folder, supervisor)
        limiting, ruling = Limiting(folder, supervisor, state.resolve() / "limits.journal"), Ruling(folder, supervisor)
        discovery = Discovery(base, state.resolve(), auditing.tell)
        servers = Servers(folder, supervisor, base.resolve())
        stack.push_async_callback(servers.close)
        listings = ModelListings(folder.listings_socket, state.resolve() / "listings")
        collecting = Collecting(accounting, supervisor)
        parts = Parts(services, servers, collecting, limiting, caching, discovery, ruling, listings)
        controller = Controller(
            compiler,
            store,
            ads,
            prepare=parts.prepare,
            conclude=parts.conclude,
            listening=adopting,
            spent=accounting.spent(),
            tell=auditing.tell,
            overlay=lambda snapshot, compiled: listings.overlay(discovery.overlay(snapshot, compiled), compiled),
        )
        admin = await stack.enter_async_context(EnvoyAdmin(folder.admin_socket))
        try:
            await controller.start(text, who)
            # First of all processes: whatever edits started since, it may still send requests to.
            stack.push_async_callback(_end_envoy, supervisor)
            stack.push_async_callback(controller.drain)
            await _start_envoy(supervisor, folder, started, admin, (rules_log(state),))
            nodes = await controller.settled(_READY_S)
            if not await admin.wait_ready(_READY_S):
                raise NotReadyError(f"Envoy is not ready after {_READY_S:g} s; its log is {folder.log('envoy')}")
            usage = stack.enter_context(Usage(accounting))
            pulse = Pulse()

            async def alarms() -> list[Alarm]:
                return [*usage.alarms(), *auditing.alarms(), *pulse.alarms(), *await parts.alarms()]

            api = create_app(
                controller, store, supervisor.states, usage, keys, auditing, alarms, ruling.counters, caching, services,
                discovery, servers.models, folder.log, listings, loopback=started.admin.listen.loopback,
            )  # fmt: skip
            await stack.enter_async_context(apis.serving(api, listener))
            await stack.enter_async_context(apis.serving_clients(usage, folder.usage_socket))
        except Exception:
            if adopting:  # the traffic of an earlier control plane goes on, whatever keeps this one from starting
                await supervisor.leave()
            raise
        if controller.live is not None:  # not kept here, where it would outlive the next one
            console.started(controller.live, nodes)
        yield Gateway(
            policy, text, controller, console, started, accounting, keys, auditing, supervisor, pulse, discovery,
            listings, adapt,
        )  # fmt: skip
        console.draining(started.drain / 1000)


async def _serving(folder: RunFolder) -> bool:
    """Whether an Envoy of an earlier control plane still serves, so that its port is taken by ourselves."""
    async with EnvoyAdmin(folder.admin_socket) as admin:
        return await admin.ready()


async def _start_envoy(
    supervisor: Supervisor, folder: RunFolder, gateway: Settings, admin: EnvoyAdmin, logs: tuple[Path, ...]
) -> None:
    node = Node(
        id="local",
        xds_socket=folder.xds_socket,
        admin_socket=folder.admin_socket,
        max_connections=connection_limit(),
    )
    bootstrap = build_bootstrap(node).SerializeToString(deterministic=True)
    drain_s = max(1, gateway.drain // 1000)
    child = envoy_child(
        folder, find_envoy(), bootstrap, admin=admin, workers=gateway.workers, drain_s=drain_s, logs=logs
    )
    await supervisor.start(child)


async def _end_envoy(supervisor: Supervisor) -> None:
    """Drains it, unless a signal to hurry came while something else was being ended, which it then cut short."""
    if (task := asyncio.current_task()) is not None and task.cancelling():
        supervisor.hurry()
    await supervisor.stop(ENVOY)


async def _until(ending: Ending, gateway: Gateway) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_follow(gateway)),
            group.create_task(_expire(gateway)),
            group.create_task(_enforce(gateway)),
            group.create_task(gateway.auditing.keep_up()),
            group.create_task(gateway.listings.keep_up(gateway.controller.spread)),
            *(group.create_task(task) for task in gateway.discovery.tasks(gateway.controller)),
            group.create_task(watch(gateway.pulse, gateway.supervisor, NAME, gateway.accounting.heartbeat)),
        ]
        await ending.wait()
        for each in tasks:
            each.cancel()


@dataclass(frozen=True, slots=True)
class _Read:
    """The policy file as it was read last; no text: it could not be. `refused`: what it means, while it is not live."""

    text: str | None
    refused: Policy | None = None


async def _follow(gateway: Gateway) -> None:
    """Applies edits of the policy file, and of the files that are named by it or by the live policy."""
    last = _Read(gateway.text)

    def live() -> frozenset[Path]:
        return _named(gateway.controller.live.compiled.policy, gateway) if gateway.controller.live else frozenset()

    def refused() -> frozenset[Path]:
        return _named(last.refused, gateway) if last.refused else frozenset()

    edits = changes(lambda: live() | refused() | {gateway.policy})
    last = await _apply_file(gateway, last)  # an edit since the start
    async with aclosing(edits):
        async for changed in edits:
            read_again, try_again = changed & live(), bool(changed & refused())
            if gateway.policy in changed or try_again:
                last = await _apply_file(gateway, last, again=try_again)
            if read_again and await _refresh(gateway, files=True):
                gateway.console.reread(tuple(sorted(path.name for path in read_again)))


def _named(policy: Policy, gateway: Gateway) -> frozenset[Path]:
    """The files that a policy names."""
    base = gateway.policy.parent
    prices = {base / policy.gateway.prices} if policy.gateway.prices else set()
    tokenizers = {base / tokenizer.file for tokenizer in policy.tokenizers.values()}
    secrets = secret_files(base, tuple(ref for ref, _ in secret_refs(policy)))
    return secrets | prices | tokenizers | fixture_files(base, policy)


async def _enforce(gateway: Gateway) -> None:
    """Passes on to the edge which accounts are spent, as soon as the collector tells."""
    accounting = gateway.accounting
    seen: tuple[Spent, ...] | None = None
    told = changes(lambda: (accounting.standing,))
    async with aclosing(told):
        while True:
            if (spent := accounting.spent()) != seen:
                await gateway.controller.enforce(spent)
                seen = spent
            await anext(told)


async def _apply_file(gateway: Gateway, last: _Read, *, again: bool = False) -> _Read:
    """Applies the file, unless it reads as it did before and is not tried `again`."""
    text = None
    try:
        text = gateway.adapt(_read(gateway.policy))
        if text == last.text and not again:
            return last
        applied = await gateway.controller.apply(text, "file", "", "file")
    except (PolicyError, ApplyError) as error:
        if text is None:
            gateway.controller.unread(error)
        gateway.console.failed(error, text or "")
        # A policy that is right in itself may lack a file, which can still come.
        return _Read(text, (await asyncio.to_thread(check, text, str(gateway.policy))).policy if text else None)
    gateway.console.applied(applied)
    _tell_pending(gateway)
    return _Read(text)


def _tell_pending(gateway: Gateway) -> None:
    if names := gateway.controller.at_next_start():
        gateway.console.pending(names)


async def _refresh(gateway: Gateway, *, files: bool = False) -> bool:
    """Whether the live policy could be compiled again, and is live so."""
    live = gateway.controller.live
    try:
        await gateway.controller.refresh(files=files)
    except (PolicyError, ApplyError) as error:
        gateway.console.failed(error, live.text if live else "")
        return False
    return True


async def _expire(gateway: Gateway) -> None:
    """Compiles the live policy again whenever a key expires, or a rotated one ends, and where that failed."""
    while True:
        until, wait = _next_expiry(gateway), _LONGEST_S
        if until is not None:
            wait = min(wait, max(0.0, (until - utc_now()).total_seconds()))
        if gateway.controller.behind:
            wait = min(wait, _AGAIN_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait + 0.01):
                await gateway.controller.changed()
                continue
        if gateway.controller.behind or (until is not None and until <= utc_now()):
            await _refresh(gateway)


def _next_expiry(gateway: Gateway) -> datetime | None:
    moments = [gateway.controller.next_expiry()]
    with contextlib.suppress(KeysUnavailableError):  # which the next compile tells
        moments.append(gateway.keys.next_change(utc_now()))
    return min((moment for moment in moments if moment is not None), default=None)
