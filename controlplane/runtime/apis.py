"""The HTTP servers of the control plane: the admin API on its address, and what clients may ask, behind Envoy."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from controlplane.admin.clients import create_clients_app
from controlplane.admin.usage import Usage
from controlplane.policy.grammar import Address
from controlplane.runtime.failures import PortInUseError

# Longer than others keep an idle connection, so that it is never the API that closes one which is just used again:
# clients of the admin API do for seconds, Envoy for an hour.
_ADMIN_S, _ENVOY_S = 75, 4000


@contextmanager
def listening(admin: Address) -> Iterator[socket.socket]:
    """The socket of the admin API, taken before anything is started. Raises PortInUseError."""
    with socket.socket(socket.AF_INET6 if ":" in admin.host else socket.AF_INET, socket.SOCK_STREAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((admin.host, admin.port))
        except OSError as error:
            raise PortInUseError(
                f"cannot listen on {admin} (gateway.admin): {error.strerror}. "
                f"Stop what listens there, or choose another address."
            ) from error
        yield made


@asynccontextmanager
async def serving_clients(usage: Usage, path: str) -> AsyncIterator[None]:
    """Serves what clients may ask about themselves on a unix socket. Raises OSError."""
    with _unix(path) as made:
        async with serving(create_clients_app(usage), made, _ENVOY_S):
            yield


def _unix(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)  # of a control plane that was killed
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(path)
    return made


@asynccontextmanager
async def serving(app: FastAPI, sock: socket.socket, idle_s: int = _ADMIN_S) -> AsyncIterator[None]:
    """An API in this process. Its signals are the gateway's, so uvicorn must not take them.

    `idle_s`: how long a connection stays that nobody uses.
    """
    config = uvicorn.Config(app, log_config=None, lifespan="off", access_log=False, timeout_keep_alive=idle_s)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([sock]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
