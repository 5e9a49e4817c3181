"""The ONNX service in its own process, on a free TCP port and a unix socket of its own.

with OnnxService({"models": {"minilm": {"path": str(folder)}}}) as service:
    client = service.openai()
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import openai

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
_START_S = 60.0
_STOP_S = 30.0


class OnnxService:
    """Runs `python -m sidecars.onnx` with `settings`; version and threads are added. `options` are more of its own."""

    def __init__(self, settings: Mapping[str, Any], *options: str, env: Mapping[str, str] | None = None) -> None:
        self._options, self._env = options, {**os.environ, **(env or {})}
        self._folder = tempfile.TemporaryDirectory(prefix="onnx-")
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.url = ""
        self.http = httpx.Client()
        self.edit(settings)

    @property
    def socket(self) -> Path:
        return Path(self._folder.name, "onnx.sock")

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.http.post(path, json=body, headers=headers)

    def state(self, model: str) -> str:
        found: str = self.http.get(f"/ready/{model}").json()["state"]
        return found

    def log(self) -> list[dict[str, Any]]:
        """What the process said, line by line."""
        *whole, _ = self._errors.read_text().split("\n")  # the last line may still be written
        return [json.loads(line) for line in whole]

    def wait_for(self, what: Callable[[], bool], within: float = 60.0) -> None:
        deadline = time.monotonic() + within
        while not what():
            assert time.monotonic() < deadline, f"not within {within} s; the log:\n{self._errors.read_text()}"
            time.sleep(0.01)

    def terminate(self) -> None:
        """Tells the process to stop, and returns at once."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGTERM)

    def wait(self) -> int:
        """The exit status."""
        assert self._process is not None
        return self._process.wait(_STOP_S)

    def start(self) -> Self:
        """Starts the process and waits until it listens."""
        listen = ("--listen", f"127.0.0.1:{self._port}", "--listen", f"unix:{self.socket}")
        command = (sys.executable, "-m", "sidecars.onnx", *listen, "--settings", str(self._document))
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                (*command, *self._options),
                cwd=ROOT, env=self._env, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
            )  # fmt: skip
        try:
            self.wait_for(self._listens, _START_S)
        except BaseException:
            self._end(signal.SIGKILL)
            raise
        (self.url,) = [text for text in self.log()[0]["addresses"] if text.startswith("http")]
        self.http.close()
        self.http = httpx.Client(base_url=self.url, timeout=60)
        return self

    def edit(self, settings: Mapping[str, Any]) -> None:
        """Writes other settings; version and threads are added."""
        fresh = self._document.with_suffix(".new")
        fresh.write_text(json.dumps({"version": 1, "threads": 1, **settings}))
        fresh.replace(self._document)

    def kill(self) -> None:
        """Ends the process at once, as a crash would."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"the log of the service:\n{self._errors.read_text()}")
        self.http.close()
        code = self._end(signal.SIGKILL if error is not None else signal.SIGTERM)
        self._folder.cleanup()
        assert error is not None or code == 0, f"the service exited with {code}"

    @property
    def _document(self) -> Path:
        return Path(self._folder.name, "settings.json")

    @property
    def _errors(self) -> Path:
        return Path(self._folder.name, "log")

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the service ended; it said:\n{self._errors.read_text()}"
        return "onnx: listening" in self._errors.read_text()

    def _end(self, number: int) -> int | None:
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            os.kill(process.pid, number)
        try:
            return process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None
