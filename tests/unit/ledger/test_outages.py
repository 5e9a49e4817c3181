"""Databases that are absent, locked, full, newer or killed; writers that are killed."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from extproc.usage.ledger import Ledger, LedgerUnavailable, NewerLedgerError, migrate, schema
from extproc.usage.ledger import database as database_module
from tests.support.postgres import PostgresServer
from tests.unit.ledger.usage_records import MAY_1, SECOND, record

EVER = 2**52


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One that may be stopped."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are waited for a moment only."""
    monkeypatch.setattr(database_module, "_BUSY_MS", 20)
    monkeypatch.setitem(database_module._POSTGRES_DEFAULTS, "options", "-c lock_timeout=20")


WRITER = """
import sys
from extproc.usage.ledger import Ledger
from tests.unit.ledger.usage_records import record
with Ledger.open(sys.argv[1]) as ledger:
    at = ledger.position("log")
    while True:  # the log's records number `at` to `at + 50`; the first ten are read a second time
        batch = [record(n, cost_pico=n) for n in range(max(0, at - 10), at + 50)]
        at += 50
        ledger.write(batch, "log", at)
        print(at, flush=True)
"""


def test_a_killed_writer_goes_on_where_it_was(url: str) -> None:
    told = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
            try:
                assert writer.stdout is not None
                for _ in range(8):
                    told = int(writer.stdout.readline())
            finally:
                writer.kill()
        with closing(Ledger.open(url)) as ledger:
            position = -1
            while position != (position := ledger.position("log")):  # a server may still end what was asked of it
                spent = ledger.spent("", "", 0, EVER)
                (row,) = ledger.usage([], 0, EVER)
        assert position >= told
        assert spent.requests == row.requests == position
        assert spent.cost_pico == sum(range(position))


def test_many_may_open_a_new_ledger_at_once(url: str) -> None:
    script = "import sys; from extproc.usage.ledger import Ledger; Ledger.open(sys.argv[1]).close()"
    processes = [subprocess.Popen([sys.executable, "-c", script, url], stderr=subprocess.PIPE) for _ in range(4)]
    errors = [process.communicate()[1].decode() for process in processes]
    assert errors == [""] * 4


def test_postgresql_may_go_away_and_come_back(own_server: PostgresServer) -> None:
    with closing(Ledger.open(own_server.database())) as ledger:
        ledger.write([record(1)], "log", 1)
        for how in (signal.SIGINT, signal.SIGQUIT):
            before = ledger.position("log")
            own_server.stop(how)
            for _ in range(2):
                with pytest.raises(LedgerUnavailable, match="cannot use the ledger postgresql"):
                    ledger.write([record(before + 1)], "log", before + 1)
                with pytest.raises(LedgerUnavailable):
                    ledger.usage([], 0, EVER)
            own_server.start()
            assert len(ledger.write([record(before), record(before + 1)], "log", before + 1)) == 1
        assert ledger.spent("", "", 0, EVER).requests == ledger.position("log") == 3


def test_a_server_restarted_between_two_calls_is_not_noticed(own_server: PostgresServer) -> None:
    with closing(Ledger.open(own_server.database())) as ledger:
        own_server.stop()
        own_server.start()
        ledger.write([record(1)], "log", 1)


def test_a_locked_database_is_unavailable_until_it_is_free(url: str, impatient: None) -> None:
    with closing(Ledger.open(url)) as holder, closing(Ledger.open(url)) as ledger:
        with holder._database.writing(), pytest.raises(LedgerUnavailable, match=r"lock.*it is tried again"):
            ledger.write([record(1)], "log", 1)
        assert len(ledger.write([record(1)], "log", 1)) == 1


def test_a_full_disk_keeps_what_was_written(path: Path) -> None:
    with closing(Ledger.open(f"sqlite:///{path}")) as ledger:
        ledger.write([record(1)], "log", 1)
        with ledger._database.reading() as connection:  # the limit goes with the connection, as a full disk may
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerUnavailable, match=r"full\. Free some space"):
            ledger.write([record(n) for n in range(2000)], "log", 2000)
        assert ledger.position("log") == 1
        assert len(ledger.write([record(n) for n in range(2000)], "log", 2000)) == 1999
        assert ledger.spent("", "", 0, EVER).requests == 2000


def test_an_absent_folder_is_unavailable(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'absent' / 'ledger.db'}"
    with pytest.raises(LedgerUnavailable, match=r"ledger.db: No such file or directory\. Check that it is there"):
        Ledger.open(url)
    (tmp_path / "absent").mkdir()
    Ledger.open(url).close()


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_text("not a database at all" * 100)
    with pytest.raises(LedgerUnavailable, match=r"not a database\. Move the file away"):
        Ledger.open(f"sqlite:///{path}")


def test_a_file_that_was_removed_is_noticed_and_made_again(path: Path) -> None:
    with closing(Ledger.open(f"sqlite:///{path}")) as ledger:
        ledger.write([record(1)], "log", 1)
        for file in path.parent.iterdir():
            file.unlink()
        with pytest.raises(LedgerUnavailable, match="No such file"):
            ledger.write([record(2)], "log", 2)
        assert ledger.write([record(2)], "log", 2) == (record(2),)
        assert [row.group["key"] for row in ledger.usage(["key"], 0, EVER)] == ["alice"]


def test_the_file_is_private(path: Path) -> None:
    path.touch(mode=0o644)
    with closing(Ledger.open(f"sqlite:///{path}")) as ledger:
        ledger.write([record(1)], "log", 1)
        assert {oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()} == {"0o600"}


def test_no_message_holds_the_password(tmp_path: Path) -> None:
    for url in (
        f"postgresql://user:hunter2@/name?host={tmp_path}",
        f"postgresql://user@/name?host={tmp_path}&password=hunter2",
    ):
        with pytest.raises(LedgerUnavailable, match=r"cannot use the ledger postgresql\+psycopg://user") as caught:
            Ledger.open(url)
        assert "hunter2" not in str(caught.value)
    for url in ("mysql://user:hunter2@host/name", "hunter2", "postgresql://user:hunter2@host:port/name", "sqlite://"):
        with pytest.raises(ValueError, match="expected") as refused:
            Ledger.open(url)
        assert "hunter2" not in str(refused.value)


def test_a_newer_schema_is_refused(url: str) -> None:
    with closing(Ledger.open(url)) as ledger, ledger._database.writing() as connection:
        connection.exec_driver_sql("UPDATE usage_version SET version_num = '9999'")
    with pytest.raises(NewerLedgerError, match=r"written by a newer version \(its schema is 9999\). Upgrade headgate"):
        Ledger.open(url)


def _comparable(_: object, name: str | None, *__: object) -> bool:
    return name != "usage_records_request"


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_migrations_make_the_tables_that_the_code_knows(url: str) -> None:
    Ledger.open(url).close()
    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD
    # An index of an expression cannot be compared; a test of its own sees that it is used.
    opts = {"version_table": schema.VERSION_TABLE, "include_object": _comparable}
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts=opts)
            assert compare_metadata(context, schema.metadata) == []
    finally:
        engine.dispose()


def test_bounds_of_the_migrations_are_those_of_the_code(path: Path) -> None:
    with closing(Ledger.open(f"sqlite:///{path}")), closing(sqlite3.connect(path)) as connection:
        (made,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'usage_records'").fetchone()
    for name, limit in schema.BOUNDED.items():
        assert f"{name} BETWEEN 0 AND {limit}" in made
    assert f"length(id) <= {schema.ID_LIMIT}" in made


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_connections_do_not_outlive_a_failure(url: str) -> None:
    with closing(Ledger.open(url)) as ledger:
        pid = _backend(ledger)
        with closing(Ledger.open(url)) as other, other._database.writing() as connection:
            connection.exec_driver_sql("SELECT pg_terminate_backend(%s)", (pid,))
        ledger.write([record(1, MAY_1 + SECOND)], "log", 1)
        assert _backend(ledger) != pid


def _backend(ledger: Ledger) -> int:
    with ledger._database.reading() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
    assert isinstance(pid, int)
    return pid
