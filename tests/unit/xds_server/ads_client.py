"""An xDS client of the tests' own, which behaves as Envoy does where that matters, and the wire to a stream.

Bodies are JSON: a cluster may name a secret, a listener its routes and extensions, routes their clusters. A
body with "bad" is refused. As in Envoy, a refused response of clusters or listeners is applied in part, a
changed cluster warms until endpoints arrive, and clusters are acknowledged when none is warming.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2 as discovery

from controlplane.xds.resource import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET, TYPES, Resource, Snapshot
from controlplane.xds.server.protocol import DeltaStream, SotwStream
from controlplane.xds.server.stream import Response
from controlplane.xds.server.wire import Encoder

ROOTS = (CLUSTER, LISTENER)
BAD = "the body is bad"


def resource(type_url: str, name: str, tie: str = "", **body: Any) -> Resource:
    return Resource(type_url, name, json.dumps({"name": name, **body}, sort_keys=True).encode(), tie)


class Client:
    """What one Envoy holds. `requests` are on their way to the server. `lingering` never unsubscribes."""

    def __init__(self, delta: bool, lingering: bool = False) -> None:
        self.delta = delta
        self.lingering = lingering
        self.held: dict[str, dict[str, Any]] = {t: {} for t in TYPES}
        self.warming: dict[str, Any] = {}
        self.refused: set[str] = set()
        self.versions: dict[str, dict[str, str]] = {t: {} for t in TYPES}
        self.strict = True  # whether references must hold
        self.connect()

    def connect(self) -> None:
        """A new stream: what is held stays held."""
        self.requests: deque[Any] = deque()
        self.asked: dict[str, set[str]] = {}
        self.nonces: dict[str, str] = {}
        self.sotw_versions = dict.fromkeys(TYPES, "")
        self.withheld: list[Any] = []
        self.told = 0
        for type_url in ROOTS:
            self._ask(type_url, set(), first=True)
        self._subscribe()

    def take(self, raw: bytes) -> None:
        """One response: applies it and queues what a client says to it."""
        message = (discovery.DeltaDiscoveryResponse if self.delta else discovery.DiscoveryResponse).FromString(raw)
        type_url = message.type_url
        if self.delta:
            said = {r.name: (json.loads(r.resource.value), r.version) for r in message.resources}
            removed = set(message.removed_resources)
        else:
            bodies = [json.loads(r.value) for r in message.resources]
            said = {body["name"]: (body, message.version_info) for body in bodies}
            removed = self._known(type_url) - said.keys() if type_url in ROOTS else set()
        self.told += len(said) + len(removed)
        assert len(said) == len(message.resources), "a name twice in one response"
        self.nonces[type_url] = message.nonce
        bad = [name for name, (body, _) in said.items() if body.get("bad")]
        self._apply(type_url, said, removed, bad)
        if not bad:
            self.sotw_versions[type_url] = getattr(message, "version_info", "")
        self._subscribe()
        self._answer(type_url, message.nonce, bad)
        self._check(type_url)

    def wanted(self) -> dict[str, set[str]]:
        """What the configuration refers to, by type."""
        clusters = [*self.held[CLUSTER].values(), *self.warming.values()]
        listeners = self.held[LISTENER].values()
        return {
            ENDPOINTS: {body["name"] for body in clusters},
            SECRET: {body["secret"] for body in clusters if body.get("secret")},
            EXTENSION: {name for body in listeners for name in body.get("extensions", ())},
            ROUTES: {body["routes"] for body in listeners if body.get("routes")},
        }

    def state(self) -> dict[str, dict[str, Any]]:
        """What is held and referred to."""
        wanted = self.wanted()
        return {t: {n: b for n, b in self.held[t].items() if t in ROOTS or n in wanted[t]} for t in TYPES}

    def _known(self, type_url: str) -> set[str]:
        return self.held[type_url].keys() | (self.warming.keys() if type_url == CLUSTER else set())

    def _apply(
        self, type_url: str, said: Mapping[str, tuple[Any, str]], removed: Iterable[str], bad: list[str]
    ) -> None:
        if bad and type_url not in ROOTS:
            return
        for name in removed:
            in_use = type_url not in ROOTS and name in self.wanted()[type_url]
            if type_url == ENDPOINTS and name in self.warming:
                self.held[CLUSTER][name] = self.warming.pop(name)  # "there are none" makes it warm as well
            elif in_use and name in self.held[type_url]:
                assert type_url == ENDPOINTS or not self.strict, f"{name} removed in use"
            self.held[type_url].pop(name, None)
            self.versions[type_url].pop(name, None)
            if type_url == CLUSTER:
                self.warming.pop(name, None)
        if type_url == CLUSTER:
            self.refused = (self.refused - said.keys()) | set(bad)
        for name, (body, version) in said.items():
            if not bad:
                self.versions[type_url][name] = version
            if name not in bad:
                self._hold(type_url, name, body)

    def _hold(self, type_url: str, name: str, body: Any) -> None:
        if type_url == CLUSTER:
            if body != self.warming.get(name, self.held[CLUSTER].get(name)):
                self.warming[name] = body
            return
        self.held[type_url][name] = body
        if type_url == ENDPOINTS and name in self.warming:
            self.held[CLUSTER][name] = self.warming.pop(name)

    def _subscribe(self) -> None:
        for type_url, wanted in self.wanted().items():
            before = self.asked.get(type_url, set())
            names = wanted | before if self.lingering else wanted
            for name in before - names:
                self.held[type_url].pop(name, None)
                self.versions[type_url].pop(name, None)
            if names != before:
                self._ask(type_url, names, first=type_url not in self.asked)

    def _ask(self, type_url: str, names: set[str], first: bool = False) -> None:
        before, self.asked[type_url] = self.asked.get(type_url, set()), names
        if self.delta:
            request = discovery.DeltaDiscoveryRequest(
                type_url=type_url,
                resource_names_subscribe=sorted(names - before),
                resource_names_unsubscribe=sorted(before - names),
            )
            if first:
                kept = self.versions[type_url].items()
                request.initial_resource_versions.update({n: v for n, v in kept if type_url in ROOTS or n in names})
        else:
            request = self._sotw(type_url)
        self._send(request)

    def _sotw(self, type_url: str) -> Any:
        return discovery.DiscoveryRequest(
            type_url=type_url,
            resource_names=sorted(self.asked[type_url]),
            response_nonce=self.nonces.get(type_url, ""),
            version_info=self.sotw_versions[type_url],
        )

    def _answer(self, type_url: str, nonce: str, bad: list[str]) -> None:
        if self.delta:
            request = discovery.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce)
        else:
            request = self._sotw(type_url)
        if bad:
            request.error_detail.message = f"refused {', '.join(bad)}: {BAD}"
        self._send(request)

    def _send(self, request: Any) -> None:
        # Envoy pauses the type, answers included, while a cluster is warming.
        if request.type_url == CLUSTER and self.warming and request.response_nonce:
            self.withheld.append(request)
            return
        self.requests.append(request)
        if not self.warming:
            self.requests.extend(self.withheld if self.delta else self.withheld[-1:])
            self.withheld.clear()

    def _check(self, type_url: str) -> None:
        if not self.warming and self.withheld:
            self.requests.extend(self.withheld if self.delta else self.withheld[-1:])
            self.withheld.clear()
        if self.strict:
            # A client with nothing yet gets what there is, although routes refer to a cluster that it refused.
            used = {c for n in self.wanted()[ROUTES] for c in self.held[ROUTES].get(n, {}).get("clusters", ())}
            assert used <= self.held[CLUSTER].keys() | self.refused, f"dangling after {type_url}"


class Wire:
    """A client, a stream, and what is on the way between them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.snapshot: Snapshot | None = None
        self._encoder = Encoder("delta" if client.delta else "sotw")
        self.responses: deque[bytes] = deque()
        self.stream = self._open({})
        self._log: deque[str] = deque(maxlen=40)

    def _open(self, doubts: Mapping[str, frozenset[str]]) -> DeltaStream | SotwStream:
        self._burst = len(self.client.requests)
        return (DeltaStream if self.client.delta else SotwStream)(lambda: 0.0, doubts=doubts)

    def reconnect(self) -> None:
        """All that is on the way is lost; the control plane lives on."""
        self.responses.clear()
        self.client.connect()
        self.stream = self._open(self.stream.doubts())
        if self.snapshot is not None:
            self._sent(self.stream.publish(self.snapshot))

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._sent(self.stream.publish(snapshot))

    def up(self) -> bool:
        """Brings one request to the server."""
        if not self.client.requests:
            return False
        request = self.client.requests.popleft()
        self._log.append(f"up: {request}")
        self._sent(self.stream.receive(request))
        self._burst -= 1
        if self._burst <= 0 and self.stream.resuming:
            self._sent(self.stream.resumed())
        return True

    def down(self) -> bool:
        """Brings one response to the client."""
        if not self.responses:
            return False
        self.client.take(self.responses.popleft())
        return True

    def settle(self) -> None:
        """Until nothing is on the way. Fails when that does not come to an end."""
        for _ in range(1000):
            if not (self.up() or self.down()):
                return
        raise AssertionError("the conversation does not end: " + "\n".join(self._log))

    def lagging(self) -> list[Any]:
        """The types that the client does not run as published, and what was said last."""
        assert self.snapshot is not None
        versions = self.snapshot.versions
        views = [view for view in self.stream.views() if not view.runs(versions[view.type_url])]
        return [*views, *self._log] if views else []

    def _sent(self, responses: list[Response]) -> None:
        self._log.extend(f"down: {response}" for response in responses)
        self.responses.extend(self._encoder.encode(response) for response in responses)
