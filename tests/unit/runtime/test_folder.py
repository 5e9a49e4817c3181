"""The run folder and the lock of a state folder."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.runtime import logfile
from controlplane.runtime.folder import LockedError, RunFolderError, lock, run_folder

HOLDER = (
    "import sys; from pathlib import Path; from controlplane.runtime.folder import lock\n"
    "with lock(Path(sys.argv[1])):\n"
    "    print('held', flush=True); sys.stdin.read()\n"
)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hg-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def test_it_is_private_short_and_always_the_same(runtime: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    assert folder == run_folder(tmp_path / "x" / "..")
    assert folder != run_folder(tmp_path / "other")
    assert folder.path.parent.parent == runtime
    for path in (folder.path, folder.path.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert all(
        len(path) <= 103 for path in (folder.xds_socket, folder.admin_socket, folder.service_socket.format("x" * 16))
    )


def test_a_long_runtime_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    folder = run_folder(tmp_path)
    try:
        assert folder.path.parent == Path(f"/tmp/headgate-{os.getuid()}")
    finally:
        folder.path.rmdir()


def test_a_folder_that_others_may_enter_is_refused(runtime: Path, tmp_path: Path) -> None:
    (runtime / f"headgate-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(RunFolderError, match=r"is open to others .*mode 0755"):
        run_folder(tmp_path)


def test_a_link_in_its_place_is_refused(runtime: Path, tmp_path: Path) -> None:
    (runtime / f"headgate-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(RunFolderError, match="is not a folder"):
        run_folder(tmp_path)


def test_files_are_private_and_whole(runtime: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    path = folder.write("bootstrap.pb", b"one")
    assert folder.write("bootstrap.pb", b"two") == path
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in folder.path.iterdir()] == ["bootstrap.pb"]


def test_one_control_plane_holds_a_state_folder(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"in use by process {holder.pid}") as caught, lock(state):
            pass
        assert caught.value.pid == holder.pid
        holder.kill()
    with lock(state):  # a killed holder holds nothing
        assert (state / "lock").read_text() == f"{os.getpid()}\n"
    with lock(state):
        pass


def test_a_state_folder_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"cannot use .*file"), lock(tmp_path / "file"):
        pass


def test_a_log_is_bounded_and_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert logfile.last_lines(log) == ()
    assert logfile.size(log) == 0
    with log.open("ab", buffering=0) as writer:
        writer.write(b"one\n" * 100)
        mark = logfile.size(log)
        writer.write(b"two\n\nthree\n" + b"4" * 600 + b"\n")
        assert logfile.last_lines(log, mark) == ("two", "three", "4" * 500 + "…")
        assert not logfile.bound(log, 10_000)
        assert logfile.bound(log, 500)
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    assert (tmp_path / "a.log.1").stat().st_size > 1000
