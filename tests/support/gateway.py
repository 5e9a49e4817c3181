"""The whole gateway for tests: `ctl up` on a policy in a folder of its own, with everything it starts.

    with Gateway("providers: {p: {kind: mock}}\nmodels: {m: p}") as gateway:
        gateway.client().chat.completions.create(model="m", messages=[...])

The policy is given without `version` and `gateway`, which are written here: ports are free ones, state and run folder
lie in the temporary folder. What runs is ended with it, also what a killed `ctl` left behind.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from fnmatch import fnmatch
from glob import glob
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import openai

from tests.support import forked
from tests.support.ports import free_port

# Bounds against hanging: what is waited for takes a small part of them on a machine with nothing else to do.
_START_S = 60.0
_STOP_S = 60.0
_ANSWER_S = 60.0
_WITHIN_S = 30.0
_POLL_S = 0.02
_TAIL = 6000

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, within: float = _WITHIN_S) -> T:
    """The first true result of `look`; an AssertionError that names `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}; last seen: {found!r}"
        time.sleep(_POLL_S)
    return found


def started(run: Path) -> dict[str, int]:
    """Name and pid of what control planes with this run folder started."""
    found = {}
    # Path.glob minds folders that go meanwhile.
    for name in glob("headgate-*/*/*.pid", root_dir=run):  # noqa: PTH207
        record = run / name
        with suppress(FileNotFoundError):  # it ended meanwhile
            pid = json.loads(record.read_text()).get("pid")
            if isinstance(pid, int):
                found[record.stem] = pid
    return found


class Gateway:
    """`ctl up`, its Envoy and its sidecars.

    `env` and `files` (relative to the policy) hold the secrets; `settings` are more lines of the `gateway` section.
    `verify` and `cert` are httpx's, for a gateway that serves TLS.
    """

    def __init__(
        self,
        policy: str,
        *,
        settings: str = "",
        env: Mapping[str, str] | None = None,
        files: Mapping[str, str | bytes] | None = None,
        key: str = "none",
        scheme: str = "http",
        verify: Any = True,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hg-"))
        self.port, self.admin_port = free_port(), free_port()
        self.settings, self.key, self.scheme, self._verify = settings, key, scheme, verify
        self._env = dict(env or {})
        self._policy = policy
        self._process: forked.Forked | None = None
        self._log = self.folder / "ctl.log"
        self.path = self.folder / "policy.yaml"
        (self.folder / "run").mkdir(mode=0o700)
        for name, content in (files or {}).items():
            self.write(name, content)
        self.http = httpx.Client(base_url=self.url, timeout=_ANSWER_S, verify=verify)
        self.admin = httpx.Client(base_url=self.admin_url, timeout=_ANSWER_S)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "ctl is not started"
        return self._process.pid

    def text(self, policy: str, settings: str | None = None) -> str:
        """The whole policy: `policy` below this gateway's `version` and `gateway`."""
        lines = (self.settings if settings is None else settings).splitlines()
        if not any(line.startswith("listing:") for line in lines):
            lines.append("listing: off")  # providers count what they are asked
        more = "".join(f"  {line}\n" for line in lines)
        return (
            f"version: 1\ngateway:\n  listen: 127.0.0.1:{self.port}\n  admin: 127.0.0.1:{self.admin_port}\n"
            f"  state: state\n{more}{policy.strip()}\n"
        )

    def write(self, name: str, content: str | bytes) -> None:
        """Puts a file beside the policy, replaced in one step as editors do."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_bytes(content.encode() if isinstance(content, str) else content)
        fresh.replace(path)

    def edit(self, policy: str, settings: str | None = None) -> None:
        """Writes the policy file; does not wait."""
        self.write("policy.yaml", self.text(policy, settings))

    def start(self) -> Self:
        """Starts `ctl up` and waits until it serves; raises AssertionError with what it wrote when it does not."""
        self.spawn()
        try:
            eventually(self._serves, "the gateway serves", _START_S)
        except AssertionError as error:
            error.add_note(self.output())
            raise
        return self

    def spawn(self) -> None:
        """Starts `ctl up` without waiting."""
        assert self._process is None, "ctl is already started"
        if not self.path.exists():
            self.edit(self._policy)
        with self._log.open("ab") as log:
            self._process = forked.start("up", str(self.path), env=self._environment(), output=log)

    def second(self) -> subprocess.CompletedProcess[str]:
        """Another `ctl up` on the same policy and state, until it ends."""
        return self.ctl("up", str(self.path))

    def ctl(self, *words: str, width: int = 200, **env: str) -> subprocess.CompletedProcess[str]:
        """The command line, which asks this gateway's control plane."""
        more = {"HEADGATE_SERVER": self.admin_url, "COLUMNS": str(width), **env}
        return forked.run(*words, env=self._environment() | more)

    def wait(self, within: float = _STOP_S) -> int:
        """The exit code of ctl, once it ended."""
        assert self._process is not None, "ctl is not started"
        code = self._process.wait(within)
        self._process = None
        return code

    def kill(self) -> None:
        """Ends ctl at once, as a crash would; what it started goes on. `start()` may follow."""
        with suppress(ProcessLookupError):  # it has ended by itself, and was asked for its code
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def signal(self) -> None:
        os.kill(self.pid, signal.SIGINT)

    def stop(self) -> int:
        """Ends ctl in good order; its exit code."""
        self.signal()
        return self.wait()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.admin.get("/status").raise_for_status().json()
        return found

    def revision(self) -> int:
        number: int = self.status()["live"]["revision"]
        return number

    def wait_revision(self, number: int) -> None:
        """Waits until a revision not below `number` is live."""
        eventually(lambda: self.revision() >= number, f"revision {number} is live\n{self.output()}")

    def apply_edit(self, policy: str, settings: str | None = None) -> None:
        """Edits the file and waits until it is live."""
        before = self.revision()
        self.edit(policy, settings)
        self.wait_revision(before + 1)

    def process(self, name: str) -> int:
        """The pid of what runs under a name, `envoy` or `mock`."""
        return self.processes()[name]

    def processes(self) -> dict[str, int]:
        """Name and pid of what ctl started."""
        return started(self.folder / "run")

    def files(self, pattern: str = "*") -> dict[Path, bytes]:
        """What is in the gateway's files, but for those that go meanwhile. A star stands for slashes, too."""
        found = {}
        for folder, _, names in os.walk(self.folder):
            for path in (Path(folder, name) for name in names):
                if fnmatch(str(path.relative_to(self.folder)), pattern) and path.is_file():
                    with suppress(FileNotFoundError):
                        found[path] = path.read_bytes()
        return found

    def output(self) -> str:
        """The end of what ctl wrote."""
        return self._log.read_text(errors="replace")[-_TAIL:] if self._log.exists() else ""

    def client(self, key: str | None = None) -> openai.OpenAI:
        """OpenAI's own client, without retries of its own."""
        return openai.OpenAI(
            base_url=self.base_url, api_key=key or self.key, max_retries=0, timeout=_ANSWER_S,
            http_client=httpx.Client(verify=self._verify),
        )  # fmt: skip

    def chat(self, model: str = "m", key: str | None = None, **headers: str) -> httpx.Response:
        """One plain chat request; header names are written with underscores."""
        sent = {"authorization": f"Bearer {key or self.key}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        return self.http.post("/v1/chat/completions", json=body, headers=sent)

    def close(self) -> None:
        """Ends everything at once and removes the folder."""
        self.http.close()
        self.admin.close()
        try:
            if self._process is not None:
                self.kill()
            for pid in self._left():
                _end(pid)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"ctl wrote:\n{self.output()}")
        self.close()

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        return {**kept, "XDG_RUNTIME_DIR": str(self.folder / "run"), "PYTHONUNBUFFERED": "1", **self._env}

    def _left(self) -> list[int]:
        """Every process that was started with a path of this folder: records may be missing after a crash."""
        mark, found = os.fsencode(self.folder), []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if mark in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    def _serves(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"ctl ended with {code}"
        try:
            return self._health() == 200 and self.status()["live"] is not None
        except httpx.TransportError:
            return False

    def _health(self) -> int:
        return self.http.get("/health").status_code


def _end(pid: int) -> None:
    """Ends a process that is no child of ours, and waits until it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    eventually(lambda: not alive(pid), f"process {pid} ends")


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
