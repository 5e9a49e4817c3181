"""The rate limit service for tests, as its own process on a unix socket."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_START_S = 60.0


class LimitService:
    """Start it, write it new settings, kill it; `socket` stays the same."""

    def __init__(self, folder: Path, redis_url: str = "") -> None:
        self.socket = folder / "limits.sock"
        self._file = folder / "limits.json"
        self._log = folder / "limits.log"
        self._environment = os.environ | ({"REDIS_FOR_LIMITS": redis_url} if redis_url else {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def write(self, rules: Mapping[str, Any], **more: Any) -> None:
        """Settings with those rules; replaces the file as a careful writer does."""
        redis = {"redis": {"url_env": "REDIS_FOR_LIMITS", "timeout_ms": 2000}}
        self.write_text(json.dumps({"rules": rules} | redis | more))

    def write_text(self, text: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(text)
        new.replace(self._file)

    def launch(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "extproc.limits", "--socket", str(self.socket), "--settings", str(self._file)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=self._environment)
        return self._process

    def start(self) -> None:
        ready = self.log.count("limits: ready") if self._log.exists() else 0
        process = self.launch()
        deadline = time.monotonic() + _START_S
        while self.log.count("limits: ready") == ready:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the rate limit service did not start: {self.log[-2000:]}")
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        assert self._process is not None, "it was never started"
        self._process.send_signal(number)

    def wait(self) -> int:
        assert self._process is not None, "it was never started"
        return self._process.wait(_START_S)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was never started"
        return self._process.pid


@contextmanager
def limit_service(folder: Path, redis_url: str = "") -> Iterator[LimitService]:
    """Not started yet: write its settings first."""
    service = LimitService(folder, redis_url)
    try:
        yield service
    finally:
        service.kill()
