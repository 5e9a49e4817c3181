"""Whatever is done to the files of a log is found, and where."""

import json
import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.audit.entry import LONGEST_LINE, Actor, Event, Head, canonical, digest
from controlplane.audit.log import AuditLog
from controlplane.audit.read import read
from controlplane.audit.settings import Settings
from controlplane.audit.verify import MOST_PROBLEMS, Problem, Verified, head, verify

START = datetime(2026, 3, 1, tzinfo=UTC)
ENTRIES = 24
Chain = list[list[bytes]]  # the lines of each segment


def event(number: int) -> Event:
    return Event(Actor("user", "alice", "10.0.0.9"), "key.issued", f"key-{number}", {"team": "ml", "number": number})


def filled(folder: Path, entries: int, **sizes: int) -> AuditLog:
    times = iter(START + timedelta(minutes=n) for n in range(10**9))
    log = AuditLog.open(folder, Settings(**sizes), now=lambda: next(times))
    for number in range(entries):
        log.append(event(number))
    return log


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "audit"
    filled(folder, ENTRIES, segment_bytes=2500)
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "audit"))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("scratch")


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def problems(folder: Path, kept: Head | None = None) -> list[Problem]:
    found = verify(folder, kept)
    assert isinstance(found, list), found
    return found


def test_an_untouched_log_is_verified(original: Path) -> None:
    assert len(files(original)) > 2
    assert verify(original) == Verified(ENTRIES, 1, head(original))
    assert verify(original, head(original)) == verify(original)
    assert verify(original, Head(0, "0" * 64)) == verify(original)


def test_a_log_is_verified_without_its_lock_file(copy: Path) -> None:
    (copy / "lock").unlink()
    assert isinstance(verify(copy), Verified)


EDITS = ["byte", "newline", "remove", "swap", "duplicate", "insert", "move"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(EDITS), st.randoms(use_true_random=False))
def test_any_single_edit_is_found_at_its_place(original: Path, scratch: Path, edit: str, rng: random.Random) -> None:
    folder = scratch / "audit"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    path = rng.choice(files(folder))
    lines = path.read_bytes().splitlines(keepends=True)
    first = int(path.stem)
    # Cutting off the very end is the one edit that shows only against a kept head.
    is_last = path == files(folder)[-1]
    at = rng.randrange(len(lines))
    place = at
    if edit == "byte":
        spot = rng.randrange(len(lines[at]) - 1)
        lines[at] = lines[at][:spot] + bytes([lines[at][spot] ^ rng.randint(1, 255)]) + lines[at][spot + 1 :]
    elif edit == "newline":
        lines[at] = lines[at][:-1] + rng.choice([b"", b" ", b"\r\n", b"\n\n"])
    elif edit == "remove":
        at = place = rng.randrange(len(lines) - (1 if is_last else 0))
        del lines[at]
    elif edit == "swap":
        place, other = sorted(rng.sample(range(len(lines)), 2))
        lines[place], lines[other] = lines[other], lines[place]
    elif edit == "duplicate":
        lines.insert(at + 1, lines[at])
    elif edit == "insert":
        data = json.loads(lines[at]) | {"target": "somebody-else"}
        lines.insert(at, json.dumps(data, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    else:
        line = lines.pop(at)
        lines.insert(rng.choice([n for n in range(len(lines) + 1) if n != at]), line)
        place = min(at, next(n for n, line_ in enumerate(lines) if line_ is line))
    path.write_bytes(b"".join(lines))
    found = problems(folder, head(original))
    # In the line itself or the next one, which is the first of the next file at the end of a file.
    names = {path.name, *(later.name for later in files(folder)[files(folder).index(path) + 1 :][:1])}
    assert found[0].file in names
    assert found[0].file != path.name or found[0].line in (place + 1, place + 2), (found, place)
    assert found[0].seq is not None
    assert abs(found[0].seq - first - place) <= len(lines)
    assert found == problems(folder, head(original))


def forged(line: bytes, **changes: object) -> bytes:
    data = json.loads(line) | changes
    del data["hash"]
    own = digest(canonical(data))
    return canonical(data | {"hash": own}) + b"\n"


def write_anew(folder: Path, first_changed: int) -> None:
    """What a forger with write access does: changes an entry and computes all that follows anew."""
    before = b""
    for path in files(folder):
        lines = []
        for line in path.read_bytes().splitlines(keepends=True):
            seq = json.loads(line)["seq"]
            changes = {"target": "nobody"} if seq == first_changed else {}
            before = forged(line, prev=digest(before), **changes) if seq >= first_changed else line
            lines.append(before)
        path.write_bytes(b"".join(lines))


def test_a_log_written_anew_agrees_with_itself_but_not_with_a_kept_head(copy: Path) -> None:
    kept = head(copy)
    write_anew(copy, 5)
    assert isinstance(verify(copy), Verified)
    (found,) = problems(copy, kept)
    assert (found.seq, found.file) == (kept.seq, files(copy)[-1].name)
    assert "written anew" in found.what


def test_a_cut_end_shows_against_a_kept_head_only(copy: Path) -> None:
    kept = head(copy)
    files(copy)[-1].unlink()
    assert isinstance(verify(copy), Verified)
    (found,) = problems(copy, kept)
    assert "its end was cut off" in found.what


def test_a_kept_head_stays_good_while_the_log_grows(copy: Path) -> None:
    kept = head(copy)
    AuditLog.open(copy).append(event(99))
    assert isinstance(verify(copy, kept), Verified)


@pytest.mark.parametrize(
    ("which", "words"),
    [
        (0, "entries 1 to {before} are missing, and no entry says"),
        (1, "entries {first} to {before} are missing before"),
    ],
)
def test_a_removed_file_is_found(copy: Path, which: int, words: str) -> None:
    first, after = int(files(copy)[which].stem), files(copy)[which + 1]
    files(copy)[which].unlink()
    (found,) = problems(copy)
    assert (found.file, found.line, found.seq) == (after.name, 1, int(after.stem))
    assert words.format(first=first, before=int(after.stem) - 1) in found.what
    assert str(found).startswith(f"{after.name}:1: entry {int(after.stem)}: ")


def test_a_renamed_file_is_found(copy: Path) -> None:
    path = files(copy)[1]
    path.rename(copy / f"{int(path.stem) + 1:012d}.jsonl")
    (found,) = problems(copy)
    assert "by its name" in found.what


def test_a_line_too_long_and_a_torn_one_are_found(copy: Path) -> None:
    with files(copy)[0].open("ab") as file:
        file.write(b"x" * (3 * LONGEST_LINE) + b"\n")
    with files(copy)[-1].open("ab") as file:
        file.write(b'{"action":')
    found = problems(copy)
    assert "longer than 65536 bytes" in found[0].what
    assert "torn" in found[-1].what


def test_problems_are_bounded(copy: Path) -> None:
    files(copy)[0].write_bytes(b"x\n" * 1000)
    assert len(problems(copy)) == MOST_PROBLEMS


def test_no_folder_and_no_access_are_problems_and_an_empty_log_is_fine(tmp_path: Path) -> None:
    (found,) = problems(tmp_path / "nowhere")
    assert "cannot be read: No such file" in found.what
    AuditLog.open(tmp_path / "empty")
    assert verify(tmp_path / "empty") == Verified(0, 0, Head(0, "0" * 64))
    assert "cut off" in problems(tmp_path / "empty", Head(3, "ab" * 32))[0].what


def test_retention_removes_whole_segments_and_anchors_the_rest(tmp_path: Path) -> None:
    early = None
    log = filled(tmp_path / "audit", 10, segment_bytes=1000, keep_bytes=3000)
    early = head(tmp_path / "audit")
    for number in range(40):
        log.append(event(number))
    found = verify(tmp_path / "audit", head(tmp_path / "audit"))
    assert isinstance(found, Verified)
    assert found.first > 10
    assert sum(path.stat().st_size for path in files(tmp_path / "audit")) < 4500
    assert int(files(tmp_path / "audit")[0].stem) == found.first
    assert read(tmp_path / "audit", action="audit.trimmed").entries[0].details["first"] == found.first
    assert "cannot be compared" in problems(tmp_path / "audit", early)[0].what
    # More than what an entry about retention says is more than retention did.
    files(tmp_path / "audit")[0].unlink()
    assert "no entry says that retention removed" in problems(tmp_path / "audit")[0].what


def test_retention_by_age(tmp_path: Path) -> None:
    filled(tmp_path / "audit", 10, segment_bytes=1000)
    late = START + timedelta(days=30)
    log = AuditLog.open(tmp_path / "audit", Settings(keep_days=7), now=lambda: late)
    left = verify(tmp_path / "audit")
    assert isinstance(left, Verified)
    assert len(files(tmp_path / "audit")) == 1
    log.append(event(11))
    assert isinstance(verify(tmp_path / "audit"), Verified)


def test_retention_that_was_killed_midway_leaves_a_chain(tmp_path: Path) -> None:
    filled(tmp_path / "audit", 20, segment_bytes=1000)
    whole = {path: path.read_bytes() for path in files(tmp_path / "audit")}
    AuditLog.open(tmp_path / "audit", Settings(segment_bytes=1000, keep_bytes=2500))
    gone = [path for path in whole if not path.exists()]
    assert len(gone) > 2
    gone[-1].write_bytes(whole[gone[-1]])  # as if the kill had come before the last removal
    left = verify(tmp_path / "audit")
    assert isinstance(left, Verified)
    assert left.first == int(gone[-1].stem)


def test_an_anchor_with_another_digest_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    filled(folder, 20, segment_bytes=1000, keep_bytes=2500)
    first = int(files(folder)[0].stem)
    lines = files(folder)[0].read_bytes().splitlines(keepends=True)
    files(folder)[0].write_bytes(b"".join([forged(lines[0], prev="ab" * 32), *lines[1:]]))
    assert any(p.seq == first and "before the first entry" in p.what for p in problems(folder))


def test_reading_filters_orders_and_pages(original: Path) -> None:
    everything = read(original, limit=1000, newest=False)
    assert [entry.seq for entry in everything.entries] == list(range(1, ENTRIES + 1))
    newest = read(original, limit=1000)
    assert newest.entries == tuple(reversed(everything.entries))
    assert newest.damaged == 0
    page = read(original, limit=5)
    assert [entry.seq for entry in page.entries] == [24, 23, 22, 21, 20]
    assert [entry.seq for entry in read(original, limit=3, before=20).entries] == [19, 18, 17]
    assert read(original, since=everything.entries[20].at).entries == newest.entries[:4]
    assert len(read(original, action="key").entries) == ENTRIES
    assert read(original, action="ke").entries == read(original, action="key.issued.x").entries == ()
    assert read(original, limit=0).entries == ()


def test_reading_counts_damaged_lines(copy: Path) -> None:
    path = files(copy)[0]
    path.write_bytes(b"\n" + path.read_bytes().replace(b"alice", b"mallo", 1) + b"{")
    for newest in (True, False):
        page = read(copy, limit=1000, newest=newest)
        assert (len(page.entries), page.damaged) == (ENTRIES - 1, 3)
