"""Runs the application under uvicorn: sockets, TLS, signals, the line that says it is ready."""

import asyncio
import gc
import resource
import ssl
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp

from sidecars.listen import Address, binding
from sidecars.mock.wire import WireProtocol
from sidecars.serving import Serving, config

_GRACE_S = 1
# Longer than a gateway keeps an idle connection, so that it is never the mock that closes first.
_KEEP_ALIVE_S = 3600


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files. With `client_ca`, clients must present a certificate that it signed."""

    certificate: str
    private_key: str
    client_ca: str | None = None


def serve(
    app: ASGIApp,
    addresses: Sequence[Address],
    tls: Tls | None,
    beside: Callable[[], Coroutine[None, None, None]] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, with `beside` running meanwhile. TLS is for TCP; unix sockets are plain. Raises
    AddressError, or OSError for a certificate that cannot be used."""
    made = config(
        app,
        grace_s=_GRACE_S,
        http=WireProtocol,
        timeout_keep_alive=_KEEP_ALIVE_S,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.private_key if tls else None,
        ssl_ca_certs=tls.client_ca if tls else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.client_ca else ssl.CERT_NONE,
    )
    running: list[asyncio.Task[None]] = []

    def ready(shown: Sequence[str]) -> None:
        if beside is not None:
            running.append(asyncio.get_running_loop().create_task(beside()))
        _ready(shown)

    with binding(addresses) as bound:
        _raise_file_limit()
        Serving(made, bound, ready).run()


def _ready(addresses: Sequence[str]) -> None:
    # What is loaded by now stays: full collections need not look at it.
    gc.freeze()
    print("mock: ready on", *addresses, file=sys.stderr, flush=True)


def _raise_file_limit() -> None:
    """Thousands of streams need as many descriptors; the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
