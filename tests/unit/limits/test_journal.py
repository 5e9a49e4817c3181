"""A store that is started again knows what it knew, whenever it was killed."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.limits import journal
from extproc.limits.journal import Journal
from extproc.limits.memory import MemoryStore
from extproc.limits.stores import Bucket, Charge, Form, Hold
from extproc.usage.windows import SECOND

HOUR = 3600 * SECOND
DAY_END = 24 * HOUR
BUCKETS = (Bucket("calendar", Form.CALENDAR, SECOND), Bucket("rolling", Form.ROLLING, 24 * HOUR // 64))
SHORT = Bucket("short", Form.ROLLING, SECOND)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000 * SECOND

    def __call__(self) -> int:
        return self.now


def hold(bucket: Bucket, ask: int, lease_us: int = HOUR) -> Hold:
    return Hold(bucket, 10**9, ask, ask, lease_us, (DAY_END,) if bucket.form is Form.CALENDAR else ())


def charge(bucket: Bucket, held: int, actual: int) -> Charge:
    return Charge(bucket, held, actual, HOUR, DAY_END if bucket.form is Form.CALENDAR else 0)


def used(store: MemoryStore) -> list[int]:
    return [store.reserve_now("look", [hold(bucket, 0)]).standings[0].used for bucket in BUCKETS]


steps = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle", "wait", "restart"]),
        st.sampled_from(BUCKETS),
        st.integers(1, 50),
        st.integers(0, 4),
    ),
    max_size=25,
)


@given(steps)
@settings(deadline=None, max_examples=60)
def test_a_restart_changes_nothing(steps: list[tuple[str, Bucket, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock, path = Clock(), Path(folder) / "journal"
        plain, kept = MemoryStore(clock), MemoryStore(clock, Journal(path))
        for what, bucket, amount, call in steps:
            if what == "restart":
                kept = MemoryStore(clock, Journal(path))  # the other was killed: nothing was closed
            elif what == "wait":
                clock.now += amount * 60 * SECOND
            for store in (plain, kept):
                if what == "reserve":
                    store.reserve_now(f"{bucket.key}{call}", [hold(bucket, amount)])
                elif what == "settle":
                    store.settle_now(f"{bucket.key}{call}", [charge(bucket, amount, amount // 2)])
            assert used(kept) == used(plain)


def test_a_torn_line_and_short_windows_are_left_out(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "journal"
    store = MemoryStore(clock, Journal(path))
    store.reserve_now("a", [hold(BUCKETS[0], 7), hold(SHORT, 5)])
    path.write_bytes(path.read_bytes() + b'["t",12,"b",[["cal')
    again = MemoryStore(clock, Journal(path))
    assert used(again) == [7, 0]
    assert again.reserve_now("c", [hold(SHORT, 0)]).standings[0].used == 0
    assert b'"cal' not in path.read_bytes().splitlines()[-1][-6:]


def test_a_journal_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    store = MemoryStore(Clock(), Journal(tmp_path / "absent" / "journal"))
    assert store.reserve_now("a", [hold(BUCKETS[0], 7)]).taken
    assert used(store)[0] == 7


def test_it_does_not_grow_for_ever(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "journal"
    store = MemoryStore(clock, Journal(path, most=10))
    for number in range(100):
        store.reserve_now(str(number), [hold(BUCKETS[0], 1, 0)])
    assert len(path.read_bytes().splitlines()) <= 12
    assert used(MemoryStore(clock, Journal(path)))[0] == 100


def test_what_a_full_disk_kept_out_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = Clock(), tmp_path / "journal"
    store = MemoryStore(clock, Journal(path))
    store.reserve_now("a", [hold(BUCKETS[0], 7, 0)])
    real, full = os.write, True

    def write(handle: int, content: bytes) -> int:
        if full and len(content) < 4:
            raise OSError(errno.ENOSPC, "no space left")
        return real(handle, content[:3] if full else content)  # torn in the middle of a line

    monkeypatch.setattr(journal.os, "write", write)
    monkeypatch.setattr(journal, "_AGAIN", 3)
    for number in range(5):
        store.reserve_now(f"b{number}", [hold(BUCKETS[0], 1, 0)])
    assert sorted(tmp_path.iterdir()) == [path]
    full = False
    for number in range(3):
        store.reserve_now(f"c{number}", [hold(BUCKETS[0], 1, 0)])
    assert used(MemoryStore(clock, Journal(path)))[0] == 7 + 5 + 3
