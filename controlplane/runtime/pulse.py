"""Whether the collector goes on: a process that hangs counts nothing, so that nothing is spent at the edge."""

import asyncio
from dataclasses import dataclass, field
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
    _seen: int | None = None  # the heartbeat's time, as the file system says it
    _since: float = field(default=0.0)

    def alarms(self) -> list[dict[str, str]]:
        return [{"name": "collector", "message": self.message}] if self.message else []

    def hangs(self, pid: int | None, started_s: float, beat_ns: int | None, now_s: float) -> bool:
        """Looks at a process: whether it is beyond its deadline. `started_s` by the file system's clock."""
        if pid != self._pid or beat_ns != self._seen:
            self._pid, self._seen, self._since = pid, beat_ns, now_s
        quiet = now_s - self._since
        alive = pid is None or quiet < self.alarm_s
        begun = beat_ns is not None and beat_ns >= int(started_s * 1e9)
        hanging = f"the collector hangs, so that nothing more is spent; it is started again after {self.deadline_s:g} s"
        waiting = "the collector has not reached its ledger since it was started"
        self.message = "" if alive else hanging if begun else waiting
        return not alive and begun and quiet >= self.deadline_s


async def watch(pulse: Pulse, supervisor: Supervisor, name: str, heartbeat: Path, look_s: float = _LOOK_S) -> None:
    """Starts a child again, for ever, when it hangs; the alarm is in `pulse` and in the log."""
    loop = asyncio.get_running_loop()
    told = ""
    while True:
        state = next((each for each in supervisor.states() if each.name == name), None)
        if state is not None and pulse.hangs(_pid(state), state.since.timestamp(), _beat(heartbeat), loop.time()):
            _log.error("process hangs", process=name, pid=state.pid)
            supervisor.kill(name)
        if pulse.message and pulse.message != told:
            _log.error("alarm", name=name, message=pulse.message)
        elif told and not pulse.message:
            _log.warning("alarm over", name=name)
        told = pulse.message
        await asyncio.sleep(look_s)


def _pid(state: ProcessState) -> int | None:
    return state.pid if state.status is Status.RUNNING else None


def _beat(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
