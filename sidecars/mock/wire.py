"""The HTTP protocol under the application: uvicorn's, with what ASGI does not tell.

ASGI lower-cases header names, has no way to close a connection, and reports a client that left only to those who
wait for it. A `Wire`, in the request's `state`, gives the headers as received and the transport, and the protocol
cancels the task of a request as soon as its connection is lost.
"""

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Wire:
    """One request's connection. Lives in `scope["state"]["wire"]`."""

    __slots__ = ("_open", "flow", "headers", "task", "transport")

    def __init__(self, transport: asyncio.Transport, flow: FlowControl, open_wires: "set[Wire]") -> None:
        self.transport = transport
        self.flow = flow
        self.headers: list[tuple[bytes, bytes]] = []
        self.task: asyncio.Task[None] | None = None
        self._open = open_wires

    def begin(self) -> None:
        """From here on the current task is cancelled when the connection is lost."""
        self.task = asyncio.current_task()
        self._open.add(self)

    def end(self) -> None:
        self._open.discard(self)


class WireProtocol(HttpToolsProtocol):
    """One connection. Pipelined requests take turns, so the running one need not be the last one read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._open_wires: set[Wire] = set()
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wire = self.scope["state"]["wire"] = Wire(self.transport, self.flow, self._open_wires)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._wire.headers.append((name, value))
        super().on_header(name, value)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for wire in self._open_wires:
            if wire.task is not None:
                wire.task.cancel()
