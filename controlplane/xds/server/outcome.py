"""What became of a published snapshot, judged from what the nodes said. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from controlplane.xds.resource import Snapshot
from controlplane.xds.server.nodes import Nack, NodeView


class Verdict(StrEnum):
    ACKNOWLEDGED = "acknowledged"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    NO_NODES = "no_nodes"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Which node refused which type, and its words."""

    node: str
    type_url: str
    nack: Nack


@dataclass(frozen=True, slots=True)
class Waiting:
    """A node and the type URLs that it has not acknowledged."""

    node: str
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`nodes` are the ids of those that run the snapshot; the rest says what keeps the others from it."""

    verdict: Verdict
    nodes: tuple[str, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    waiting: tuple[Waiting, ...] = ()

    @property
    def ok(self) -> bool:
        return self.verdict is Verdict.ACKNOWLEDGED

    def __str__(self) -> str:
        match self.verdict:
            case Verdict.ACKNOWLEDGED:
                return f"acknowledged by {', '.join(self.nodes)}"
            case Verdict.REJECTED:
                return "; ".join(
                    f"node {r.node} rejected {short(r.type_url)} {', '.join(r.nack.names)}: {r.nack.message}"
                    for r in self.rejections
                )
            case Verdict.TIMEOUT:
                behind = (f"node {w.node} ({', '.join(map(short, w.types))})" for w in self.waiting)
                return f"no acknowledgement in time from {'; '.join(behind)}"
            case Verdict.NO_NODES:
                return "no node is connected"
            case Verdict.SUPERSEDED:
                return "another snapshot was published meanwhile"


def judge(nodes: Iterable[NodeView], snapshot: Snapshot, require: Collection[str] = ()) -> Outcome:
    """The state of things; TIMEOUT stands for "not yet". A rejection outweighs whatever is still awaited."""
    connected = [node for node in nodes if node.connected]
    if not connected:
        return Outcome(Verdict.NO_NODES)
    rejections, waiting, done = [], [], []
    for node in connected:
        refused, behind = node.rejection(snapshot), node.waiting(snapshot, require)
        if refused and refused.nack:
            rejections.append(Rejection(node.id, refused.type_url, refused.nack))
        if behind:
            waiting.append(Waiting(node.id, behind))
        else:
            done.append(node.id)
    verdict = Verdict.REJECTED if rejections else Verdict.TIMEOUT if waiting else Verdict.ACKNOWLEDGED
    return Outcome(verdict, tuple(done), tuple(rejections), tuple(waiting))


def short(type_url: str) -> str:
    """The message's own name: "Cluster"."""
    return type_url.rpartition(".")[2]
