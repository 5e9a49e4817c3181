"""What the collector asks of Envoy, of a real one: to begin a log anew, and how often it could not write."""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane.runtime.envoy import find_envoy
from extproc.usage.envoy import Envoy


def _bootstrap(folder: Path) -> dict[str, Any]:
    """One listener that writes two logs: one to a file, and one to a disk that is always full."""
    types = "type.googleapis.com/envoy.extensions"
    file = f"{types}.access_loggers.file.v3.FileAccessLog"
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "access_log": [
            {"name": name, "typed_config": {"@type": file, "path": path, "log_format": {"text_format": "line\n"}}}
            for name, path in (("file", str(folder / "log")), ("full", "/dev/full"))
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "x", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"},
            }
        ],
    }  # fmt: skip
    return {
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock")}}},
        "static_resources": {
            "listeners": [
                {
                    "address": {"pipe": {"path": str(folder / "listen.sock")}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ]
        },
    }


def until(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hg-") as short:  # the path of a unix socket is short
        yield Path(short)


@pytest.fixture
def running(folder: Path) -> Iterator[None]:
    (folder / "envoy.json").write_text(json.dumps(_bootstrap(folder)))
    argv = [str(find_envoy()), "-c", str(folder / "envoy.json"), "--concurrency", "1", "--use-dynamic-base-id"]
    argv += ["--file-flush-interval-msec", "20", "--log-level", "error"]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        until(lambda: (folder / "listen.sock").exists() or process.poll() is not None, "Envoy starts")
        assert process.poll() is None, (folder / "output").read_text()
        yield
    finally:
        process.kill()
        process.wait()


def _asked(client: httpx.Client) -> bool:
    """Whether a request is answered: a socket is there before anybody listens at it."""
    try:
        return client.get("http://x/").is_success
    except httpx.ConnectError:
        return False


def test_a_real_envoy(folder: Path, running: None) -> None:
    log = folder / "log"
    with (
        Envoy(str(folder / "admin.sock")) as envoy,
        httpx.Client(transport=httpx.HTTPTransport(uds=str(folder / "listen.sock"))) as client,
    ):
        until(lambda: envoy.failed_writes() == 0, "it answers")
        until(lambda: _asked(client), "it serves")
        until(lambda: log.read_bytes() == b"line\n", "it writes")
        until(envoy.failed_writes, "it counts what it could not write")
        log.rename(folder / "log.1")
        envoy.reopen_logs()
        until(lambda: _asked(client) and log.exists(), "it begins a new log")


# httpcore leaves the socket of a connection that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_an_envoy_nothing_is_known(folder: Path) -> None:
    with Envoy(str(folder / "absent.sock")) as envoy:
        assert envoy.failed_writes() is None
        envoy.reopen_logs()
