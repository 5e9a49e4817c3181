"""What an apply changes, and Envoy's word on it: values, and the two functions that make them."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from controlplane.compiling import Compiled
from controlplane.plan import diff as policy_diff
from controlplane.plan.counters import CounterChange
from controlplane.plan.counters import changes as counter_changes
from controlplane.policy.language import Gateway
from controlplane.runtime.judge import Verdict, judge
from controlplane.runtime.settings import at_next_start
from controlplane.xds import diff as xds_diff
from controlplane.xds.link import static_bootstrap
from controlplane.xds.resource import EMPTY, Snapshot

if TYPE_CHECKING:
    from controlplane.revisions.revision import Revision


@dataclass(frozen=True, slots=True)
class Live:
    """What is being served: the policy's text, what was made of it, and the revision that records it."""

    text: str
    compiled: Compiled
    revision: "Revision"


@dataclass(frozen=True, slots=True)
class Difference:
    """What an apply would do: in the words of the policy, for Envoy, and to counters of limits and budgets."""

    policy: tuple[policy_diff.PolicyChange, ...]
    xds: tuple[xds_diff.Change, ...]
    at_next_start: tuple[str, ...] = ()  # settings that the running gateway cannot take over
    counters: tuple[CounterChange, ...] = ()

    @property
    def effect(self) -> xds_diff.Effect:
        return xds_diff.worst(self.xds)


@dataclass(frozen=True, slots=True)
class Applied:
    """An apply that went live. `changed` is False when the same policy was live already: nothing was pushed."""

    revision: "Revision"
    changed: bool
    difference: Difference
    nodes: tuple[str, ...]


def utc_now() -> datetime:
    return datetime.now(UTC)


def difference(before: Compiled | None, after: Compiled, started: Gateway | None = None) -> Difference:
    """What changes from one compiled policy (or none) to another, in a gateway that was started with some settings."""
    old = before.policy.written if before else {}
    return Difference(
        policy_diff.diff(old, after.policy.written),
        xds_diff.diff(before.snapshot if before else EMPTY, after.snapshot),
        at_next_start(started, after.policy.gateway) if started else (),
        counter_changes(before.plan if before else None, after.plan),
    )


async def verdict(compiled: Compiled, known: Snapshot = EMPTY) -> Verdict:
    """Envoy's own word on a compiled policy, but for the extensions of a snapshot that it accepted before."""
    bootstrap = await asyncio.to_thread(
        lambda: static_bootstrap(compiled.snapshot, known).SerializeToString(deterministic=True)
    )
    return await judge(bootstrap, secrets=compiled.secrets.values())
