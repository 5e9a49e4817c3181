"""The two transports of ADS: what a request says, and how a response is worded. Pure.

https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from envoy.service.discovery.v3 import discovery_pb2 as discovery

from controlplane.xds.resource import Resource
from controlplane.xds.server.stream import Response, Stream
from controlplane.xds.server.subscription import ROOTS, UNKNOWN, WILDCARD, Said, Subscription

Wording: TypeAlias = tuple[Response | None, Mapping[str, Resource | None]]


class DeltaStream(Stream):
    """Incremental xDS: requests change the subscription, responses tell only what changed."""

    transport = "delta"

    def _take(self, subscription: Subscription, request: discovery.DeltaDiscoveryRequest, first: bool) -> None:
        if request.response_nonce in subscription.in_flight:
            self._settle(subscription, request)
        if first:
            self._begin(subscription, request)
        else:
            # Even with a stale nonce: the nonce pairs answers, it does not date subscriptions.
            self._subscribe(subscription, request.resource_names_subscribe)
        self._unsubscribe(subscription, request.resource_names_unsubscribe)

    def _begin(self, subscription: Subscription, request: discovery.DeltaDiscoveryRequest) -> None:
        names = set(request.resource_names_subscribe)
        if subscription.type_url in ROOTS:
            legacy = not names and not request.resource_names_unsubscribe
            subscription.wildcard = legacy or WILDCARD in names
            names.discard(WILDCARD)
        subscription.names = names
        versions = dict(request.initial_resource_versions)
        subscription.fresh = not versions
        versions |= dict.fromkeys(self._doubts.get(subscription.type_url, ()), UNKNOWN)
        if versions:
            subscription.said = {name: Said(version, None, "") for name, version in versions.items()}
            subscription.good = dict.fromkeys(versions)
            subscription.forget_unwanted()
            self.resuming = True

    def _subscribe(self, subscription: Subscription, names: Iterable[str]) -> None:
        for name in names:
            if name == WILDCARD and subscription.type_url in ROOTS:
                subscription.fresh = subscription.fresh or not subscription.wildcard
                subscription.wildcard = True
            else:
                # Answered even if known: the client may have forgotten it.
                subscription.names.add(name)
                subscription.owed.add(name)

    def _unsubscribe(self, subscription: Subscription, names: Iterable[str]) -> None:
        for name in names:
            if name == WILDCARD and subscription.type_url in ROOTS:
                subscription.wildcard = False
                subscription.forget_unwanted()
            elif name in subscription.names:
                subscription.names.discard(name)
                if subscription.wildcard:
                    # The client cannot know whether the wildcard covers it, so it must be told.
                    subscription.owed.add(name)
                else:
                    subscription.forget(name)

    def _say(self, subscription: Subscription, names: Iterable[str], removals: Iterable[str], nonce: str) -> Wording:
        target = self._target(subscription.type_url)
        said = {name: target.get(name) for name in (*names, *removals)}
        response = Response(
            type_url=subscription.type_url,
            nonce=nonce,
            version=self._version(subscription.type_url),
            resources=tuple(resource for resource in said.values() if resource),
            removed=tuple(name for name, resource in said.items() if resource is None),
        )
        return response, said


class SotwStream(Stream):
    """State of the world: every request repeats the whole subscription.

    Responses of clusters and listeners hold all of them, those of other types what changed. A client that
    reconnects cannot say what it runs, so it is answered as if it ran nothing.
    """

    transport = "sotw"

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._last_nonce: dict[str, str] = {}
        # Types of which some name was asked for, so that an empty list means nothing rather than everything.
        self._named: set[str] = set()

    def _subscription(self, type_url: str) -> Subscription:
        return Subscription(type_url, repeats=type_url in ROOTS)

    def _take(self, subscription: Subscription, request: discovery.DiscoveryRequest, first: bool) -> None:
        nonce = request.response_nonce
        if nonce in subscription.in_flight:
            self._settle_up_to(subscription, request)
        stale = bool(nonce) and nonce != self._last_nonce.get(subscription.type_url, nonce)
        if not stale:
            self._subscribe(subscription, set(request.resource_names), first)

    def _settle_up_to(self, subscription: Subscription, request: discovery.DiscoveryRequest) -> None:
        for nonce in list(subscription.in_flight):
            if nonce == request.response_nonce:
                self._settle(subscription, request)
                return
            # Envoy answers only the last of several responses that came while it had paused the type.
            subscription.accept(nonce)

    def _subscribe(self, subscription: Subscription, names: set[str], first: bool) -> None:
        if names:
            self._named.add(subscription.type_url)
        wildcard = False
        if subscription.type_url in ROOTS:
            wildcard = WILDCARD in names or subscription.type_url not in self._named
            names.discard(WILDCARD)
        if first or (wildcard and not subscription.wildcard):
            subscription.fresh = True
        subscription.owed |= names - subscription.names
        subscription.wildcard, subscription.names = wildcard, names
        subscription.forget_unwanted()

    def _say(self, subscription: Subscription, names: Iterable[str], removals: Iterable[str], nonce: str) -> Wording:
        target = self._target(subscription.type_url)
        said: dict[str, Resource | None] = {name: target.get(name) for name in (*names, *removals)}
        kept: dict[str, Resource] = {}
        if subscription.repeats:
            # What must wait for its turn is repeated as it was: absence would delete it.
            said = subscription.standing() | said
            kept = {name: resource for name, resource in subscription.fallback().items() if name not in said}
        resources = kept | {name: resource for name, resource in said.items() if resource}
        if not resources and not subscription.repeats:
            return None, said
        version = self._version(subscription.type_url)
        if subscription.repeats and _versions(resources) != _versions(target):
            version += "~"  # on the way there
        self._last_nonce[subscription.type_url] = nonce
        ordered = tuple(resource for _, resource in sorted(resources.items()))
        return Response(subscription.type_url, nonce, version, ordered), said


def _versions(resources: Mapping[str, Resource]) -> dict[str, str]:
    return {name: resource.version for name, resource in resources.items()}
