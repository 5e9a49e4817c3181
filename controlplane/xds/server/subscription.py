"""What one client wants of one resource type, what it was told, and what it made of that. Pure.

The rules are the xDS protocol's: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from controlplane.xds.resource import CLUSTER, ENDPOINTS, LISTENER, Resource

# The types that know a wildcard, and whose state-of-the-world responses hold everything.
ROOTS = frozenset({CLUSTER, LISTENER})
WILDCARD = "*"
# The version of what the client may run in any version: differs from every real one.
UNKNOWN = ""


@dataclass(frozen=True, slots=True)
class Said:
    """The last word to the client about a name. `version` is None where it was "there is no such resource".

    `nonce` is empty where it was said on an earlier stream, or without a response.
    `resource` is None as well where the words need not be repeated (see `Subscription.repeats`).
    """

    version: str | None
    resource: Resource | None
    nonce: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What the client is still to be told, by name, and how urgently.

    `answers` were asked for; `updates` and `removals` wait for their turn in the order of types.
    `due` means that even an empty response is owed: Envoy does not start without a first one.
    """

    answers: tuple[str, ...]
    updates: tuple[str, ...]
    removals: tuple[str, ...]
    due: bool

    def __bool__(self) -> bool:
        return bool(self.answers or self.updates or self.removals or self.due)


NO_CHANGES = Changes((), (), (), due=False)


@dataclass(slots=True)
class Subscription:
    """The state of one type on one stream."""

    type_url: str
    # Responses hold everything, so that what was said must be kept.
    repeats: bool = False
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    said: dict[str, Said] = field(default_factory=dict)
    # Names to be answered even though nothing changed.
    owed: set[str] = field(default_factory=set)
    # Said and refused. A response is refused as a whole but may have been applied in part, so that nobody
    # knows what the client runs; `blamed` are those that its message names.
    doubted: set[str] = field(default_factory=set)
    blamed: set[str] = field(default_factory=set)
    # What the client accepted last, by name; with `repeats`, also as what.
    good: dict[str, Resource | None] = field(default_factory=dict)
    # Responses without an answer: nonce -> the names that each of them changed, oldest first.
    in_flight: dict[str, frozenset[str]] = field(default_factory=dict)
    # The client knows nothing of this type yet.
    fresh: bool = False

    def changes(self, target: Mapping[str, Resource]) -> Changes:
        """Compares what was said with what there is. After a rejection that is nothing until the target changes."""
        answers: list[str] = []
        updates: list[str] = []
        removals: list[str] = []
        for name in self._candidates(target):
            resource, said = target.get(name), self.said.get(name)
            if self._asked(name, said, resource):
                answers.append(name)
            elif said is None or (resource and said.version != resource.version):
                updates.append(name)
            elif resource is None and said.version is not None:
                removals.append(name)
        if updates or not self.refused(target):
            # What was rejected along with the culprit may not have been applied either.
            updates += self.doubted - self.blamed - {*answers, *updates, *removals}
        due = self.fresh and self.wildcard
        return Changes(tuple(sorted(answers)), tuple(sorted(updates)), tuple(sorted(removals)), due)

    def _candidates(self, target: Mapping[str, Resource]) -> Collection[str]:
        if not self.wildcard:
            return self.names
        return target.keys() | self.names | self.said.keys() | self.owed

    def _asked(self, name: str, said: Said | None, resource: Resource | None) -> bool:
        """Whether the client is waiting for a word about a name."""
        if name in self.owed or (said is None and name in self.names):
            return True
        if resource:
            return self.fresh
        # A client that came back may have a cluster that gets warm only when it hears of its endpoints.
        return self.type_url == ENDPOINTS and said is not None and said.version is not None and not said.nonce

    def forget_unwanted(self) -> None:
        """Drops what the client no longer asks for, so that asking again is answered."""
        if not self.wildcard:
            for name in (self.said.keys() | self.owed) - self.names:
                self.forget(name)

    def forget(self, name: str) -> None:
        self.said.pop(name, None)
        self.good.pop(name, None)
        for names in (self.owed, self.doubted, self.blamed):
            names.discard(name)

    def tell(self, nonce: str, said: Mapping[str, Resource | None]) -> None:
        """Notes the content of a response about to be sent."""
        changed = {name for told in self.in_flight.values() for name in told if name in said}
        for name, resource in said.items():
            version = version_of(resource)
            before = self.said.get(name)
            if before is None or before.version != version or name in self.doubted:
                changed.add(name)
            self.said[name] = Said(version, resource if self.repeats else None, nonce)
            self.owed.discard(name)
            self._trust(name)
        self.fresh = False
        self.in_flight[nonce] = frozenset(changed or said)

    def standing(self) -> dict[str, Resource | None]:
        """What was said and not refused; None for "no such"."""
        return {n: s.resource for n, s in self.said.items() if n not in self.doubted or s.version is None}

    def fallback(self) -> dict[str, Resource]:
        """What the client accepted last of that which it refused since."""
        kept = ((name, self.good.get(name)) for name in self.doubted)
        return {name: resource for name, resource in kept if resource}

    def note_absent(self, names: Collection[str]) -> None:
        """Notes without a response that names do not exist: state-of-the-world has no words for it."""
        for name in names:
            self.said[name] = Said(None, None, "")
            self.owed.discard(name)
            self._trust(name)

    def accept(self, nonce: str) -> None:
        for name in self.in_flight.pop(nonce, ()):
            if self._last_said(name, nonce):
                self._trust(name)
                self._remember(name)

    def reject(self, nonce: str, message: str) -> tuple[str, ...]:
        """Doubts what a response said; returns the names its message blames, or all where it names none."""
        told = self.in_flight.pop(nonce, frozenset())
        doubted = {name for name in told if self._last_said(name, nonce)}
        blamed = {name for name in told if mentions(message, name)} or set(told)
        self.doubted |= doubted
        self.blamed = (self.blamed - doubted) | (blamed & doubted)
        return tuple(sorted(blamed))

    def refused(self, target: Mapping[str, Resource]) -> bool:
        """Whether the client refused what is still wanted of it."""
        return any(self.said[name].version == version_of(target.get(name)) for name in self.blamed)

    def awaits(self, target: Mapping[str, Resource]) -> bool:
        """Whether something of the target is in flight."""
        return any(name in target for told in self.in_flight.values() for name in told)

    def uncertain(self) -> frozenset[str]:
        """The names of which nobody knows what the client runs."""
        unknown = (name for name, said in self.said.items() if said.version == UNKNOWN)
        return frozenset(self.doubted).union(unknown, *self.in_flight.values())

    def count(self) -> int:
        """How many resources the client has, as far as anyone knows."""
        return sum(1 for said in self.said.values() if said.version is not None)

    def _last_said(self, name: str, nonce: str) -> bool:
        said = self.said.get(name)
        return said is not None and said.nonce == nonce

    def _trust(self, name: str) -> None:
        self.doubted.discard(name)
        self.blamed.discard(name)

    def _remember(self, name: str) -> None:
        said = self.said[name]
        if said.version is not None:
            self.good[name] = said.resource
            return
        self.good.pop(name, None)
        if name not in self.names:
            del self.said[name]


def version_of(resource: Resource | None) -> str | None:
    return resource.version if resource else None


def mentions(message: str, name: str) -> bool:
    """Whether a message names a resource, as a word of its own."""
    return name in message and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", message) is not None
