"""Processes under measurement: started on free ports, their CPU time read from /proc, always ended."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from controlplane.runtime.envoy import envoy_env, find_envoy

TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_us(pid: int) -> int:
    """User and system time of a process and its threads so far, in microseconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1_000_000 // TICKS


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no memory")


def apart() -> None:
    """Keeps this process and all that it starts from now on off the first core, if there is another."""
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {_measured()} or {_measured()})


def alone(pid: int) -> None:
    """Moves a process, with the threads it has, to the first core, away from the load and the upstream."""
    _move(pid, {_measured()})


def among(pid: int) -> None:
    """Moves it back to the others."""
    _move(pid, os.sched_getaffinity(0))


def _move(pid: int, cores: set[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


@cache
def _measured() -> int:
    return min(os.sched_getaffinity(0))


@contextmanager
def running(argv: list[str], log: Path, **more: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    more.setdefault("env", {**os.environ, **envoy_env()})
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, **more)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def envoy(config: Path) -> list[str]:
    """One worker, so that a request's cost is not spread over caches."""
    return [str(find_envoy()), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]


def wait_port(port: int, deadline_s: float = 30.0) -> None:
    until = time.monotonic() + deadline_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def wait_file(path: Path, deadline_s: float = 30.0) -> None:
    until = time.monotonic() + deadline_s
    while not path.exists():
        if time.monotonic() > until:
            raise TimeoutError(str(path))
        time.sleep(0.02)
