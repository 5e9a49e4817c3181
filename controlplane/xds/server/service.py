"""The ADS server: a grpc.aio service over a unix socket or TCP."""

import asyncio
import os
import time
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import grpc
import structlog
from envoy.service.discovery.v3 import ads_pb2, discovery_pb2

from controlplane.xds.resource import Snapshot
from controlplane.xds.server.address import AdsAddressError, make_room, socket_path
from controlplane.xds.server.nodes import NodeView
from controlplane.xds.server.outcome import Outcome, Verdict, judge
from controlplane.xds.server.protocol import DeltaStream, SotwStream
from controlplane.xds.server.roster import Roster
from controlplane.xds.server.session import END, BadRequestError, Session
from controlplane.xds.server.wire import Encoder

_log = structlog.get_logger(__name__)

_Kind: TypeAlias = type[DeltaStream] | type[SotwStream]

_SERVICE = ads_pb2.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"].full_name
_LARGEST_MESSAGE = 256 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    # Notices a node that vanished without a word.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Nodes may ping as often as they are told to. By default a few pings in five quiet minutes cut their stream.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    # Two servers on one port would each get some of the nodes.
    ("grpc.so_reuseport", 0),
)
_NO_NODE = (
    "the first request of a stream must say who the node is; set node.id and node.cluster in the bootstrap of Envoy"
)


class AdsServer:
    """Serves snapshots to Envoys, delta and state-of-the-world.

    `address` is "unix:/path" or "host:port"; with port 0, it names the port taken after `start`. `now` gives
    seconds since the epoch. `redact` cleans Envoy's words before they are kept or logged: they can hold the whole
    resource that was rejected, and its secrets. Until the first `publish`, nodes are told nothing and keep what
    they have. All methods belong to one event loop.
    """

    def __init__(self, address: str, *, redact: Callable[[str], str], now: Callable[[], float] = time.time) -> None:
        self.address = address
        self._now = now
        self._redact = redact
        self._server: grpc.aio.Server | None = None
        self._snapshot: Snapshot | None = None
        self._roster = Roster(now)
        self._encoders = {kind.transport: Encoder(kind.transport) for kind in (DeltaStream, SotwStream)}

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot published last."""
        return self._snapshot

    @property
    def generation(self) -> int:
        """Grows whenever `nodes` may give something new."""
        return self._roster.generation

    async def wait_changed(self, after: int) -> int:
        """Waits until `generation` is greater than `after`; returns it. Cancel it to stop waiting."""
        return await self._roster.wait_changed(after)

    def nodes(self) -> tuple[NodeView, ...]:
        """The connected nodes in the order they came, then those that left lately, in the order they left."""
        return self._roster.views()

    async def start(self) -> None:
        """Listens. A unix socket is made with mode 0600 in a folder that must exist; a stale one is replaced.

        Raises:
            AdsAddressError: the address cannot be had.
        """
        path = socket_path(self.address)
        if path:
            make_room(path)
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._handlers(),))
        # The socket exists, and can be connected to, from here on.
        mask = os.umask(0o177) if path else None
        try:
            port = server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise AdsAddressError(
                f"the xDS server cannot listen on {self.address}: it is in use or not this machine's. "
                f"Free it, or choose another."
            ) from error
        finally:
            if mask is not None:
                os.umask(mask)
        if not path:
            self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await server.start()
        self._server = server

    async def stop(self, grace: float = 1.0) -> None:
        """Ends all streams, waits up to `grace` seconds for what they are writing. Nodes keep what they have."""
        if self._server is None:
            return
        server, self._server = self._server, None
        for session in self._roster.sessions():
            session.close()
        await server.stop(grace)

    def publish(self, snapshot: Snapshot) -> None:
        """Makes a snapshot the one all nodes converge to. Returns at once; see `wait_acknowledged`."""
        self._snapshot = snapshot
        for encoder in self._encoders.values():
            encoder.keep(snapshot)
        for session in self._roster.sessions():
            session.wake()
        self._roster.changed()

    async def wait_acknowledged(
        self,
        snapshot: Snapshot,
        timeout: float,  # noqa: ASYNC109 - at its end there is an outcome to return
        require: Collection[str] = (),
    ) -> Outcome:
        """Waits until the connected nodes acknowledged every type they asked for, as the snapshot has it.

        Returns at once when a node rejects, none is connected, or another snapshot was published; after
        `timeout` seconds it tells who is still awaited. `require` are type URLs that a node must have asked
        for: one that is starting asks for clusters first, and has acknowledged all it asked for before it
        comes to its listeners.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            seen = self.generation
            if self._snapshot is None or self._snapshot.version != snapshot.version:
                return Outcome(Verdict.SUPERSEDED)
            outcome = judge(self.nodes(), snapshot, require)
            if outcome.verdict is not Verdict.TIMEOUT:
                return outcome
            try:
                async with asyncio.timeout_at(deadline):
                    await self.wait_changed(seen)
            except TimeoutError:
                return outcome

    def _handlers(self) -> "grpc.GenericRpcHandler[Any, Any]":
        # Not the generated registration: it would serialize every response anew, see `wire`.
        methods: dict[str, tuple[_Kind, Any]] = {
            "DeltaAggregatedResources": (DeltaStream, discovery_pb2.DeltaDiscoveryRequest),
            "StreamAggregatedResources": (SotwStream, discovery_pb2.DiscoveryRequest),
        }
        handlers = {
            name: grpc.stream_stream_rpc_method_handler(self._behavior(kind), request.FromString)
            for name, (kind, request) in methods.items()
        }
        return grpc.method_handlers_generic_handler(_SERVICE, handlers)

    def _behavior(self, kind: _Kind) -> Callable[[Any, Any], Any]:
        async def serve(_requests: Any, context: Any) -> None:
            first = await context.read()
            if first is END:
                return
            if not first.node.id:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _NO_NODE)
            try:
                await self._serve(kind, first, context)
            except BadRequestError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

        return serve

    async def _serve(self, kind: _Kind, first: Any, context: Any) -> None:
        session = Session(
            kind(self._now, self._redact, self._roster.doubts(first.node.id)),
            first,
            context,
            encode=self._encoders[kind.transport].encode,
            newest=lambda: self._snapshot,
            changed=self._roster.changed,
            since=self._now(),
        )
        self._roster.join(session)
        log = _log.bind(node=first.node.id, transport=kind.transport)
        log.info("xds node connected")
        try:
            await session.run()
        finally:
            self._roster.leave(session)
            log.info("xds node disconnected")
