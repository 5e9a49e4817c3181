"""What the control plane knows of each Envoy: who it is, what it runs, what it refused. Values only."""

from collections.abc import Collection
from dataclasses import dataclass

from controlplane.xds.resource import Snapshot


@dataclass(frozen=True, slots=True)
class Nack:
    """A rejected response: Envoy's words, the resources they name (or all of the response's), and when.

    `version` is the version that the type has in the rejected snapshot; `time` is seconds since the epoch.
    """

    message: str
    names: tuple[str, ...]
    version: str
    time: float


@dataclass(frozen=True, slots=True)
class TypeView:
    """One resource type on one node. The versions are those of `Snapshot.versions`.

    `sent` is the latest that a response was made from, `acknowledged` the latest that the node accepted whole,
    `rejected` the one of which it refuses something at present. `settled` says that nothing is on its way. `nack`
    is the last rejection on this stream, kept for the record after it was overcome. `resources` counts what the
    node has.
    """

    type_url: str
    sent: str | None = None
    acknowledged: str | None = None
    rejected: str | None = None
    settled: bool = False
    nack: Nack | None = None
    resources: int = 0

    def runs(self, version: str | None) -> bool:
        return self.settled and self.rejected is None and self.acknowledged == version

    def refuses(self, version: str | None) -> bool:
        return self.rejected is not None and self.rejected == version


@dataclass(frozen=True, slots=True)
class NodeView:
    """One Envoy, connected or lately so. Times are seconds since the epoch.

    `transport` is "delta" or "sotw"; `build_version` such as "envoy 1.40.0", "" where the node did not say;
    `disconnected_at` is None while it is connected.
    """

    id: str
    cluster: str
    transport: str
    build_version: str
    connected_since: float
    disconnected_at: float | None
    types: tuple[TypeView, ...]

    @property
    def connected(self) -> bool:
        return self.disconnected_at is None

    @property
    def nack(self) -> Nack | None:
        """The latest rejection of any type."""
        return max((t.nack for t in self.types if t.nack), key=lambda nack: nack.time, default=None)

    def in_sync(self, snapshot: Snapshot, require: Collection[str] = ()) -> bool:
        """Whether the node runs what it wants of a snapshot. `require` are types it must have asked for."""
        return not self.waiting(snapshot, require)

    def waiting(self, snapshot: Snapshot, require: Collection[str] = ()) -> tuple[str, ...]:
        """The type URLs that the node does not run (or, if required, did not ask for) as a snapshot has them."""
        behind = [t.type_url for t in self.types if not t.runs(snapshot.versions.get(t.type_url, ""))]
        asked = {t.type_url for t in self.types}
        return (*behind, *(t for t in require if t not in asked))

    def rejection(self, snapshot: Snapshot) -> TypeView | None:
        """The first type of which the node refuses what a snapshot has."""
        return next((t for t in self.types if t.refuses(snapshot.versions.get(t.type_url, ""))), None)
