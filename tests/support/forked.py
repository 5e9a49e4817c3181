"""`ctl` without its second of imports: a process that has done them forks for each call.

    process = start("up", "policy.yaml", env=env, output=log)
    done = run("status", env=env)

The process that forks knows nothing of `controlplane.cli`, which each call imports by itself: what that module makes of
the environment and of the terminal is as fresh as in a process of its own.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
_MESSAGE = 1 << 20
_lock = threading.Lock()


class Forked:
    """A running `ctl`, with the part of `subprocess.Popen` that tests need."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self._channel = channel
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._read(0.0)

    def wait(self, timeout: float) -> int:
        """Raises subprocess.TimeoutExpired."""
        code = self._read(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(("ctl",), timeout)
        return code

    def _read(self, timeout: float) -> int | None:
        if self._code is None:
            self._channel.settimeout(timeout)
            try:
                self._code = int(self._channel.recv(64))
            except (TimeoutError, BlockingIOError):
                return None
            self._channel.close()
        return self._code


def start(*words: str, env: Mapping[str, str], output: IO[bytes], cwd: Path = ROOT) -> Forked:
    """`ctl WORDS` in a session of its own; what it writes goes to `output`."""
    return _fork(words, env, cwd, (output.fileno(), output.fileno()))


def run(
    *words: str, env: Mapping[str, str], cwd: Path = ROOT, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """`ctl WORDS` until it ends. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = _fork(words, env, cwd, (out.fileno(), err.fileno())).wait(timeout)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(("ctl", *words), code, *texts)


def _fork(words: tuple[str, ...], env: Mapping[str, str], cwd: Path, outputs: tuple[int, int]) -> Forked:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    message = json.dumps({"words": words, "env": dict(env), "cwd": str(cwd)}).encode()
    assert len(message) <= _MESSAGE, f"{len(message)} bytes of words and environment"
    with theirs, _lock:
        socket.send_fds(_server(), [message], [theirs.fileno(), *outputs])
    return Forked(int(ours.recv(64)), ours)


@cache
def _server() -> socket.socket:
    """The socket of the process that forks; it ends with this one, whose end of the socket closes."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for each in (ours, theirs):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MESSAGE)
    code = f"from tests.support.forked import serve; serve({theirs.fileno()})"
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    atexit.register(_end, process, ours)
    return ours


def _end(process: "subprocess.Popen[bytes]", channel: socket.socket) -> None:
    channel.close()
    process.wait(10)


def serve(descriptor: int) -> None:
    """Forks for each message, until there is nobody to send one."""
    import gc

    import controlplane.admin.app
    import controlplane.runtime.gateway  # noqa: F401

    gc.freeze()
    with socket.socket(fileno=descriptor) as calls:
        while True:
            message, files, _, _ = socket.recv_fds(calls, _MESSAGE, 3)
            if not message:
                return
            if os.fork() == 0:
                calls.close()
                _keep(json.loads(message), files)
            for file in files:
                os.close(file)
            _collect()


def _collect() -> None:
    """Lets go of those that ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _keep(call: dict[str, Any], files: list[int]) -> NoReturn:
    """Starts the command, tells its pid, waits for it, and tells its exit code."""
    channel = socket.socket(fileno=files[0])
    pid = os.fork()
    if pid == 0:
        channel.close()
        _become(call, files[1:])
    for file in files[1:]:
        os.close(file)
    try:
        channel.send(str(pid).encode())
        channel.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    except OSError:
        pass  # nobody asks any more
    os._exit(0)


def _become(call: dict[str, Any], files: list[int]) -> NoReturn:
    os.setsid()
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
        os.close(file)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(call["cwd"])
    os.environ.clear()
    os.environ.update(call["env"])
    sys.argv = ["ctl", *call["words"]]
    code: Any = 1
    try:
        from controlplane.cli.main import run as command

        command()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
