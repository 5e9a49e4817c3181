"""`ctl record` in its own process: a recording proxy on a free port."""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-c", "from controlplane.cli.main import run; run()")
_READY = re.compile(rb"^record: ready on (\S+) ", re.MULTILINE)
_START_S, _STOP_S, _POLL_S = 60.0, 30.0, 0.02


class Recorder:
    """Records what goes to `upstream` into `log`; `url` is where clients connect."""

    def __init__(self, upstream: str, log: Path) -> None:
        self._upstream, self.log = upstream, log
        self.url = ""

    def __enter__(self) -> Self:
        self._words = tempfile.TemporaryFile()
        argv = [*COMMAND, "record", str(self.log), "--upstream", self._upstream, "--listen", "127.0.0.1:0"]
        self._process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=self._words)
        deadline = time.monotonic() + _START_S
        while (match := _READY.search(self.output())) is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"the recorder does not start: {self.output().decode()}")
            time.sleep(_POLL_S)
        self.url = match[1].decode()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._words.close()

    def output(self) -> bytes:
        self._words.seek(0)
        return self._words.read()

    def stop(self) -> int:
        """Ends it in good order; its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(_STOP_S)
        finally:
            self._process.kill()
            self._process.wait()

    def exchanges(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.log.read_bytes().splitlines()]
