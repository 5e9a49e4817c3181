"""The run folder: sockets, process records and logs of one state folder, out of everybody else's reach."""

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the terminating zero included.
_SOCKET_PATH_BYTES = 103


class RunFolderError(Exception):
    """The run folder or the state folder cannot be used. Its text says which, why, and what to do."""


class LockedError(RunFolderError):
    """Another control plane uses the state folder. `pid` is its process, if known."""

    def __init__(self, state: Path, pid: int | None) -> None:
        self.pid = pid
        holder = f"process {pid}" if pid else "another process"
        super().__init__(
            f"the state folder {state} is in use by {holder}. "
            f"Stop that control plane, or choose another state folder for this one."
        )


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths below one private folder. Every socket path fits into a unix socket address."""

    path: Path

    @property
    def xds_socket(self) -> str:
        return str(self.path / "xds.sock")

    @property
    def admin_socket(self) -> str:
        """Where Envoy's admin interface listens."""
        return str(self.path / "envoy.sock")

    @property
    def service_socket(self) -> str:
        """Where the services that providers are listen; `{}` stands for the socket's name."""
        return str(self.path / "{}.sock")

    @property
    def usage_socket(self) -> str:
        """Where clients' questions about their usage are answered."""
        return str(self.path / "usage.sock")

    @property
    def limits_socket(self) -> str:
        """Where the rate limit service listens."""
        return str(self.path / "limits.sock")

    @property
    def cache_socket(self) -> str:
        """Where the store of the response cache listens."""
        return str(self.path / "cache.sock")

    @property
    def inside_socket(self) -> str:
        """Where Envoy serves requests of the gateway itself."""
        return str(self.path / "inside.sock")

    @property
    def listings_socket(self) -> str:
        """Where Envoy asks providers for their models."""
        return str(self.path / "listings.sock")

    @property
    def rules_socket(self) -> str:
        """Where the workers of rules listen; `{}` stands for their number."""
        return str(self.path / "rules-{}.sock")

    @property
    def rules_settings(self) -> Path:
        """The folder of the settings of rules, a file for each version; created when absent."""
        folder = self.path / "rules"
        with _saying(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def record(self, name: str) -> Path:
        """The file that says which process runs under a name."""
        return self.path / f"{name}.pid"

    def log(self, name: str) -> Path:
        return self.path / f"{name}.log"

    def write(self, name: str, content: bytes) -> Path:
        """Puts a private file in place, whole or not at all."""
        final, fresh = self.path / name, self.path / f".{name}.new"
        with _saying(self.path):
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            fresh.replace(final)
        return final


def run_folder(state: Path) -> RunFolder:
    """The run folder of a state folder, created when absent: the same one each time for the same user.

    It lies below $XDG_RUNTIME_DIR, or /tmp where that is unset, no folder, or too long for socket paths.

    Raises:
        RunFolderError: it cannot be created, or somebody else could reach into it.
    """
    name = hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:12]
    base = _base() / f"headgate-{os.getuid()}"
    for path in (base, base / name):
        _private(path)
    return RunFolder(base / name)


def usage_log(state: Path) -> Path:
    """Where Envoy writes its access log; the folder is created. What was not read yet survives in it.

    Raises:
        RunFolderError: the folder cannot be created.
    """
    folder = state.resolve() / "usage"
    with _saying(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder / "requests.log"


def rules_log(state: Path) -> Path:
    """Where Envoy writes what rules noted of requests."""
    return state.resolve() / "rules.log"


@contextmanager
def lock(state: Path) -> Iterator[None]:
    """Holds the state folder for one control plane; the kernel lets go of it however the process ends.

    Raises:
        LockedError: another process holds it.
        RunFolderError: the state folder cannot be created or written.
    """
    with _saying(state):
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(state, _pid_in(handle)) from None
        with _saying(state):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _pid_in(handle: int) -> int | None:
    text = os.pread(handle, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _base() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    longest = f"{runtime}/headgate-{os.getuid()}/{'x' * 12}/{'x' * 16}.sock"
    if runtime.startswith("/") and Path(runtime).is_dir() and len(os.fsencode(longest)) <= _SOCKET_PATH_BYTES:
        return Path(runtime)
    return Path("/tmp")  # noqa: S108 - what lies below it is checked to be private


def _private(path: Path) -> None:
    """Creates a folder only its owner can enter, and refuses one that anybody else made or may enter."""
    with _saying(path):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise RunFolderError(f"{path} is not a folder. Remove it: the gateway keeps its sockets there.")
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise RunFolderError(
            f"{path} is open to others (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}; expected owner "
            f"{os.getuid()}, mode 0700). Remove it, or set XDG_RUNTIME_DIR to a folder of your own."
        )


@contextmanager
def _saying(path: Path) -> Iterator[None]:
    """Turns the system's refusal into an error that says what cannot be used."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"cannot use {error.filename or path}: {error.strerror}. "
            f"Check the permissions and the free space of {path}, or choose another folder."
        ) from error
