"""Supervising processes, whatever they are."""

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from controlplane.runtime import process
from controlplane.runtime.child import Backoff, Child
from controlplane.runtime.folder import RunFolder, run_folder
from controlplane.runtime.supervise import StartError, Supervisor
from tests.support.children import gone, shell, state, until


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    with tempfile.TemporaryDirectory(prefix="hg-") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        made = run_folder(tmp_path)
        yield made
        for record in made.path.glob("*.pid"):  # what a failed test left
            kill(**orjson.loads(record.read_bytes()))


def kill(pid: int, identity: str, **_: object) -> None:
    if process.identity(pid) == identity:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of the supervisor's business."""
    with subprocess.Popen(["sleep", "60"]) as running:
        yield running
        running.kill()


async def test_an_adopted_process_that_dies_is_restarted(folder: RunFolder) -> None:
    first = Supervisor(folder)
    began = await first.start(shell("exec sleep 60"))
    await first.leave()
    assert first.states() == ()
    async with Supervisor(folder) as supervisor:
        adopted = await supervisor.start(shell("exec sleep 60"))
        assert (adopted.pid, adopted.since) == (began.pid, began.since)
        assert began.pid is not None
        os.kill(began.pid, signal.SIGKILL)
        await until(lambda: state(supervisor).restarts == 1)
        assert not state(supervisor).adopted
        assert "exit status" in (state(supervisor).last_exit or "")


async def test_a_process_that_keeps_ending_is_restarted_ever_more_slowly(folder: RunFolder) -> None:
    async with Supervisor(folder, Backoff(first=0.001, most=0.004)) as supervisor:
        await supervisor.start(shell("echo cannot find the model; exit 3"))
        await until(lambda: state(supervisor).restarts >= 4)
        assert state(supervisor).last_exit == "ended with exit code 3"
        assert state(supervisor).last_log == ("cannot find the model",)
    backoff = Backoff(first=1, most=5, calm_s=30)
    pauses = [backoff.after(None, 0)]
    for _ in range(4):
        pauses.append(backoff.after(pauses[-1], 0.1))
    assert pauses == [1, 2, 4, 5, 5]
    assert backoff.after(5, 31) == 1


async def test_cancelling_again_cuts_the_drain_short(folder: RunFolder) -> None:
    started = asyncio.Event()
    draining = asyncio.Event()
    pids: list[int | None] = []

    async def drain() -> None:
        draining.set()
        await asyncio.Event().wait()

    async def gateway() -> None:
        async with Supervisor(folder) as supervisor:
            for name in ("a", "b"):
                child = Child(name, ("/bin/sleep", "60"), drain=drain if name == "b" else None, drain_s=60)
                pids.append((await supervisor.start(child)).pid)
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(gateway())
    await started.wait()
    task.cancel()
    await draining.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)
    assert all(gone(pid) for pid in pids)


async def test_in_a_hurry_nothing_is_drained(folder: RunFolder) -> None:
    async def drain() -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(30), Supervisor(folder) as supervisor:
        started = await supervisor.start(Child("slow", ("/bin/sleep", "60"), drain=drain, drain_s=60))
        supervisor.hurry()
    assert gone(started.pid)


async def test_what_ignores_sigterm_is_killed(folder: RunFolder) -> None:
    async with Supervisor(folder) as supervisor:
        started = await supervisor.start(shell("trap '' TERM; echo deaf; while :; do sleep 0.05; done", stop_s=0.1))
        await until(lambda: "deaf" in folder.log("shell").read_text())
    assert gone(started.pid)


@pytest.mark.parametrize(
    "record", [b"{}", b"not json", b'{"pid": 1}', b'{"pid": 4194305, "identity": "x", "fingerprint": "", "since": 0}']
)
async def test_a_broken_record_is_no_process(folder: RunFolder, record: bytes) -> None:
    folder.record("shell").write_bytes(record)
    async with Supervisor(folder) as supervisor:
        assert not (await supervisor.start(shell("exec sleep 60"))).adopted


async def test_a_recycled_process_number_is_left_alone(folder: RunFolder, bystander: subprocess.Popen[bytes]) -> None:
    child = shell("exec sleep 60")
    record = {"pid": bystander.pid, "identity": "an/earlier-one", "fingerprint": child.fingerprint(), "since": 0}
    folder.record("shell").write_bytes(orjson.dumps(record))
    async with Supervisor(folder) as supervisor:
        started = await supervisor.start(child)
        assert not started.adopted
        assert started.pid != bystander.pid
    assert bystander.poll() is None


async def test_without_pidfd_processes_are_watched_too(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_pidfd_open", lambda _: None)
    monkeypatch.setattr(process, "_POLL_S", 0.01)
    first = Supervisor(folder)
    began = await first.start(shell("exec sleep 60"))
    await first.leave()
    async with Supervisor(folder) as supervisor:
        adopted = await supervisor.start(shell("exec sleep 60"))
        assert adopted.pid == began.pid
        assert began.pid is not None
        os.kill(began.pid, signal.SIGKILL)
        await until(lambda: state(supervisor).restarts == 1)
        restarted = state(supervisor)
    assert gone(restarted.pid)


async def test_a_program_that_is_not_there_is_an_error(folder: RunFolder) -> None:
    async with Supervisor(folder) as supervisor:
        with pytest.raises(StartError, match=r"cannot start x \(/no/such\): No such file or directory"):
            await supervisor.start(Child("x", ("/no/such",)))
        assert supervisor.states() == ()


async def test_a_child_gets_only_its_own_environment(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    child = Child("env", ("/bin/sh", "-c", "env; echo end; exec sleep 60"), env={"MODEL": "minilm"})
    async with Supervisor(folder) as supervisor:
        await supervisor.start(child)
        await until(lambda: "end" in folder.log("env").read_text())
    said = folder.log("env").read_text()
    assert "MODEL=minilm" in said
    assert "sk-secret" not in said
    assert "minilm" not in repr(child)


async def test_children_may_open_as_many_files_as_the_system_permits(folder: RunFolder) -> None:
    limit = process.raise_file_limit()
    assert process.raise_file_limit() == limit
    assert 256 <= process.connection_limit() <= max(limit // 2, 256)
    async with Supervisor(folder) as supervisor:
        await supervisor.start(shell("ulimit -n; exec sleep 60"))
        await until(lambda: folder.log("shell").read_text() == f"{limit}\n")


async def test_the_fingerprint_covers_what_a_process_starts_from(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("1")
    child = Child("x", (str(program),), {"A": "1"}, (b"1",))
    others = [
        replace(child, argv=(str(program), "-v")),
        replace(child, env={"A": "2"}),
        replace(child, inputs=(b"2",)),
        replace(child, inputs=(b"1", b"")),
    ]
    assert len({c.fingerprint() for c in (child, *others)}) == 5
    assert replace(child, drain_s=9).fingerprint() == child.fingerprint()
    before = child.fingerprint()
    program.write_text("upgraded")
    assert child.fingerprint() != before


def parent(marks: Path) -> Child:
    """A process with one of its own, which is deaf to SIGTERM; each writes its number into a file."""
    script = f"sh -c \"trap '' TERM; echo \\$\\$ > {marks}/child; while :; do sleep 0.05; done\" & exec sleep 60"
    return replace(shell(script), family=True)


async def number(file: Path) -> int:
    await until(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text())


async def test_what_a_process_started_ends_with_it(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_FAMILY_S", 0.1)
    async with Supervisor(folder, Backoff(first=0.001)) as supervisor:
        pid = (await supervisor.start(parent(tmp_path))).pid
        assert pid is not None
        first = await number(tmp_path / "child")
        (tmp_path / "child").unlink()
        os.kill(pid, signal.SIGKILL)
        second = await number(tmp_path / "child")
        assert gone(first), "it ended before the next run began"
    assert gone(second)


async def test_what_a_process_left_behind_while_nobody_watched_is_ended(folder: RunFolder, tmp_path: Path) -> None:
    first = Supervisor(folder)
    pid = (await first.start(parent(tmp_path))).pid
    assert pid is not None
    left = await number(tmp_path / "child")
    await first.leave()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # noqa: ASYNC222 - it is dead
    (tmp_path / "child").unlink()
    async with Supervisor(folder) as supervisor:
        await supervisor.start(parent(tmp_path))
        assert gone(left)
        await number(tmp_path / "child")


async def test_stale_files_are_removed_before_every_start_and_at_the_end(folder: RunFolder, tmp_path: Path) -> None:
    stale = tmp_path / "socket"
    stale.touch()
    child = replace(shell(f"if test -e {stale}; then exit 5; fi; touch {stale}; exit 4"), stale=(stale,))
    async with Supervisor(folder, Backoff(first=0.001, most=0.001)) as supervisor:
        await supervisor.start(child)
        await until(lambda: state(supervisor).restarts >= 2)
        assert state(supervisor).last_exit == "ended with exit code 4"
    assert not stale.exists()


async def test_one_that_is_slow_to_end_holds_no_other_up(folder: RunFolder) -> None:
    draining, drained = asyncio.Event(), asyncio.Event()

    async def drain() -> None:
        draining.set()
        await drained.wait()

    async with Supervisor(folder) as supervisor:
        await supervisor.start(Child("slow", ("/bin/sleep", "60"), drain=drain, drain_s=60))
        stopping = asyncio.create_task(supervisor.stop("slow"))
        await draining.wait()
        await asyncio.wait_for(supervisor.start(shell("exec sleep 60")), 30)
        drained.set()
        await stopping
