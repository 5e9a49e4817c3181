"""A private, real PostgreSQL: on a unix socket in a folder of its own, stopped with the tests.

In a conftest: ``from tests.support.postgres import postgres`` (a fixture of the session), then ``postgres.database()``.
"""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import pytest

_DEADLINE_S = 60.0

# For speed. A server that is killed still keeps what was committed; a machine that fails would not.
_SETTINGS = ("fsync=off", "full_page_writes=off", "max_connections=50", "shared_buffers=32MB")


class PostgresServer:
    """One server, started by `with`. It may be stopped and started again meanwhile; databases are kept."""

    def __init__(self) -> None:
        self._binaries = _binaries()
        self._user = _unprivileged()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="headgate-pg-"))
        try:
            if "user" in self._user:
                shutil.chown(self.folder, self._user["user"], self._user["group"])
            self._run("initdb", "-D", str(self.folder / "data"), "-U", "test", "-A", "trust", "-E", "UTF8", "--no-sync")
            self.start()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def start(self) -> None:
        settings = [
            f"-c{setting}" for setting in (*_SETTINGS, "listen_addresses=", f"unix_socket_directories={self.folder}")
        ]
        command = [str(self._binaries / "postgres"), "-D", str(self.folder / "data"), *settings]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._user
            )
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            try:
                psycopg.connect(self._conninfo("postgres")).close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log_text = (self.folder / "log").read_text()
                    raise RuntimeError(f"PostgreSQL did not start ({error}):\n{log_text}") from error
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends open connections; SIGQUIT ends at once, as a crash does."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://test@/{name}?host={self.folder}"

    def _conninfo(self, name: str) -> str:
        return f"user=test dbname={name} host={self.folder} connect_timeout=30"

    def _run(self, binary: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / binary), *arguments], cwd=self.folder, capture_output=True, check=False, **self._user
        )
        if done.returncode:
            raise RuntimeError(f"{binary} failed:\n{done.stderr.decode()}")

    def _discard(self) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def _binaries() -> Path:
    versions = Path("/usr/lib/postgresql")
    found = sorted(versions.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3].split(".")[0]), reverse=True)
    if on_path := shutil.which("postgres"):
        found.append(Path(on_path).resolve())
    for binary in found:
        if (binary.parent / "initdb").exists():
            return binary.parent
    raise RuntimeError("these tests need PostgreSQL's server: apt-get install postgresql")


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: settings of subprocess for another user."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise RuntimeError("PostgreSQL cannot run as root, and there is no user postgres or nobody")
