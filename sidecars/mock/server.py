"""Runs the application under uvicorn: sockets, TLS, signals, the line that says it is ready."""

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from sidecars.mock.listen import Address, bind, bound_address, release
from sidecars.mock.wire import WireProtocol

_GRACE_S = 1
_BACKLOG = 4096
# Longer than a gateway keeps an idle connection, so that it is never the mock that closes first.
_KEEP_ALIVE_S = 3600


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files. With `client_ca`, clients must present a certificate that it signed."""

    certificate: str
    private_key: str
    client_ca: str | None = None


def serve(app: ASGIApp, addresses: Sequence[Address], tls: Tls | None) -> None:
    """Serves until SIGTERM or SIGINT. TLS is for TCP; unix sockets are plain. Raises AddressError, or OSError for a
    certificate that cannot be used."""
    config = uvicorn.Config(
        app,
        http=WireProtocol,
        loop="uvloop",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",  # what uvicorn reports here, cut and abandoned answers, is the mock's trade
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.private_key if tls else None,
        ssl_ca_certs=tls.client_ca if tls else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.client_ca else ssl.CERT_NONE,
    )
    config.load()
    bound: list[socket.socket] = []
    try:
        bound.extend(bind(address) for address in addresses)
        _raise_file_limit()
        _Server(config, bound).run()
    finally:
        release(addresses[: len(bound)])
        for sock in bound:
            sock.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, bound: Sequence[socket.socket]) -> None:
        super().__init__(config)
        self._bound = bound
        self._stop = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[sock for sock in self._bound if sock.family != socket.AF_UNIX])
        loop = asyncio.get_running_loop()
        for sock in self._bound:
            if sock.family == socket.AF_UNIX:
                self.servers.append(await loop.create_unix_server(self._connection, sock=sock, backlog=_BACKLOG))
        # What is loaded by now stays: full collections need not look at it.
        gc.freeze()
        print("mock: ready on", " ".join(map(self._shown, self._bound)), file=sys.stderr, flush=True)

    def _connection(self) -> WireProtocol:
        return WireProtocol(self.config, self.server_state, {})

    def _shown(self, sock: socket.socket) -> str:
        address = bound_address(sock)
        if address.path is not None:
            return str(address)
        return f"{'https' if self.config.is_ssl else 'http'}://{address}"

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._stop.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """uvicorn's own raises the signal again at the end; here a SIGTERM ends with status 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        yield


def _raise_file_limit() -> None:
    """Thousands of streams need as many descriptors; the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
