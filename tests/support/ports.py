"""Ports for what has to be told its port before it starts.

The system gives every connection that goes out a port of its own range, and may give one number twice in a row; a
port from there can be gone before it is listened at. These come from outside that range, each one once, and every
worker of the suite has its own.
"""

import os
import random
import socket
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

_LOWEST = 10_000
_HIGHEST = 65_535
_SYSTEM = Path("/proc/sys/net/ipv4/ip_local_port_range")
_WORKERS = 16  # that ports are dealt among


def _candidates() -> Iterator[int]:
    low, high = map(int, _SYSTEM.read_text().split())
    outside = chain(range(_LOWEST, low), range(high + 1, _HIGHEST + 1))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    mine = [port for port in outside if port % _WORKERS == worker]
    random.shuffle(mine)  # two suites on one machine
    return iter(mine)


_ports = _candidates()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at, and that this process has not given out before."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port outside {_SYSTEM} is free")
