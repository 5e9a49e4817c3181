"""One process that may outlive us: started or found again, watched, signalled, never mistaken for another."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# What any program may need; the rest of our environment holds the policy's secrets and is nobody's business.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_POLL_S = 0.2  # where there is no pidfd
_FAMILY_S = 3.0  # for processes whose parent ended, to do so too
_MANY_FILES = 1_048_576


def identity(pid: int) -> str | None:
    """What tells this process from any other that had or will have its number; None when it has ended.

    On Linux the boot and the start time within it (field 22 of /proc/<pid>/stat, see proc(5)), elsewhere what
    ps knows of its start.
    """
    if sys.platform == "linux":
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
        if fields[0] in "ZX":
            return None
        return f"{boot()}/{fields[19]}"
    asked = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split(maxsplit=1)  # noqa: S603
    return None if len(found) < 2 or found[0].startswith("Z") else found[1].strip()


def boot() -> str:
    """What identities begin with since the machine was started; nothing where that is not told."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() if sys.platform == "linux" else ""


def family(pid: int) -> frozenset[int]:
    """The processes that run in the group of this number; those that only wait to be collected are none."""
    if sys.platform != "linux":
        asked = ["ps", "-axo", "pid=,pgid=,stat="]
        rows = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()  # noqa: S603
        told = (row.split() for row in rows)
        return frozenset(int(member) for member, group, state in told if group == str(pid) and state[0] != "Z")
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = (text := stat.read_text())[text.rindex(")") + 2 :].split()  # state, parent, group
            if fields[2] == str(pid) and fields[0] not in "ZX":
                found.add(int(stat.parent.name))
    return frozenset(found)


def end_family(pid: int, number: signal.Signals) -> None:
    """Signals every process in the group of this number, if there is any."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def raise_file_limit() -> int:
    """Lets this process and those it starts open as many files as the system permits; returns how many.

    Every connection is one, and the common soft limit of 1,024 would end in refused clients.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    for attempt in (wanted, 10_240):  # the most that macOS grants, whatever it says
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (attempt, hard))
            return attempt
    return soft


def connection_limit() -> int:
    """How many client connections the file limit has room for, each with one to a provider beside it."""
    return max((raise_file_limit() - 1024) // 2, 256)


class Running:
    """A running process: our child, or one adopted from an earlier control plane."""

    def __init__(self, pid: int, identity: str, popen: subprocess.Popen[bytes] | None, *, family: bool = False) -> None:
        self.pid = pid
        self._family = family
        self.identity = identity
        self.exit: str | None = None  # how it ended, in words
        self._popen = popen
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pidfd = _pidfd_open(pid)
        self._poll: asyncio.TimerHandle | None = None

    @classmethod
    def start(cls, argv: tuple[str, ...], env: Mapping[str, str], log: Path, *, family: bool = False) -> "Running":
        """Starts a process in a session of its own, so that neither our end nor our terminal's is its end.

        `family`: it is over only when all the processes that it started are, and these end with it.

        Raises:
            OSError: it cannot be executed, or its log cannot be written.
        """
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            popen = subprocess.Popen(  # noqa: S603 - the command is the gateway's own
                argv,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                env={**passed_on, **env},
                start_new_session=True,
            )
        finally:
            os.close(handle)
        running = cls(popen.pid, identity(popen.pid) or "", popen, family=family)
        running._watch()
        return running

    @classmethod
    def adopt(cls, pid: int, known: str, *, family: bool = False) -> "Running | None":
        """Takes over the process that bore this identity, if it still runs."""
        try:
            running = cls(pid, known, None, family=family)
        except ProcessLookupError:
            return None
        # Only now that the pidfd holds on to one process can its identity be checked for good.
        if identity(pid) != known:
            running.release()
            return None
        running._watch()
        return running

    @property
    def adopted(self) -> bool:
        return self._popen is None

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for the end of the process; False when it still runs after `timeout_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        return self.ended

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to this very process; nothing happens when it has ended."""
        if self.ended:
            return
        with suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._popen is not None:
                self._popen.send_signal(number)
            elif identity(self.pid) == self.identity:
                os.kill(self.pid, number)

    def release(self) -> None:
        """Stops watching and leaves the process alone."""
        if self._poll is not None:
            self._poll.cancel()
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self._popen is not None and self._popen.returncode is None:
            self._popen.returncode = 0  # it is meant to go on: keeps Popen from warning of it

    def _watch(self) -> None:
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._on_end)
        else:
            self._poll = self._loop.call_later(_POLL_S, self._look)

    def _look(self) -> None:
        if self._popen.poll() is not None if self._popen else identity(self.pid) != self.identity:
            self._on_end()
        else:
            self._poll = self._loop.call_later(_POLL_S, self._look)

    def _on_end(self) -> None:
        code = self._popen.wait() if self._popen else None
        self.release()
        self.exit = _exit_words(code)
        if self._family:
            end_family(self.pid, signal.SIGTERM)
            self._bury(self._loop.time() + _FAMILY_S)
        else:
            self._ended.set()

    def _bury(self, deadline: float) -> None:
        """Over once nothing is left of the process's family; what does not end by itself is killed."""
        late = self._loop.time() >= deadline
        if late:
            end_family(self.pid, signal.SIGKILL)
        if late or not family(self.pid):
            self._ended.set()
        else:
            self._poll = self._loop.call_later(_POLL_S, self._bury, deadline)


def _pidfd_open(pid: int) -> int | None:
    if sys.platform == "linux":
        try:
            return os.pidfd_open(pid)
        except ProcessLookupError:
            raise
        except OSError:  # an old kernel, or a sandbox that forbids it
            return None
    return None


def _exit_words(code: int | None) -> str:
    if code is None:
        return "ended (its exit status went to the control plane that had started it)"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
