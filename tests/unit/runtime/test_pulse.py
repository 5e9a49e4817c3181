"""A collector that hangs: told, and started again; one that is slow to begin is only told."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from controlplane.plan.explain import LAG
from controlplane.runtime.child import Backoff, Child
from controlplane.runtime.folder import RunFolder, run_folder
from controlplane.runtime.pulse import ALARM_S, DEADLINE_S, Pulse, watch
from controlplane.runtime.supervise import Supervisor
from extproc.usage.budgets import SECOND, explain_overshoot
from extproc.usage.heartbeat import BEAT_S
from tests.support.children import state, until

BEFORE = 99 * 10**9  # a beat by the process before
BEAT = 101 * 10**9
START = 100.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    with tempfile.TemporaryDirectory(prefix="hg-") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield run_folder(tmp_path)


def test_a_beat_ends_the_alarm_and_the_deadline_begins_anew() -> None:
    pulse = Pulse()
    assert not pulse.hangs(1, START, BEAT, 0.0)
    assert not pulse.hangs(1, START, BEAT, ALARM_S - 0.1)
    assert pulse.alarms() == []
    assert not pulse.hangs(1, START, BEAT, ALARM_S)
    assert "hangs" in pulse.alarms()[0]["message"]
    assert not pulse.hangs(1, START, BEAT + 1, DEADLINE_S + 1)
    assert pulse.alarms() == []
    assert not pulse.hangs(1, START, BEAT + 1, 2 * DEADLINE_S)
    assert pulse.hangs(1, START, BEAT + 1, 2 * DEADLINE_S + 1)


@pytest.mark.parametrize("beat", [None, BEFORE])
def test_one_that_has_not_begun_is_told_and_left_alone(beat: int | None) -> None:
    pulse = Pulse()
    assert not pulse.hangs(1, START, beat, 0.0)
    assert not pulse.hangs(1, START, beat, 100 * DEADLINE_S)
    assert "has not reached its ledger" in pulse.message


def test_another_process_has_a_deadline_of_its_own() -> None:
    pulse = Pulse()
    assert not pulse.hangs(1, START, BEAT, 0.0)
    assert not pulse.hangs(2, START, BEAT, DEADLINE_S + 1)
    assert not pulse.hangs(2, START, BEAT, 2 * DEADLINE_S)
    assert pulse.hangs(2, START, BEAT, 2 * DEADLINE_S + 1)


def test_one_that_ends_once_is_no_alarm() -> None:
    pulse = Pulse()
    pulse.hangs(1, START, BEAT, 0.0)
    pulse.hangs(None, START, BEAT, 1.0)
    pulse.hangs(2, START + 2, None, 2.0)
    pulse.hangs(2, START + 2, BEAT + 3 * 10**9, 3.0)
    assert not pulse.hangs(2, START + 2, BEAT + 3 * 10**9, 3.0 + ALARM_S - 0.1)
    assert pulse.alarms() == []


def test_one_that_keeps_ending_is_told_with_its_last_words() -> None:
    pulse = Pulse()
    for number in range(int(ALARM_S) + 1):
        assert not pulse.hangs(number or None, START, None, float(number), "the ledger is from a newer version")
    assert pulse.message.startswith("the collector keeps ending")
    assert pulse.message.endswith(": the ledger is from a newer version")
    pulse.hangs(99, START, BEAT, 100.0)
    assert pulse.message == ""


async def test_a_stopped_process_is_started_again(folder: RunFolder, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    script = f"while :; do touch {beat}; sleep 0.02; done"
    pulse = Pulse(alarm_s=1.0, deadline_s=2.0)
    with capture_logs() as logs:
        async with Supervisor(folder, Backoff(first=0.01)) as supervisor:
            await supervisor.start(Child("collector", ("/bin/sh", "-c", script)))
            watching = asyncio.create_task(watch(pulse, supervisor, "collector", beat, look_s=0.02))
            try:
                # The very first beat may come before the supervisor has noted when it started the process.
                since = state(supervisor).since.timestamp()
                await until(lambda: beat.exists() and beat.stat().st_mtime > since)
                first = state(supervisor).pid
                assert first is not None
                os.kill(first, signal.SIGSTOP)
                await until(lambda: bool(pulse.alarms()))
                await until(lambda: state(supervisor).restarts >= 1 and not pulse.alarms())
                assert state(supervisor).pid != first
            finally:
                watching.cancel()
    # A machine that stands still for a while makes an alarm, too.
    said = [line["event"] for line in logs if line["log_level"] == "error"]
    assert (said[0], "process hangs" in said) == ("alarm", True)


def test_explain_counts_in_the_time_until_a_collector_is_back() -> None:
    start_us = 3 * SECOND
    assert Backoff().most * SECOND + start_us < LAG.restart_us
    assert (DEADLINE_S + BEAT_S + Backoff().most) * SECOND + start_us < LAG.hung_us
    said = explain_overshoot(LAG)
    assert "in 15 s when the collector is killed, in 76 s when it hangs" in said
