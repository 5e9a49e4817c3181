"""The reserve against a full disk, on a small disk of its own."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.usage import collector as module
from extproc.usage.alarms import Alarms
from extproc.usage.ledger import LedgerUnavailable
from extproc.usage.reserve import Reserve
from tests.unit.collector.given import Place, drained, line

KIB = 1 << 10
DISK = 4096 * KIB
SIZE, LOW = 1024 * KIB, 128 * KIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system of its own cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def fill(folder: Path, leave: int = 0) -> Path:
    path = folder / "filling"
    with path.open("ab") as file, pytest.raises(OSError, match="No space") if not leave else file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size + free(folder) - leave)
        if not leave:
            file.write(b"x" * (64 * KIB))
            file.flush()
    return path


def reserve(folder: Path, alarms: Alarms) -> Reserve:
    return Reserve(folder / "reserve", alarms, SIZE, LOW)


def names(alarms: Alarms) -> list[str]:
    return [alarm["name"] for alarm in alarms.list()]


def test_it_takes_its_room_for_real(disk: Path) -> None:
    alarms = Alarms()
    made = reserve(disk, alarms)
    assert not made.held and made.due()
    made.look(None)
    assert made.held and not made.due()
    assert free(disk) <= DISK - SIZE
    assert (disk / "reserve").stat().st_mode & 0o777 == 0o600
    assert reserve(disk, alarms).held, "a restart finds it"
    assert names(alarms) == []


def test_a_file_with_a_hole_is_no_reserve(disk: Path) -> None:
    with (disk / "reserve").open("wb") as file:
        file.truncate(SIZE)
    made = reserve(disk, Alarms())
    assert not made.held
    made.look(None)
    assert made.held and free(disk) <= DISK - SIZE


def test_it_is_given_up_before_the_disk_is_full_and_made_anew(disk: Path) -> None:
    alarms = Alarms()
    made = reserve(disk, alarms)
    made.look(None)
    made.watch()
    assert made.held
    filling = fill(disk, leave=LOW // 2)
    made.watch()
    assert not made.held and not (disk / "reserve").exists()
    assert free(disk) >= SIZE
    assert names(alarms) == ["disk"]
    made.look(None)
    assert not made.held, "there is room for it, but for nothing else"
    filling.unlink()
    made.look(None)
    assert made.held and names(alarms) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "quota")])
def test_a_failure_that_says_so_gives_it_up(disk: Path, error: OSError) -> None:
    alarms = Alarms()
    made = reserve(disk, alarms)
    made.look(None)
    made.report(OSError(errno.EACCES, "no"))
    assert made.held
    made.report(error)
    assert not made.held and names(alarms) == ["disk"]


@pytest.mark.parametrize("text", ["database or disk is full", "could not extend file: No space left on device"])
def test_a_full_ledger_gives_it_up_where_its_disk_is_this_one(disk: Path, text: str) -> None:
    made = reserve(disk, Alarms())
    made.look(None)
    made.report(LedgerUnavailable(text))
    assert made.held, "a database elsewhere is full: there is room here"
    fill(disk, leave=LOW)
    made.report(LedgerUnavailable("database is locked"))
    assert made.held
    made.report(LedgerUnavailable(text))
    assert not made.held


def test_it_is_given_up_when_envoy_fails_to_write(disk: Path) -> None:
    alarms = Alarms()
    made = reserve(disk, alarms)
    for count in (7, 7, None, 2, 2):  # what was before it looked, an Envoy that is away, one that began anew
        made.look(count)
        assert made.held
    made.look(5)
    assert not made.held
    assert "3 times" in alarms.list()[0]["message"]
    made.look(5)
    assert made.held and names(alarms) == []


def test_a_disk_without_room_for_it_is_an_alarm(disk: Path) -> None:
    alarms = Alarms()
    fill(disk, leave=SIZE)
    made = reserve(disk, alarms)
    made.look(None)
    made.watch()
    assert not made.held
    assert "no room" in alarms.list()[0]["message"]


def test_a_folder_that_is_gone_is_an_alarm(tmp_path: Path) -> None:
    alarms = Alarms()
    made = Reserve(tmp_path / "absent" / "reserve", alarms)
    made.look(None)
    made.watch()
    assert names(alarms) == ["disk"]


def test_a_full_disk_under_everything(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log, ledger and what is told on one disk: entries go on into what was set aside, and nothing is lost."""
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    place = Place(disk)
    place.document()
    place.append(*(line(number) for number in range(100)))
    collector = place.collector()
    collector._reserve = Reserve(disk / "reserve", collector._alarms, SIZE, 0)  # not given up before a write fails
    try:
        drained(collector)
        assert collector._reserve.held
        filling = fill(disk)
        collector.finish()
        for _ in range(3):
            collector.step()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collector._told, "_content", b"")
            collector.finish()
        assert not collector._reserve.held
        place.append(*(line(number) for number in range(100, 400)))
        drained(collector).finish()
        assert "disk" in place.alarms()
        assert len(place.records()) == 400
        filling.unlink()
        collector._reserve.look(0)
        collector.finish()
        assert place.alarms() == {}
        assert collector._reserve.held
    finally:
        place.close()
