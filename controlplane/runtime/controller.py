"""The life of a policy: compiled, judged, recorded, pushed, acknowledged by every node, or taken back."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

import structlog

from controlplane.audit.entry import Action, Actor, Event
from controlplane.compiling import Compiled, Compiler
from controlplane.plan.build import next_expiry
from controlplane.plan.denials import Spent, denials
from controlplane.policy.diagnostics import PolicyError
from controlplane.policy.language import Gateway
from controlplane.policy.secrets import Secret, Secrets
from controlplane.revisions.store import Revision, Source, Store
from controlplane.runtime import failures
from controlplane.runtime.changes import Applied, Difference, Live, difference, utc_now, verdict
from controlplane.runtime.judge import Verdict as Word
from controlplane.runtime.memory import give_back
from controlplane.runtime.settings import at_next_start
from controlplane.xds.lower import deny, lower
from controlplane.xds.resource import EMPTY, LISTENER, ROUTES, Snapshot
from controlplane.xds.server import AdsServer, NodeView, Verdict

ACKNOWLEDGE_S = 10.0
_log = structlog.get_logger(__name__)


async def _nothing(_: Compiled) -> None:
    """Where nothing was started."""


async def _unheard(_: Event) -> None:
    """Where nobody keeps an audit log."""


def _as_compiled(snapshot: Snapshot, _: Compiled) -> Snapshot:
    """Where every endpoint stands in the policy."""
    return snapshot


class Controller:
    """Holds the live policy and changes it, one change at a time."""

    def __init__(
        self,
        compiler: Compiler,
        store: Store,
        ads: AdsServer,
        *,
        prepare: Callable[[Compiled], Awaitable[None]],
        conclude: Callable[[Compiled], Awaitable[None]] = _nothing,
        listening: bool = False,
        spent: tuple[Spent, ...] = (),
        tell: Callable[[Event], Awaitable[None]] = _unheard,
        overlay: Callable[[Snapshot, Compiled], Snapshot] = _as_compiled,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """`prepare` starts what a policy needs before it is pushed, `conclude` ends what is not needed any more after
        every node has it. `listening`: our own Envoy has its port already. `spent`: the accounts that have nothing
        left. `tell` hears of every change for the audit log. `overlay` adds the endpoints that come and go.
        """
        self._compiler, self._store, self._ads, self._now = compiler, store, ads, now
        self._prepare, self._conclude, self._listening, self._tell = prepare, conclude, listening, tell
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._pushed: Secrets = {}
        self._live: Live | None = None
        self._failure: failures.Failure | None = None
        self._draining = False
        self._spent, self._overlay = spent, overlay
        self._started: Gateway | None = None
        self._behind = False

    @property
    def behind(self) -> bool:
        """Whether keys changed in a way that nodes were not told: `refresh` failed, and is to be called again."""
        return self._behind

    @property
    def live(self) -> Live | None:
        return self._live

    @property
    def failure(self) -> failures.Failure | None:
        """The last edit that did not go live, until one does."""
        return self._failure

    def nodes(self) -> tuple[NodeView, ...]:
        return tuple(self._ads.nodes())

    async def compile(self, text: str, known: Compiled | None = None) -> Compiled:
        """`known`: see `Compiler.compile`. Runs aside, so that a large policy does not hold up the xDS streams.

        Raises PolicyError, KeysUnavailableError.
        """
        return await asyncio.to_thread(self._compiler.compile, text, self._now(), known)

    async def validate(self, text: str) -> tuple[Compiled, Word]:
        """The compiled policy and Envoy's own verdict on all of it. Raises PolicyError."""
        compiled = await self.compile(text)
        return compiled, await verdict(compiled)

    async def diff(self, text: str) -> Difference:
        """What applying `text` would change. Raises PolicyError."""
        return difference(self._live.compiled if self._live else None, await self.compile(text), self._started)

    def at_next_start(self) -> tuple[str, ...]:
        """Settings that were edited since the start and take effect at the next one."""
        live = self._live
        return at_next_start(self._started, live.compiled.policy.gateway) if live and self._started else ()

    async def start(self, text: str, who: str) -> Live:
        """Makes the policy live before the first node connects. Raises PolicyError, ApplyError."""
        async with self._changing:
            compiled = await self._checked(text)
            give_back()
            if not self._listening:
                _expect_free(compiled)
            self._started = compiled.policy.gateway
            await self._prepare(compiled)
            revision = await asyncio.to_thread(
                self._store.begin, text, compiled.snapshot.version, who, "", "start", self._now()
            )
            self._ads.publish(self._served(compiled))
            return self._go_live(text, compiled, await asyncio.to_thread(self._store.finish, revision.number, "live"))

    async def settled(self, timeout_s: float) -> tuple[str, ...]:
        """Waits until a node runs the first policy; the ids of those that do. Raises RejectedError."""
        snapshot = self._served(self._expected_live().compiled)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            seen, left = self._ads.generation, deadline - asyncio.get_running_loop().time()
            outcome = await self._ads.wait_acknowledged(snapshot, max(0.0, left), (LISTENER, ROUTES))
            if outcome.verdict is not Verdict.NO_NODES:
                break
            try:
                async with asyncio.timeout_at(deadline):
                    await self._ads.wait_changed(seen)
            except TimeoutError:
                break
        give_back()
        if outcome.verdict is Verdict.REJECTED:
            raise failures.RejectedError(str(outcome))
        await self._conclude(self._expected_live().compiled)
        return outcome.nodes

    def secrets(self) -> tuple[Secret, ...]:
        """The values that must not appear in what nodes say: those that are live, and those on their way."""
        live = self._live.compiled.secrets if self._live else {}
        return (*live.values(), *self._pushed.values())

    async def changed(self) -> None:
        """Returns once another policy is live, or could not be made so."""
        await self._changed.wait()
        self._changed.clear()

    async def apply(
        self,
        text: str,
        who: str,
        why: str,
        source: Source,
        *,
        expected: int | None = None,
        timeout_s: float = ACKNOWLEDGE_S,
        origin: str = "",
    ) -> Applied:
        """Makes a policy live on every node, or changes nothing.

        `expected` is the revision that the caller compared with: another one live is a ChangedError. `origin` is the
        address that the call came from, if any.
        Raises PolicyError, ApplyError.
        """
        async with self._changing:
            actor = Actor("user", who or "unknown", origin or source)
            try:
                with failures.of_this_machine():
                    applied = await self._apply(text, who, why, source, expected, timeout_s)
            except (PolicyError, failures.ApplyError) as error:
                self._failure = failures.failure(error, self._now(), source)
                await self._tell(Event(actor, Action.POLICY_REJECTED, "policy", {"error": self._failure.code}))
                raise
            finally:
                give_back()
            self._failure = None
            if applied.changed:
                action = Action.POLICY_ROLLED_BACK if source == "rollback" else Action.POLICY_APPLIED
                await self._tell(Event(actor, action, f"revision {applied.revision.number}", {"why": why}))
            return applied

    def unread(self, error: PolicyError | failures.ApplyError) -> None:
        """An edit of the policy file that left no text to apply."""
        self._failure = failures.failure(error, self._now(), "file")

    async def rollback(self, number: int, who: str, why: str, origin: str = "") -> Applied:
        """Applies the policy of an earlier revision. Raises KeyError, PolicyError, ApplyError."""
        earlier = await asyncio.to_thread(self._store.get, number)
        if earlier is None:
            raise KeyError(number)
        why = why or f"back to revision {number}"
        return await self.apply(earlier.policy_text, who, why, "rollback", origin=origin)

    async def refresh(self, *, files: bool = False) -> None:
        """Compiles the live policy again: a key expired, was issued or revoked; or, with `files`, one that it names
        changed. Only then are these read: a file that is gone must not keep a key from being revoked.

        Raises PolicyError, and ApplyError; after TimedOutError nodes are told as soon as they answer.
        """
        source = "secrets" if files else "keys"
        async with self._changing:
            if self._live is None:
                return
            try:
                with failures.of_this_machine():
                    await self._refresh(self._live, files=files)
            except (PolicyError, failures.ApplyError) as error:
                told = isinstance(error, failures.TimedOutError)
                self._behind = not told and (self._behind or not files)
                self._failure = failures.failure(error, self._now(), source)
                self._changed.set()
                raise
            self._behind = False
            if self._failure is not None and self._failure.source == source:
                self._failure = None

    async def _refresh(self, live: Live, *, files: bool) -> None:
        compiled = await self._checked(live.text, None if files else live.compiled)
        try:
            await self._prepare(compiled)
            if compiled.snapshot.version != live.compiled.snapshot.version:
                await self._push(compiled, ACKNOWLEDGE_S)
            else:
                await self._conclude(compiled)  # what runs beside Envoy may have changed all the same
        except failures.TimedOutError:
            self._go_live(live.text, compiled, live.revision)
            raise
        except Exception:
            await self._take_back(live)
            raise
        # Also where nothing changed for the edge: when it will change next may be another moment now.
        self._go_live(live.text, compiled, live.revision)

    async def enforce(self, spent: tuple[Spent, ...]) -> None:
        """Refuses or downgrades requests of these accounts from now on, and no longer those of others."""
        async with self._changing:
            self._spent = spent
            self._publish()

    async def spread(self) -> None:
        """Tells nodes of endpoints that came or left."""
        async with self._changing:
            self._publish()

    async def everywhere(self, timeout_s: float) -> bool:
        """Waits until the connected nodes have what they were told last; whether that was in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (told := self._ads.snapshot) is not None:
                    outcome = await self._ads.wait_acknowledged(told, timeout_s)
                    if outcome.verdict is not Verdict.SUPERSEDED:
                        return outcome.ok or outcome.verdict is Verdict.NO_NODES
        return False

    def snapshot(self) -> Snapshot | None:
        """What nodes are told."""
        return self._served(self._live.compiled) if self._live else None

    async def drain(self) -> None:
        """Makes /health say so, for load balancers to turn away."""
        self._draining = True
        self._publish()

    def next_expiry(self) -> datetime | None:
        """When the live policy's plan changes by itself."""
        return next_expiry(self._live.compiled.policy, now=self._now()) if self._live else None

    async def _apply(
        self, text: str, who: str, why: str, source: Source, expected: int | None, timeout_s: float
    ) -> Applied:
        live = self._live
        if expected is not None and (live is None or live.revision.number != expected):
            now = live.revision.number if live else "none"
            raise failures.ChangedError(f"revision {now} is live, not {expected}: look at the difference again")
        compiled = await self.compile(text)
        change = difference(live.compiled if live else None, compiled, self._started)
        if live and text == live.text and not change.xds:
            return Applied(live.revision, False, change, ())
        if change.xds:
            await _approve(compiled, live.compiled.snapshot if live else EMPTY)
            _expect_free(compiled, live.compiled if live else None)
        try:
            await self._prepare(compiled)
            revision, nodes = await self._push_recorded(text, compiled, (who, why, source), timeout_s)
        except Exception:
            await self._take_back(live)
            raise
        self._go_live(text, compiled, revision)
        return Applied(revision, True, change, nodes)

    async def _push_recorded(
        self, text: str, compiled: Compiled, about: tuple[str, str, Source], timeout_s: float
    ) -> tuple[Revision, tuple[str, ...]]:
        """Pushes under a revision that tells what became of it."""
        version = compiled.snapshot.version
        revision = await asyncio.to_thread(self._store.begin, text, version, *about, self._now())
        try:
            nodes = await self._push(compiled, timeout_s)
        except failures.ApplyError as error:
            error.revision = revision.number
            await asyncio.to_thread(self._store.finish, revision.number, "rolled-back", str(error))
            raise
        return await asyncio.to_thread(self._store.finish, revision.number, "live"), nodes

    def _go_live(self, text: str, compiled: Compiled, revision: Revision) -> Live:
        self._live = Live(text, compiled, revision)
        self._changed.set()
        return self._live

    async def _checked(self, text: str, known: Compiled | None = None) -> Compiled:
        compiled = await self.compile(text, known)
        await _approve(compiled)
        return compiled

    async def _push(self, compiled: Compiled, timeout_s: float) -> tuple[str, ...]:
        """Publishes and waits. Raises RejectedError, TimedOutError: what was published then stays so."""
        snapshot = self._served(compiled)
        self._pushed = compiled.secrets
        self._ads.publish(snapshot)
        outcome = await self._ads.wait_acknowledged(snapshot, timeout_s)
        if outcome.ok or outcome.verdict is Verdict.NO_NODES:
            await self._conclude(compiled)
            return outcome.nodes
        if outcome.verdict is Verdict.REJECTED:
            raise failures.RejectedError(str(outcome))
        raise failures.TimedOutError(str(outcome))

    async def _take_back(self, before: Live | None) -> None:
        """Nodes, and what runs beside Envoy (prices and budgets, limits, rules), go by the policy before again."""
        if before is None:
            return
        self._ads.publish(self._served(before.compiled))
        try:
            with failures.of_this_machine():
                await self._prepare(before.compiled)
        except failures.ApplyError as error:
            _log.error("what runs beside Envoy may go by a policy that was taken back", reason=str(error))
        await self._conclude(before.compiled)

    def _publish(self) -> None:
        if self._live is not None:
            self._ads.publish(self._served(self._live.compiled))

    def _expected_live(self) -> Live:
        if self._live is None:
            raise RuntimeError("start first")
        return self._live

    def _served(self, compiled: Compiled) -> Snapshot:
        snapshot = compiled.snapshot
        if self._draining:
            snapshot = lower(compiled.plan, compiled.secrets, self._compiler.around, draining=True)
        return self._overlay(deny(snapshot, denials(compiled.plan, self._spent)), compiled)


async def _approve(compiled: Compiled, known: Snapshot = EMPTY) -> None:
    word = await verdict(compiled, known)
    if not word.ok:
        raise failures.EnvoyRefusedError(f"Envoy refuses the compiled policy: {word.message}")


def _expect_free(compiled: Compiled, before: Compiled | None = None) -> None:
    """Envoy would find out too, but only after the push."""
    edge = compiled.plan.edge
    if before is not None and (before.plan.edge.host, before.plan.edge.port) == (edge.host, edge.port):
        return
    family = socket.AF_INET6 if ":" in edge.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((edge.host, edge.port))
        except OSError as error:
            raise failures.PortInUseError(
                f"cannot listen on {edge.host}:{edge.port} (gateway.listen): {error.strerror}. "
                f"Stop what listens there, or choose another address."
            ) from error
