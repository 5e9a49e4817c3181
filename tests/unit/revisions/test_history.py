"""The history of revisions, on real SQLite files."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from controlplane.revisions import migrate, schema
from controlplane.revisions.store import Revision, RevisionsError, Source, Store

AT = datetime(2026, 5, 1, 12, 30, 15, 250_000, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


def live(store: Store, text: str, source: Source = "api") -> Revision:
    return store.finish(store.begin(text, "v-" + text, "alice", "", source, AT).number, "live")


def test_a_revision_is_pending_until_it_is_finished(store: Store) -> None:
    begun = store.begin("version: 1\n", "abc", "alice", "more models", "file", AT)
    assert (begun.number, begun.state, begun.error, begun.parent) == (1, "pending", None, None)
    assert (begun.policy_text, begun.snapshot_version) == ("version: 1\n", "abc")
    assert (begun.who, begun.why, begun.source, begun.at) == ("alice", "more models", "file", AT)
    assert len(begun.policy_hash) == 64
    assert store.current() is None

    finished = store.finish(1, "live")
    assert finished.state == "live"
    assert store.current() == store.get(1) == finished


def test_going_live_supersedes_the_revision_before(store: Store) -> None:
    live(store, "a")
    live(store, "b")
    assert [(r.number, r.state) for r in store.list()] == [(2, "live"), (1, "superseded")]


@pytest.mark.parametrize("state", ["rejected", "rolled-back"])
def test_a_failed_push_leaves_the_live_revision_live(store: Store, state: str) -> None:
    live(store, "a")
    pending = store.begin("b", "v", "alice", "", "api", AT)
    failed = store.finish(pending.number, state, "a node said no")  # type: ignore[arg-type]
    assert (failed.state, failed.error) == (state, "a node said no")
    current = store.current()
    assert current is not None
    assert current.number == 1


def test_one_step_back_leads_to_the_policy_that_was_live_before(store: Store) -> None:
    live(store, "a")
    store.finish(store.begin("broken", "v", "alice", "", "api", AT).number, "rejected", "no")
    b = live(store, "b")
    previous = store.previous(b.number)
    assert previous is not None
    assert previous.policy_text == "a"
    assert store.previous(1) is None
    assert store.previous(99) is None


def test_the_same_policy_started_again_is_no_step(store: Store) -> None:
    live(store, "a")
    live(store, "b")
    again = live(store, "b", "start")
    previous = store.previous(again.number)
    assert previous is not None
    assert previous.policy_text == "a"


def test_steps_back_go_further_back(store: Store) -> None:
    for text in ("a", "b", "c"):
        live(store, text)
    current = store.current()
    seen = []
    while current is not None and (previous := store.previous(current.number)) is not None:
        current = live(store, previous.policy_text, "rollback")
        seen.append(current.policy_text)
    assert seen == ["b", "a"]
    assert [r.state for r in store.list()] == ["live", "rolled-back", "rolled-back", "superseded", "superseded"]


def test_list_goes_back_page_by_page(store: Store) -> None:
    for text in "abcde":
        live(store, text)
    assert [r.number for r in store.list(limit=2)] == [5, 4]
    assert [r.number for r in store.list(limit=2, before=4)] == [3, 2]
    assert store.get(17) is None


def test_times_are_kept_in_utc(store: Store) -> None:
    there = timezone(timedelta(hours=2))
    begun = store.begin("a", "v", "alice", "", "api", AT.astimezone(there))
    assert begun.at == AT
    assert begun.at.tzinfo is UTC
    with pytest.raises(Exception, match="a time without a time zone"):
        store.begin("a", "v", "alice", "", "api", AT.replace(tzinfo=None))


def test_finish_refuses_what_makes_no_sense(store: Store) -> None:
    number = store.begin("a", "v", "alice", "", "api", AT).number
    with pytest.raises(ValueError, match="cannot become superseded"):
        store.finish(number, "superseded")
    with pytest.raises(ValueError, match="cannot become rejected"):
        store.finish(number, "rejected")
    with pytest.raises(KeyError):
        store.finish(99, "live")
    store.finish(number, "live")
    with pytest.raises(ValueError, match="is live, not pending"):
        store.finish(number, "rejected", "too late")


def test_history_outlives_the_process_and_is_private(path: Path) -> None:
    path.touch(mode=0o644)
    with Store.open(path) as store:
        live(store, "a")
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {0o600}
    with Store.open(path) as store:
        current = store.current()
        assert current is not None
        assert current.policy_text == "a"


def test_a_killed_process_leaves_a_rejected_revision(path: Path) -> None:
    script = (
        "import os, signal, sys; from datetime import datetime, UTC; from pathlib import Path\n"
        "from controlplane.revisions.store import Store\n"
        "store = Store.open(Path(sys.argv[1]))\n"
        "store.finish(store.begin('a', 'v', 'x', '', 'start', datetime.now(UTC)).number, 'live')\n"
        "store.begin('b', 'v', 'x', '', 'file', datetime.now(UTC))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -9
    with Store.open(path, recover=False) as reader:
        assert [r.state for r in reader.list()] == ["pending", "live"]
    with Store.open(path) as store:
        left, before = store.list()
        assert (left.state, before.state) == ("rejected", "live")
        assert left.error is not None
        assert left.error.startswith("interrupted")


def test_threads_get_numbers_of_their_own(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: live(store, str(n)), range(24)))
    assert sorted(r.number for r in done) == list(range(1, 25))
    assert [r.state for r in store.list(limit=100)].count("live") == 1


def test_migrations_lead_to_the_tables_that_the_code_uses(path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]
    Store.open(path).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def test_alembic_is_imported_only_to_migrate(path: Path) -> None:
    Store.open(path).close()
    script = (
        "import sys; from pathlib import Path; from controlplane.revisions.store import Store\n"
        "Store.open(Path(sys.argv[1])).close(); print('alembic' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_a_full_disk_is_an_error_that_says_so(store: Store, path: Path) -> None:
    live(store, "a")
    with store._engine.connect() as connection:  # SQLite's own way to run out of space
        connection.exec_driver_sql("PRAGMA max_page_count = 8")
        connection.commit()
    with pytest.raises(RevisionsError, match=r"history\.db: database or disk is full\. Free some space") as caught:
        store.begin("x" * 200_000, "v", "alice", "", "api", AT)
    assert "xxx" not in str(caught.value)
    current = store.current()
    assert current is not None
    assert current.number == 1


def test_what_is_no_history_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RevisionsError, match=r"Not a directory|No such file"):
        Store.open(tmp_path / "absent" / "history.db")
    noise = tmp_path / "noise.db"
    noise.write_bytes(b"not a database at all" * 100)
    with pytest.raises(RevisionsError, match=r"file is not a database\. Move the file away"):
        Store.open(noise)
    with pytest.raises(RevisionsError, match="Is a directory"):
        Store.open(tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RevisionsError, match="Permission denied"):
        Store.open(tmp_path / "history.db")


def test_a_history_of_a_newer_version_is_an_error(path: Path) -> None:
    Store.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(RevisionsError, match="written by a newer version"):
        Store.open(path)
