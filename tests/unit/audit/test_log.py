"""Appending: killed processes, several writers, full disks, clocks that step back."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.audit.entry import SYSTEM, Event, Head, digest
from controlplane.audit.log import AuditLog, AuditUnavailableError
from controlplane.audit.read import read
from controlplane.audit.settings import Settings
from controlplane.audit.verify import Verified, head, verify

ROOT = Path(__file__).parents[3]
APPENDS = """
import sys
from pathlib import Path
from controlplane.audit.entry import SYSTEM, Event
from controlplane.audit.log import AuditLog
from controlplane.audit.settings import Settings
log = AuditLog.open(Path(sys.argv[1]), Settings(segment_bytes=20_000, lock_s=60))
for number in range(int(sys.argv[3])):
    print(log.append(Event(SYSTEM, "test.appended", sys.argv[2], {"number": number})).seq, flush=True)
"""
LIMITED = """
import json, resource, sys
from pathlib import Path
from controlplane.audit.entry import SYSTEM, Event
from controlplane.audit.log import AuditLog, AuditUnavailableError
log = AuditLog.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
said = ""
for number in range(20):
    try:
        log.append(Event(SYSTEM, "test.appended", "x", {"number": number}))
    except AuditUnavailableError as error:
        said = str(error)
waited = log.waiting
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.flush()
print(json.dumps([said, waited, log.waiting, log.trouble]))
"""


def event(number: int = 0, target: str = "x") -> Event:
    return Event(SYSTEM, "test.appended", target, {"number": number})


def verified(folder: Path, kept: Head | None = None) -> Verified:
    found = verify(folder, kept)
    assert isinstance(found, Verified), found
    return found


def child(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", APPENDS, str(folder), name, str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(60)
    assert process.stdout
    process.stdout.close()


def test_an_appended_entry_is_on_disk_and_private(tmp_path: Path) -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    log = AuditLog.open(tmp_path / "state" / "audit", now=lambda: now)
    entry = log.append(event(7))
    assert (entry.seq, entry.at, entry.details, entry.prev) == (1, now, {"number": 7}, "0" * 64)
    path = tmp_path / "state" / "audit" / "000000000001.jsonl"
    assert read(path.parent).entries == (entry,)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert head(path.parent) == Head(1, digest(path.read_bytes()))


def test_many_entries_at_once_and_in_segments(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, Settings(segment_bytes=1000))
    assert [entry.seq for entry in log.extend(event(n) for n in range(10))] == list(range(1, 11))
    assert log.extend([]) == ()
    assert log.append(event(10)).seq == 11
    assert all(path.stat().st_size <= 1000 for path in tmp_path.glob("*.jsonl"))
    assert verified(tmp_path).entries == 11


def test_a_line_longer_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, Settings(segment_bytes=10))
    log.extend(event(n) for n in range(3))
    assert len(list(tmp_path.glob("*.jsonl"))) == 3
    assert verified(tmp_path).entries == 3


def test_a_log_opened_again_goes_on(tmp_path: Path) -> None:
    AuditLog.open(tmp_path).append(event())
    assert AuditLog.open(tmp_path).append(event()).seq == 2
    assert verified(tmp_path) == Verified(2, 1, head(tmp_path))


def test_a_clock_that_steps_back_changes_nothing_about_the_order(tmp_path: Path) -> None:
    times = [datetime(2026, 3, 1, 12, tzinfo=UTC) - timedelta(days=n) for n in range(20)]
    log = AuditLog.open(tmp_path, now=lambda: times.pop(0))
    log.append(event())
    log.append(event())
    first, second = read(tmp_path, newest=False).entries
    assert (first.seq, second.seq) == (1, 2)
    assert second.at < first.at
    assert read(tmp_path, since=first.at).entries == (first,)
    verified(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_torn_end_is_set_aside_and_recorded(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("torn")
    log = AuditLog.open(folder, Settings(segment_bytes=700))
    log.extend(event(n) for n in range(data.draw(st.integers(1, 5))))
    path = max(folder.glob("*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    seq = verified(folder).head.seq
    cut = data.draw(st.integers(1, len(lines[-1]) - 1))
    path.write_bytes(b"".join(lines)[:-cut])
    torn = lines[-1][:-cut]
    assert isinstance(verify(folder), list)
    # The next one to append recovers, also after a kill at any step of an earlier recovery.
    step = data.draw(st.sampled_from(["none", "copied", "cut", "again"]))
    aside = folder / f"{seq:012d}.torn"
    if step != "none":
        aside.write_bytes(torn)
    if step in {"cut", "again"}:
        path.write_bytes(b"".join(lines[:-1]))
    if step == "again":
        path.write_bytes(b"".join([*lines[:-1], b'{"action":"audit.rec']))
        torn += b'{"action":"audit.rec'
    AuditLog.open(folder)
    entry = read(folder, limit=1).entries[0]
    assert (entry.seq, entry.action) == (seq, "audit.recovered")
    assert entry.details == {"file": aside.name, "bytes": len(torn), "sha256": digest(torn)}
    assert aside.read_bytes() == torn
    assert log.append(event()).seq == seq + 1
    verified(folder)


def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged = 0
    for round_ in range(4):
        process = child(tmp_path, str(round_), 10**6)
        try:
            assert process.stdout
            for _ in range(15 + 7 * round_):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().split("\n")
            acknowledged = max([acknowledged, *(int(word) for word in rest[:-1])])
        finally:
            end(process)
        log = AuditLog.open(tmp_path)
        assert log.trouble is None
        assert verified(tmp_path).head.seq >= acknowledged
    assert verified(tmp_path, head(tmp_path)).first == 1


def test_two_processes_and_threads_append_to_one_chain(tmp_path: Path) -> None:
    children = [child(tmp_path, name, 60) for name in ("left", "right")]
    try:
        log = AuditLog.open(tmp_path, Settings(segment_bytes=20_000, lock_s=60))
        threads = [
            threading.Thread(target=lambda name=name: [log.append(event(n, name)) for n in range(30)])
            for name in ("one", "two")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [process.wait(60) for process in children] == [0, 0]
    finally:
        for process in children:
            end(process)
    assert verified(tmp_path).entries == 180
    entries = read(tmp_path, limit=1000, newest=False).entries
    for name, count in {"left": 60, "right": 60, "one": 30, "two": 30}.items():
        assert [e.details["number"] for e in entries if e.target == name] == list(range(count))
    assert len(list(tmp_path.glob("*.jsonl"))) > 1


def test_a_log_can_be_verified_and_read_while_it_grows(tmp_path: Path) -> None:
    small = Settings(segment_bytes=2000, keep_bytes=6000)
    log = AuditLog.open(tmp_path, small)
    stop = threading.Event()

    def grow() -> None:
        while not stop.is_set():
            log.append(event())

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        first, began = 1, time.monotonic()
        while time.monotonic() < began + 1 or (first == 1 and time.monotonic() < began + 60):
            first = verified(tmp_path).first
            assert read(tmp_path, limit=20).damaged == 0
    finally:
        stop.set()
        thread.join(60)
    assert verified(tmp_path).first > 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few kilobytes, where we may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs takes root; the test with RLIMIT_FSIZE runs everywhere")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_is_told_and_what_happened_is_written_later(small_disk: Path) -> None:
    folder = small_disk / "audit"
    log = AuditLog.open(folder, Settings(waiting=5))
    fine = 0
    fill(small_disk)
    with pytest.raises(AuditUnavailableError) as raised:
        for number in range(200):
            log.append(event(number))
            fine += 1
    assert raised.value.waiting == log.waiting == 1
    assert "No space left on device. 1 entries wait in memory. Check the free space" in str(raised.value)
    assert log.trouble == "No space left on device"
    assert verified(folder).entries == fine
    for number in range(7):
        with pytest.raises(AuditUnavailableError) as raised:
            log.append(event(fine + 1 + number))
    assert (raised.value.waiting, raised.value.lost) == (5, 3)
    (small_disk / "filler").unlink()
    entry = log.append(event(1000))
    assert (log.waiting, log.trouble) == (0, None)
    assert "delayed" not in entry.details
    *late, lost, last = read(folder, limit=7).entries[::-1]
    assert last == entry
    assert (lost.action, lost.details["entries"]) == ("audit.lost", 3)
    assert [e.details for e in late] == [{"number": fine + n, "delayed": True} for n in range(5)]
    assert verified(folder).head.seq == fine + 7


def test_a_log_opens_on_a_full_disk(small_disk: Path) -> None:
    folder = small_disk / "audit"
    AuditLog.open(folder).append(event())
    torn = min(folder.glob("*.jsonl"))
    fill(small_disk)
    torn.write_bytes(torn.read_bytes()[:-1])
    log = AuditLog.open(folder)
    assert log.trouble == "No space left on device"
    assert verify(folder) != []
    (small_disk / "filler").unlink()
    log.append(event())
    assert [entry.action for entry in read(folder).entries] == ["test.appended", "audit.recovered"]
    verified(folder)


def test_a_file_that_may_not_grow_is_like_a_full_disk(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    said, waited, left, trouble = json.loads(run.stdout)
    assert f"File too large. {waited} entries wait in memory" in said
    assert (left, trouble) == (0, None)
    assert waited > 10
    entries = read(tmp_path, newest=False).entries
    assert [entry.details["number"] for entry in entries] == list(range(20))
    assert sum("delayed" in entry.details for entry in entries) == waited
    verified(tmp_path)


def test_a_lock_that_is_held_is_waited_for_and_told(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, Settings(lock_s=0.05))
    handle = os.open(tmp_path / "lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(AuditUnavailableError, match=r"another process held its lock for 0\.05 s"):
            log.append(event(1))
    finally:
        os.close(handle)
    log.flush()
    (entry,) = read(tmp_path).entries
    assert entry.details == {"number": 1, "delayed": True}


def test_a_folder_that_cannot_be_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditUnavailableError, match="Not a directory"):
        AuditLog.open(tmp_path / "file" / "audit")


@pytest.mark.parametrize("how", ["last line", "whole folder"])
def test_lines_taken_from_a_log_in_use_leave_a_gap(tmp_path: Path, how: str) -> None:
    log = AuditLog.open(tmp_path)
    log.extend(event(n) for n in range(5))
    path = tmp_path / "000000000001.jsonl"
    if how == "last line":
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    else:
        path.unlink()
    assert log.append(event()).seq == 6
    (found,) = verify(tmp_path)  # type: ignore[misc]
    assert "missing" in found.what
    assert found.seq == 6


def test_a_damaged_last_line_is_built_upon_and_reported(tmp_path: Path) -> None:
    AuditLog.open(tmp_path).extend(event(n) for n in range(3))
    path = tmp_path / "000000000001.jsonl"
    path.write_bytes(path.read_bytes()[:-3] + b"zz\n")
    assert AuditLog.open(tmp_path).append(event()).seq == 4
    (found,) = verify(tmp_path)  # type: ignore[misc]
    assert (found.line, found.seq, found.what) == (3, 3, "not JSON")


def test_a_segment_that_was_begun_and_not_written_is_used(tmp_path: Path) -> None:
    AuditLog.open(tmp_path).extend(event(n) for n in range(3))
    (tmp_path / "000000000004.jsonl").touch()
    verified(tmp_path)
    assert AuditLog.open(tmp_path).append(event()).seq == 4
    assert (tmp_path / "000000000004.jsonl").stat().st_size
    assert verified(tmp_path).entries == 4


def test_a_link_in_place_of_a_segment_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    folder = tmp_path / "audit"
    log = AuditLog.open(folder)
    (folder / "000000000001.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditUnavailableError, match="symbolic link"):
        log.append(event())
    assert (tmp_path / "elsewhere").stat().st_size == 0
