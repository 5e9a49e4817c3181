"""uvicorn on sockets that are bound already, TCP and unix, told to stop by SIGTERM or SIGINT."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from sidecars.listen import bound_address

BACKLOG = 4096


def config(app: ASGIApp, *, grace_s: int, **more: Any) -> uvicorn.Config:
    """How every service has uvicorn: it adds nothing to answers and writes nothing. `more`: uvicorn's own settings.

    `grace_s`: seconds that answers in work have once it is told to stop. Raises OSError for a certificate that cannot
    be used.
    """
    made = uvicorn.Config(
        app,
        loop="uvloop",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",  # what can be said about a request is said where it is known
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=grace_s,
        **more,
    )
    made.load()
    return made


class Serving(uvicorn.Server):
    """Serves until signalled. `ready` is called once, with the addresses, as soon as connections are taken.

    `leave` is awaited before they are no longer taken.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        bound: Sequence[socket.socket],
        ready: Callable[[Sequence[str]], None],
        leave: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(config)
        self._leave = leave
        self._bound = bound
        self._ready = ready
        self._stop = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[sock for sock in self._bound if sock.family != socket.AF_UNIX])
        loop = asyncio.get_running_loop()
        for sock in self._bound:
            if sock.family == socket.AF_UNIX:
                self.servers.append(await loop.create_unix_server(self._connection, sock=sock, backlog=BACKLOG))
        self._ready([self._shown(sock) for sock in self._bound])

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._stop.wait()
        if self._leave is not None:
            await self._leave()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """uvicorn's own raises the signal again at the end; here a SIGTERM ends with status 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        yield

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    def _shown(self, sock: socket.socket) -> str:
        address = bound_address(sock)
        if address.path is not None:
            return str(address)
        return f"{'https' if self.config.is_ssl else 'http'}://{address}"
