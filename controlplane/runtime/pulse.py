"""Whether the collector goes on: one that hangs or keeps ending counts nothing, and nothing is spent at the edge."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import structlog

from controlplane.runtime.child import ProcessState, Status
from controlplane.runtime.supervise import Supervisor

ALARM_S = 10.0
DEADLINE_S = 60.0  # longer than a database may take to fail
_LOOK_S = 1.0

_log = structlog.get_logger(__name__)


@dataclass
class Pulse:
    """How long a process has been quiet. Pure: what was seen, and the time, are passed in.

    A beat is noticed as a change, so that neither clock has to be right. One that has not beaten since its start may
    have reasons, such as a ledger to migrate: that is an alarm, and no reason to start it again.
    """

    alarm_s: float = ALARM_S
    deadline_s: float = DEADLINE_S
    message: str = ""  # the alarm; "" when there is none
    _pid: int | None = None
    _pid_s: float = 0.0  # when it was first seen
    _seen: int | None = None  # the heartbeat's time, as the file system says it
    _beat_s: float | None = None  # when that was first seen
    _ended: int = 0  # processes, since then

    def alarms(self) -> list[dict[str, str]]:
        return [{"name": "collector", "message": self.message}] if self.message else []

    def hangs(self, pid: int | None, started_s: float, beat_ns: int | None, now_s: float, words: str = "") -> bool:
        """Looks at a process: whether it is beyond its deadline. `started_s` by the file system's clock.

        `words`: the last of the process before it.
        """
        if beat_ns != self._seen or self._beat_s is None:
            self._seen, self._beat_s, self._ended = beat_ns, now_s, 0
        if pid != self._pid:
            self._ended += self._pid is not None
            self._pid, self._pid_s = pid, now_s
        begun = beat_ns is not None and beat_ns >= int(started_s * 1e9)
        quiet_s = now_s - max(self._beat_s, self._pid_s)
        silent_s = now_s - self._beat_s if self._ended > 1 else quiet_s
        self.message = self._alarm(begun, quiet_s, words) if silent_s >= self.alarm_s else ""
        return begun and pid is not None and quiet_s >= self.deadline_s

    def _alarm(self, begun: bool, quiet_s: float, words: str) -> str:
        if self._ended > 1 and (self._pid is None or quiet_s < self.alarm_s):
            return "the collector keeps ending, so that nothing more is counted" + (f": {words}" if words else "")
        if begun:
            again = f"it is started again after {self.deadline_s:g} s"
            return f"the collector hangs, so that nothing more is spent; {again}"
        return "the collector has not reached its ledger since it was started"


async def watch(pulse: Pulse, supervisor: Supervisor, name: str, heartbeat: Path, look_s: float = _LOOK_S) -> None:
    """Starts a child again, for ever, when it hangs; the alarm is in `pulse` and in the log."""
    loop = asyncio.get_running_loop()
    told = ""
    while True:
        state = next((each for each in supervisor.states() if each.name == name), None)
        if state is not None and _hangs(pulse, state, heartbeat, loop.time()):
            _log.error("process hangs", process=name, pid=state.pid)
            supervisor.kill(name)
        if pulse.message and pulse.message != told:
            _log.error("alarm", name=name, message=pulse.message)
        elif told and not pulse.message:
            _log.warning("alarm over", name=name)
        told = pulse.message
        await asyncio.sleep(look_s)


def _hangs(pulse: Pulse, state: ProcessState, heartbeat: Path, now_s: float) -> bool:
    words = state.last_log[-1] if state.last_log else ""
    return pulse.hangs(_pid(state), state.since.timestamp(), _beat(heartbeat), now_s, words)


def _pid(state: ProcessState) -> int | None:
    return state.pid if state.status is Status.RUNNING else None


def _beat(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
