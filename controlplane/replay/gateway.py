"""Starts a gateway of a policy for a replay, in a temporary state folder, and reads from its ledger what it charged."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import httpx

from controlplane.replay.isolated import ADMIN_ENV, KEY_ENV, Place, isolated
from controlplane.runtime.folder import RunFolderError, run_folder
from extproc.usage.ledger import Ledger
from extproc.usage.record import UsageRecord

_READY_S = 60.0
_LOADED_S = 600.0
_STOP_S = 30.0
_COUNTED_S = 15.0
_POLL_S = 0.1
_TAIL = 2000
_PAGE = 1000


class ReplayError(Exception):
    """A replay that cannot be done. Its text says why."""


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that serves. `key` is sent as the bearer token, `token` to its admin API at `admin`."""

    url: str
    key: str = field(repr=False)
    admin: str
    token: str = field(repr=False)
    _state: Path
    _process: "subprocess.Popen[str]" = field(repr=False)

    def expect_models(self) -> None:
        """Waits for models that are being loaded: those of launched servers, and local ones that are loaded ahead. What
        fails meanwhile is left to the requests. Raises ReplayError."""
        deadline = time.monotonic() + _LOADED_S
        with self._asking() as client:
            while (loading := self._loading(client)) != []:
                if time.monotonic() > deadline:
                    which = ", ".join(loading or ["those of its services"])
                    raise ReplayError(f"after {_LOADED_S:g} s models are still being loaded: {which}")
                time.sleep(_POLL_S)

    def charged(self, requests: int) -> tuple[UsageRecord, ...]:
        """Stops it, once so many requests are in its ledger or some time has passed; the usage records of all."""
        deadline = time.monotonic() + _COUNTED_S
        with self._asking() as client:
            while time.monotonic() < deadline and self._counted(client) < requests:
                time.sleep(_POLL_S)
        _stop(self._process)
        return _records(self._state)

    def _asking(self) -> httpx.Client:
        return httpx.Client(headers={"authorization": f"Bearer {self.token}"}, trust_env=False)

    def _loading(self, client: httpx.Client) -> list[str] | None:
        """The models that are being loaded; None where that cannot be told just now."""
        try:
            rows = client.get(f"{self.admin}/models").raise_for_status().json()["local"]
        except httpx.HTTPError:
            return None
        return [f"{row['provider']}/{row['model']}" for row in rows if row["state"] == "loading"]

    def _counted(self, client: httpx.Client) -> int:
        try:
            rows = client.get(f"{self.admin}/usage").raise_for_status().json()["rows"]
        except httpx.HTTPError:
            return 0
        return sum(row["requests"] for row in rows)


@contextmanager
def gateway(policy: Path, document: Mapping[str, Any], key: str | None) -> Iterator[Running]:
    """A gateway of the policy.

    `document` is the policy as it is written, `key` a key of its own to send requests with. Everything is gone
    afterwards, also after an error or Ctrl-C. Raises ReplayError.
    """
    with tempfile.TemporaryDirectory(prefix="headgate-replay-", ignore_cleanup_errors=True) as folder:
        port, admin_port = _free_ports()
        state = Path(folder) / "state"
        made, token = "hgr-" + secrets.token_hex(24), "hgr-" + secrets.token_hex(24)
        text = isolated(document, Place(str(state), port, admin_port))
        log = Path(folder) / "gateway.log"
        process = _start(policy, log, {KEY_ENV: made, ADMIN_ENV: token})
        try:
            _until_ready(process, text, log)
            admin = f"http://127.0.0.1:{admin_port}"
            running = Running(f"http://127.0.0.1:{port}", key or made, admin, token, state, process)
            running.expect_models()
            yield running
        finally:
            _stop(process)
            with suppress(RunFolderError):  # it has none of its own, and has said so
                shutil.rmtree(run_folder(state).path, ignore_errors=True)


def _start(policy: Path, log: Path, env: Mapping[str, str]) -> subprocess.Popen[str]:
    with log.open("ab") as written:
        return subprocess.Popen(  # noqa: S603 - ourselves, with the path of a policy
            [sys.executable, "-m", "controlplane.replay.child", str(policy)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=written, text=True,
            env={**os.environ, **env},
            start_new_session=True,  # Ctrl-C is for us; it is told by the end of its stdin
        )  # fmt: skip


def _until_ready(process: subprocess.Popen[str], text: str, log: Path) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    try:
        process.stdin.write(text + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has ended: what it wrote says why
    told: Queue[str] = Queue()
    threading.Thread(target=lambda: told.put(_line(process)), daemon=True).start()
    try:
        word = told.get(timeout=_READY_S)
    except Empty:
        word = ""
    if word != "ready\n":
        reason = log.read_text(errors="replace").strip()[-_TAIL:] or f"it is not ready after {_READY_S:g} s"
        raise ReplayError(f"the gateway of the replay does not start:\n{reason}")


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    return process.stdout.readline()


def _stop(process: subprocess.Popen[str]) -> None:
    """Ends it in good order: by the end of its stdin."""
    if process.stdin is not None and not process.stdin.closed:
        with suppress(BrokenPipeError):
            process.stdin.close()
    for number in (signal.SIGINT, signal.SIGKILL):  # a second signal of the first kind ends it at once
        try:
            process.wait(_STOP_S)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _records(state: Path) -> tuple[UsageRecord, ...]:
    """Every usage record of the gateway, once it has stopped."""
    file = state / "usage" / "ledger.db"
    if not file.exists():
        return ()
    found: list[UsageRecord] = []
    with Ledger.open(f"sqlite:///{file}") as ledger:
        before: tuple[int, str] | None = None
        while page := ledger.records(limit=_PAGE, before=before):
            found += page
            before = (page[-1].at_us, page[-1].id)
    return tuple(found)


def _free_ports() -> tuple[int, int]:
    """Two ports that nobody listens at just now."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
