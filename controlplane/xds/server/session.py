"""One ADS stream at the rim: a task that reads, a loop that decides and writes."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc
import structlog

from controlplane.xds.resource import Snapshot
from controlplane.xds.server.nodes import Nack, NodeView
from controlplane.xds.server.stream import Request, Response, Stream

_log = structlog.get_logger(__name__)

END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it

# A client that comes back asks for all its types in one burst; this is how long it may take.
_RESUME_S = 0.5
_UNREAD_REQUESTS = 64


class BadRequestError(Exception):
    """A request that breaks the protocol. Its text is for the client."""


class Session:
    """Serves one stream. `newest` gives the snapshot to converge to; a newer one supersedes what was not yet said.

    `changed` is called whenever `view` may give something new.
    """

    def __init__(
        self,
        stream: Stream,
        first: Request,
        context: Any,
        *,
        encode: Callable[[Response], bytes],
        newest: Callable[[], Snapshot | None],
        changed: Callable[[], None],
        since: float,
    ) -> None:
        self.stream = stream
        # Copied out, since a part of a message keeps all of it.
        self.node, self._cluster = str(first.node.id), str(first.node.cluster)
        self._build_version = _build_version(first.node)
        self._since = since
        self._context = context
        self._encode = encode
        self._newest = newest
        self._changed = changed
        self._seen: Snapshot | None = None
        self._requests: asyncio.Queue[Request] = asyncio.Queue(_UNREAD_REQUESTS)
        self._requests.put_nowait(first)
        self._awake = asyncio.Event()
        self._ended = False
        self._resumed = False

    def wake(self) -> None:
        """There is something new: decide and write."""
        self._awake.set()

    def close(self) -> None:
        """Ends the stream after what is already decided is written."""
        self._ended = True
        self.wake()

    async def run(self) -> None:
        """Serves until the client leaves, `close` is called or the task is cancelled.

        Raises:
            BadRequestError: the client broke the protocol.
        """
        reader = asyncio.create_task(self._read())
        timer = asyncio.get_running_loop().call_later(_RESUME_S, self._resume)
        try:
            while True:
                for response in self._step():
                    await self._context.write(self._encode(response))
                if self._ended:
                    return
                await self._awake.wait()
                self._awake.clear()
        finally:
            timer.cancel()
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    def view(self, disconnected_at: float | None = None) -> NodeView:
        return NodeView(
            id=self.node,
            cluster=self._cluster,
            transport=self.stream.transport,
            build_version=self._build_version,
            connected_since=self._since,
            disconnected_at=disconnected_at,
            types=self.stream.views(),
        )

    def _resume(self) -> None:
        self._resumed = True
        self.wake()

    async def _read(self) -> None:
        try:
            while (request := await self._context.read()) is not END:
                await self._requests.put(request)
                self.wake()
        except (grpc.RpcError, grpc.aio.BaseError) as error:
            _log.info("xds stream broke off", node=self.node, reason=type(error).__name__)
        finally:
            self.close()

    def _step(self) -> list[Response]:
        responses: list[Response] = []
        snapshot = self._newest()
        if snapshot is not None and snapshot is not self._seen:
            self._seen = snapshot
            responses += self.stream.publish(snapshot)
        while not self._requests.empty():
            responses += self._receive(self._requests.get_nowait())
        if self._resumed and self.stream.resuming:
            responses += self.stream.resumed()
        self._changed()
        return responses

    def _receive(self, request: Request) -> list[Response]:
        if not request.type_url:
            raise BadRequestError("type_url is empty; on an aggregated stream every request must name its type")
        before = self._nack(request.type_url)
        responses = self.stream.receive(request)
        nack = self._nack(request.type_url)
        if nack is not None and nack is not before:
            kind = request.type_url.rpartition(".")[2]
            _log.warning("xds rejected", node=self.node, type=kind, resources=nack.names, message=nack.message)
        return responses

    def _nack(self, type_url: str) -> Nack | None:
        return next((view.nack for view in self.stream.views() if view.type_url == type_url), None)


def _build_version(node: Any) -> str:
    version = node.user_agent_version
    if node.HasField("user_agent_build_version"):
        number = node.user_agent_build_version.version
        version = f"{number.major_number}.{number.minor_number}.{number.patch}"
    return f"{node.user_agent_name} {version}".strip()
