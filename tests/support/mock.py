"""A mock provider in its own process, for tests, examples and benchmarks.

    with MockProvider() as mock:
        client = openai.OpenAI(base_url=mock.base_url, api_key="x")
        ...
        assert mock.requests()[-1].json()["model"] == "gpt-x"

`async with` does the same without blocking the loop. What it is asked at run time goes by its plain unix socket, so it
works whatever TLS and keys its TCP address demands.
"""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
_READY = re.compile(r"^mock: ready on (https?)://\S+ ", re.MULTILINE)
_START_S = 60.0
_STOP_S = 30.0
_WITHIN_S = 30.0
_POLL_S = 0.01
_TAIL = 4000


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request as the mock received it: header order, letter case and body bytes unchanged."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, whatever its letter case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


class MockProvider:
    """Runs `python -m sidecars.mock` with `flags` on a free TCP port and on a unix socket of its own.

    The port stays the same over `kill()` and another `start()`. `base_url` ends with `/v1`.
    """

    def __init__(self, *flags: str, name: str = "mock") -> None:
        self._flags = (*flags, "--name", name)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._client: httpx.Client | None = None
        self.name = name
        self.scheme = "http"
        self.host = "127.0.0.1"
        self.port = free_port()

    @property
    def base_url(self) -> str:
        return f"{self.scheme}://{self.address}/v1"

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def socket(self) -> str:
        """The path of the unix socket."""
        return str(self._path("mock.sock"))

    @property
    def pid(self) -> int:
        assert self._process is not None, "the mock is not started"
        return self._process.pid

    def start(self) -> Self:
        """Starts the process and waits until it answers; raises AssertionError with its stderr when it does not."""
        assert self._process is None, "the mock is already started"
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="mock-")
        try:
            listen = ("--listen", f"{self.host}:{self.port}", "--listen", f"unix:{self.socket}")
            command = (sys.executable, "-m", "sidecars.mock", *listen, *self._flags)
            with self._path("stderr").open("wb") as errors:
                self._process = subprocess.Popen(
                    command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
                )
            self._client = httpx.Client(
                transport=httpx.HTTPTransport(uds=self.socket), base_url="http://mock", timeout=_WITHIN_S
            )
            self._await_ready()
        except BaseException:
            self.kill()
            self._clean()
            raise
        return self

    def requests(self, last: int | None = None) -> list[SeenRequest]:
        """The recorded requests, oldest first; the `last` ones only when given."""
        found = self._get("/mock/requests" if last is None else f"/mock/requests?last={last}")["requests"]
        return [
            SeenRequest(
                one["method"],
                one["path"],
                [(name, value) for name, value in one["headers"]],
                base64.b64decode(one["body"]),
            )
            for one in found
        ]

    def forget(self) -> None:
        """Empties the record of requests."""
        self._http().delete("/mock/requests").raise_for_status()

    def stats(self) -> dict[str, Any]:
        """The document of GET /mock/stats."""
        found: dict[str, Any] = self._get("/mock/stats")
        return found

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], within: float = _WITHIN_S) -> dict[str, Any]:
        """The first stats for which `condition` holds; an AssertionError with the last ones after `within` seconds."""
        deadline = time.monotonic() + within
        while not condition(stats := self.stats()):
            assert time.monotonic() < deadline, f"not within {within} s; last seen: {stats}"
            time.sleep(_POLL_S)
        return stats

    def stderr(self) -> str:
        """The end of what the process wrote."""
        path = self._path("stderr")
        return path.read_text(errors="replace")[-_TAIL:] if path.exists() else ""

    def kill(self) -> None:
        """Ends the process at once, as a crash would. Its port and folder stay, for another `start()`."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends the process in good order, whatever it takes; raises AssertionError when it did not exit with 0."""
        try:
            code = self._end(signal.SIGTERM)
            assert code in (None, 0), f"the mock exited with {code}; its stderr:\n{self.stderr()}"
        finally:
            self._clean()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"stderr of mock '{self.name}':\n{self.stderr()}")
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _await_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while (ready := _READY.search(self.stderr())) is None or not self._answers():
            code = self._process.poll()
            assert code is None, f"the mock exited with {code}; its stderr:\n{self.stderr()}"
            assert time.monotonic() < deadline, f"no mock within {_START_S} s; its stderr:\n{self.stderr()}"
            time.sleep(_POLL_S)
        self.scheme = ready[1]

    def _answers(self) -> bool:
        """Whether /health answers at all: a mock that was told to be sick is ready, too."""
        try:
            self._http().get("/health")
        except httpx.TransportError:
            return False
        return True

    def _http(self) -> httpx.Client:
        assert self._client is not None, "the mock is not started"
        return self._client

    def _get(self, path: str) -> Any:
        return self._http().get(path).raise_for_status().json()

    def _path(self, name: str) -> Path:
        assert self._folder is not None, "the mock is not started"
        return Path(self._folder.name) / name

    def _end(self, number: int) -> int | None:
        process, self._process = self._process, None
        client, self._client = self._client, None
        if client is not None:
            client.close()
        if process is None:
            return None
        if process.poll() is None:
            os.kill(process.pid, number)
        try:
            return process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _clean(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()
