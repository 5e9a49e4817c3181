"""Addresses to listen on: `host:port`, `[v6]:port` or `unix:/path`."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_UNIX = "unix:"


class AddressError(Exception):
    """An address that cannot be listened on; the text says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and port (0: any free one), or the `path` of a unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return _UNIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Reads an address; raises ValueError."""
    if text.startswith(_UNIX):
        if not text.removeprefix(_UNIX):
            raise ValueError("a path after unix:")
        return Address(path=text.removeprefix(_UNIX))
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError("host:port, [v6]:port or unix:/path")
    return Address(host, int(port))


def bind(address: Address) -> socket.socket:
    """A bound socket; raises AddressError."""
    try:
        return _bind_unix(address.path) if address.path is not None else _bind_tcp(address)
    except OSError as problem:
        hint = "; stop what holds it or choose another --listen" if problem.errno == errno.EADDRINUSE else ""
        raise AddressError(f"cannot listen on {address}: {(problem.strerror or str(problem)).lower()}{hint}") from None


def bound_address(sock: socket.socket) -> Address:
    """Where a bound socket really listens."""
    name = sock.getsockname()
    return Address(path=name) if sock.family == socket.AF_UNIX else Address(name[0], name[1])


@contextlib.contextmanager
def binding(addresses: Sequence[Address]) -> Iterator[list[socket.socket]]:
    """Bound sockets, closed in the end; the files of unix sockets are removed before. Raises AddressError."""
    bound: list[socket.socket] = []
    try:
        bound.extend(bind(address) for address in addresses)
        yield bound
    finally:
        for address in addresses[: len(bound)]:
            if address.path is not None:
                Path(address.path).unlink(missing_ok=True)
        for sock in bound:
            sock.close()


def _bind_tcp(address: Address) -> socket.socket:
    family, kind, protocol, _, target = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
        # Claimed now: two processes may bind with SO_REUSEADDR, only one may listen.
        sock.listen()
        undo.pop_all()
    return sock


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        if _is_stale(path):
            Path(path).unlink()
        sock.bind(path)
        undo.pop_all()
    return sock


def _is_stale(path: str) -> bool:
    """Whether a socket file was left behind by a process that is gone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116 -- Path.is_socket hides why it fails
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED
