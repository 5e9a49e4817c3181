"""Who is connected, who was, and a way to wait until any of that changes."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from controlplane.xds.server.nodes import NodeView
from controlplane.xds.server.session import Session

_REMEMBERED = 64
_REMEMBERED_S = 3600.0

Doubts = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class _Gone:
    """What stays of a node that left."""

    view: NodeView
    doubts: Doubts
    at: float


class Roster:
    """The nodes. Those that left are kept for an hour, the latest 64 of them."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sessions: list[Session] = []
        self._gone: dict[str, _Gone] = {}
        self._change = asyncio.Event()
        self.generation = 0

    def join(self, session: Session) -> None:
        self._sessions.append(session)
        self._gone.pop(session.node, None)
        self.changed()

    def leave(self, session: Session) -> None:
        self._sessions.remove(session)
        name, at = session.node, self._now()
        # A node that is back already did not leave.
        if all(other.node != name for other in self._sessions):
            self._gone[name] = _Gone(session.view(disconnected_at=at), session.stream.doubts(), at)
            while len(self._gone) > _REMEMBERED:
                del self._gone[next(iter(self._gone))]
        self.changed()

    def sessions(self) -> tuple[Session, ...]:
        return tuple(self._sessions)

    def views(self) -> tuple[NodeView, ...]:
        """The connected nodes in the order they came, then those that left, in the order they left."""
        oldest = self._now() - _REMEMBERED_S
        self._gone = {name: gone for name, gone in self._gone.items() if gone.at >= oldest}
        return (*(s.view() for s in self._sessions), *(gone.view for gone in self._gone.values()))

    def doubts(self, node: str) -> Doubts:
        """What a node refused on its latest stream (see `Stream`)."""
        for session in reversed(self._sessions):
            if session.node == node:
                return session.stream.doubts()
        gone = self._gone.get(node)
        return gone.doubts if gone else MappingProxyType({})

    def changed(self) -> None:
        """Wakes all who wait."""
        self.generation += 1
        self._change.set()
        self._change = asyncio.Event()

    async def wait_changed(self, after: int) -> int:
        """Waits until `generation` is greater than `after`; returns it."""
        while self.generation <= after:
            await self._change.wait()
        return self.generation
