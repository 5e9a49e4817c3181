"""The xDS protocol of one ADS stream: requests and snapshots in, responses out. No I/O, no clock, no asyncio.

What goes when is decided here, for both transports; how it is said is in `delta` and `sotw`. The order is
make before break (https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol#eventual-consistency-considerations):

1. Clusters, endpoints and secrets go at once, in that order. None may wait for the acknowledgement of another:
   Envoy acknowledges clusters only when they are warm, and endpoints and secrets are what warms them.
2. Changed listeners, then extensions, then routes, each when all types before it are acknowledged.
3. When step 2 is acknowledged, removals of routes, extensions and clusters; then of endpoints and secrets.

What the client asked for and does not have goes out of turn, so that no order of requests can lock up; only
listeners and routes, on which no cluster depends, wait for step 1 even then. A type that was not asked for
delays nothing. As long as the client refuses something that is still wanted of it, steps 2 and 3 rest, so that
it keeps running the last good configuration as a whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, TypeAlias

from envoy.service.discovery.v3 import discovery_pb2 as discovery

from controlplane.xds.resource import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET, TYPES, Resource, Snapshot
from controlplane.xds.server.nodes import Nack, TypeView
from controlplane.xds.server.subscription import NO_CHANGES, Changes, Subscription

# What may be sent at any time, and what must wait for its turn.
_GROUND = (CLUSTER, ENDPOINTS, SECRET)
_REFERRERS = (LISTENER, EXTENSION, ROUTES)
# Extensions are not among these: the filters of a cluster can be extensions, which it needs to get warm.
_ABOVE_GROUND = (LISTENER, ROUTES)
# What is removed together, and the types that must be done first.
_REMOVALS = (((ROUTES, EXTENSION, CLUSTER), _REFERRERS), ((ENDPOINTS, SECRET), (CLUSTER, *_REFERRERS)))
_LONGEST_MESSAGE = 4096
_NOTHING: Mapping[str, frozenset[str]] = MappingProxyType({})

Request: TypeAlias = discovery.DiscoveryRequest | discovery.DeltaDiscoveryRequest


@dataclass(frozen=True, slots=True)
class Response:
    """A response of either transport. `removed` is empty in state-of-the-world, which cannot say it."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()


class Stream(ABC):
    """One client's stream.

    `now` gives seconds since the epoch. `redact` cleans Envoy's words of secrets before anything keeps them.
    `doubts` (type URL -> names) is what the node refused on an earlier stream: its claim to have an older
    version of these is not believed, since it may have applied part of the response that it refused.
    """

    transport: ClassVar[str]

    def __init__(
        self,
        now: Callable[[], float],
        redact: Callable[[str], str] = str,
        doubts: Mapping[str, frozenset[str]] = _NOTHING,
    ) -> None:
        self._now = now
        self._redact = redact
        self._doubts = doubts
        self._snapshot: Snapshot | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._views: dict[str, TypeView] = {}
        self._nonce = 0
        # The client knows things from an earlier stream, and what it asks for may not be known in full yet.
        self.resuming = False

    def publish(self, snapshot: Snapshot) -> list[Response]:
        """Makes a snapshot the one to converge to. Before the first, the client is told nothing."""
        self._snapshot = snapshot
        return self._advance()

    def receive(self, request: Request) -> list[Response]:
        """Takes in one request: a subscription, an acknowledgement, a rejection, or several of these in one."""
        subscription = self._subscriptions.get(request.type_url)
        first = subscription is None
        if subscription is None:
            subscription = self._subscriptions[request.type_url] = self._subscription(request.type_url)
            self._views[request.type_url] = TypeView(request.type_url)
        self._take(subscription, request, first)
        return self._advance()

    def resumed(self) -> list[Response]:
        """To be called when a `resuming` client has had time to ask for everything again; lets removals go."""
        self.resuming = False
        return self._advance()

    def views(self) -> tuple[TypeView, ...]:
        """What is known of each type the client asked for, in the order of types."""
        return tuple(self._views[type_url] for type_url in self._requested())

    def doubts(self) -> Mapping[str, frozenset[str]]:
        """What the client refused and was not replaced since, or has yet to answer: for its next stream."""
        return dict(self._doubts) | {type_url: s.uncertain() for type_url, s in self._subscriptions.items()}

    def _subscription(self, type_url: str) -> Subscription:
        return Subscription(type_url)

    @abstractmethod
    def _take(self, subscription: Subscription, request: Request, first: bool) -> None:
        """Applies a request's answer and its changes to the subscription."""

    @abstractmethod
    def _say(
        self, subscription: Subscription, names: Iterable[str], removals: Iterable[str], nonce: str
    ) -> tuple[Response | None, Mapping[str, Resource | None]]:
        """Words a response to say `names` and `removals`; returns it with all that it says, None for "no such"."""

    def _requested(self) -> Iterator[str]:
        yield from self._asked(TYPES)
        yield from (t for t in self._subscriptions if t not in TYPES)

    def _target(self, type_url: str) -> Mapping[str, Resource]:
        return self._snapshot.of_type(type_url) if self._snapshot else {}

    def _version(self, type_url: str) -> str:
        return self._snapshot.versions.get(type_url, "") if self._snapshot else ""

    def _settle(self, subscription: Subscription, request: Request) -> None:
        """Takes the answer to a response in flight. Only `error_detail` tells a rejection, never a version."""
        if not request.HasField("error_detail"):
            subscription.accept(request.response_nonce)
            return
        message = request.error_detail.message
        names = subscription.reject(request.response_nonce, message)
        view = self._views[subscription.type_url]
        nack = Nack(self._redact(message)[:_LONGEST_MESSAGE], names, view.sent or "", self._now())
        self._views[subscription.type_url] = replace(view, nack=nack)

    def _advance(self) -> list[Response]:
        if self._snapshot is None:
            return []
        responses = []
        calm = True
        for type_url in list(self._requested()):
            subscription = self._subscriptions[type_url]
            changes = subscription.changes(self._target(type_url))
            update = type_url not in _REFERRERS or (calm and not subscription.in_flight)
            said = self._turn(type_url, changes, update)
            responses += self._tell(subscription, said)
            calm = calm and changes.updates == said.updates
            calm = calm and not self._busy(subscription) and not subscription.refused(self._target(type_url))
        if not self.resuming:
            responses += self._remove()
        self._update_views()
        return responses

    def _turn(self, type_url: str, changes: Changes, update: bool) -> Changes:
        """What of the changes may be said now."""
        if type_url in _ABOVE_GROUND and any(self._busy(self._subscriptions[t]) for t in self._asked(_GROUND)):
            return NO_CHANGES
        removals: tuple[str, ...] = ()
        if type_url == LISTENER and update:
            # Nothing refers to a listener.
            removals = changes.removals
        if type_url == CLUSTER:
            # Nothing refers to what was never acknowledged, and nothing else ends its warming.
            removals = tuple(n for n in changes.removals if n not in self._subscriptions[CLUSTER].good)
        return replace(changes, updates=changes.updates if update else (), removals=removals)

    def _busy(self, subscription: Subscription) -> bool:
        """Whether the types that come after this one must wait for an acknowledgement."""
        if subscription.type_url in _GROUND:
            # Not for what is to be removed: what never gets warm is never acknowledged.
            return subscription.awaits(self._target(subscription.type_url))
        return bool(subscription.in_flight)

    def _tell(self, subscription: Subscription, changes: Changes) -> list[Response]:
        if not changes:
            return []
        told = self._send(subscription, changes.answers + changes.updates, changes.removals)
        if subscription.type_url == CLUSTER:
            self._owe_endpoints(changes.updates)
        return told

    def _asked(self, types: Iterable[str]) -> Iterator[str]:
        return (type_url for type_url in types if type_url in self._subscriptions)

    def _send(self, subscription: Subscription, names: Iterable[str], removals: Iterable[str]) -> list[Response]:
        response, said = self._say(subscription, names, removals, str(self._nonce + 1))
        if response is None:
            subscription.note_absent(said)
            return []
        self._nonce += 1
        subscription.tell(response.nonce, said)
        view = self._views[subscription.type_url]
        self._views[subscription.type_url] = replace(view, sent=self._version(subscription.type_url))
        return [response]

    def _owe_endpoints(self, clusters: Iterable[str]) -> None:
        """A changed cluster stays warming until endpoints come after it, be they changed or not."""
        endpoints = self._subscriptions.get(ENDPOINTS)
        if endpoints:
            endpoints.owed |= endpoints.said.keys() & self._target(ENDPOINTS).keys() & set(clusters)

    def _remove(self) -> list[Response]:
        for types, before in _REMOVALS:
            if not all(self._done(type_url) for type_url in self._asked(before)):
                return []
            responses: list[Response] = []
            for type_url in self._asked(types):
                subscription = self._subscriptions[type_url]
                removals = subscription.changes(self._target(type_url)).removals
                responses += self._send(subscription, (), removals) if removals else []
            if responses:
                return responses
        return []

    def _done(self, type_url: str) -> bool:
        """Whether the client runs all of a type as it is wanted, and perhaps more."""
        subscription, target = self._subscriptions[type_url], self._target(type_url)
        changes = subscription.changes(target)
        if type_url != LISTENER:
            changes = replace(changes, removals=())
        return not (changes or subscription.in_flight or subscription.refused(target))

    def _update_views(self) -> None:
        for type_url, subscription in self._subscriptions.items():
            target, view = self._target(type_url), self._views[type_url]
            settled = not subscription.in_flight and not subscription.changes(target)
            refused = subscription.refused(target)
            self._views[type_url] = replace(
                view,
                settled=settled,
                rejected=self._version(type_url) if refused else None,
                acknowledged=self._version(type_url) if settled and not refused else view.acknowledged,
                resources=subscription.count(),
            )
