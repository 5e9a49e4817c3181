"""What is to be kept running, and how it is doing."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import orjson

from controlplane.policy.secrets import Secret


@dataclass(frozen=True, slots=True)
class Child:
    """A process to keep running. Its name is that of its log and its record in the run folder.

    `inputs` are the contents of the files it reads when it starts: a running process is adopted only if these,
    the command, the environment and the program are the same. `drain` is awaited for at most `drain_s` seconds
    before SIGTERM, and SIGKILL follows `stop_s` seconds after that. `logs` are files that it writes
    besides its own log, and that are bounded like it. `stale` is removed before each start and at the end.
    `family`: it has processes of its own, which end with it. `first_path`: where programs are looked for first.
    `secrets` are kept out of what is told of its log.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    inputs: tuple[bytes, ...] = field(default=(), repr=False)
    drain: Callable[[], Awaitable[None]] | None = None
    drain_s: float = 0.0
    stop_s: float = 5.0
    logs: tuple[Path, ...] = ()
    stale: tuple[Path, ...] = ()
    family: bool = False
    first_path: str = ""
    secrets: tuple[Secret, ...] = ()
    backoff: "Backoff | None" = None  # the supervisor's by default

    def fingerprint(self) -> str:
        """A hash of all that makes one process of this child as good as another."""
        with suppress(OSError):
            program = Path(self.argv[0]).stat()
            return self._hash(f"{program.st_size} {program.st_mtime_ns}")
        return self._hash("")

    def _hash(self, program: str) -> str:
        digest = hashlib.sha256(orjson.dumps([self.argv, sorted(self.env.items()), program]))
        for content in self.inputs:
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses before restarts, in seconds: doubled from `first` to `most`, from the start after a run of `calm_s`."""

    first: float = 0.1
    most: float = 10.0
    calm_s: float = 30.0

    def after(self, pause: float | None, ran_s: float) -> float:
        """The pause after a run of `ran_s` seconds that a pause of `pause` seconds had preceded."""
        if pause is None or ran_s >= self.calm_s:
            return self.first
        return min(pause * 2, self.most)


class Status(StrEnum):
    RUNNING = "running"
    RESTARTING = "restarting"  # it ended, and is started again after a pause
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """How a child is. `since` is when its status began; the last exit and log lines are those of the run before."""

    name: str
    status: Status
    since: datetime
    pid: int | None
    adopted: bool
    restarts: int
    last_exit: str | None
    last_log: tuple[str, ...]


class StartError(Exception):
    """A process cannot be started. Its text says which and why."""
