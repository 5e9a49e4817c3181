"""A database that may go away and come back: SQLite or PostgreSQL, opened, migrated and locked the same way."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ResourceClosedError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from extproc.migrating import NewerSchemaError
from extproc.usage.ledger.errors import LedgerUnavailable, NewerLedgerError
from extproc.usage.ledger.migrate import migrate

_BUSY_MS = 5000
_JOURNAL_BYTES = 64 * 2**20
_PAGE = 8192  # bytes, of a new database: half as many pages to touch
_CHECKPOINT_PAGES = 8000  # a page that every batch changes is copied into the database less often
_CACHE_KIB = 32 * 1024

# Writers of one ledger in PostgreSQL take turns, as they do in SQLite: histograms are read, merged and written.
_WRITER_LOCK = "SELECT pg_advisory_xact_lock(7017280570803617124)"

# A server that went away without a word is noticed in seconds. The URL may say otherwise.
_POSTGRES_DEFAULTS = {
    "application_name": "headgate-ledger",
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "options": f"-c lock_timeout={_BUSY_MS}",
}


class Database:
    """Connections to one database. After a failure, the next call connects, and migrates, from new."""

    def __init__(self, url: str, on_reset: Callable[[], None]) -> None:
        """`on_reset` is called when what was known of the database may no longer be so.

        Raises:
            ValueError: the URL is none, or of a database that is not supported. It is not repeated: see its password.
        """
        self._url = parsed(url)
        self._path = Path(self._url.database or "").absolute() if self.dialect == "sqlite" else None
        self._on_reset = on_reset
        self._inode: int | None = None  # of a SQLite file
        self._ready = False
        self._engine = _sqlite(self._url) if self._path else _postgres(self._url)

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._url.get_backend_name()

    @property
    def name(self) -> str:
        """The URL without its password, and without its parameters, which may hold another."""
        return self._url.set(query={}).render_as_string(hide_password=True)

    def prepare(self) -> None:
        """Connects, creates what is absent, and migrates."""
        with self._guarded():
            pass

    def close(self) -> None:
        self._ready = False
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database."""
        with self._guarded(), self._engine.connect() as plain:
            level = {} if self._path else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            connection = plain.execution_options(**level)
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[Connection]:
        """A transaction that excludes other writers from its start.

        `durable`: when it is committed, it and all before it outlast a power failure, not just the process.
        """
        with self._guarded(), self._locked(durable) as connection:
            yield connection

    @contextmanager
    def _locked(self, durable: bool) -> Iterator[Connection]:
        with self._engine.connect() as plain:
            connection = plain.execution_options(writes=True)
            if self._path and durable:
                connection.connection.cursor().execute("PRAGMA synchronous = FULL")
            try:
                with connection.begin():
                    if not self._path:
                        connection.exec_driver_sql(_WRITER_LOCK)
                        if durable:  # whatever the server's setting
                            connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
                    yield connection
            finally:
                if self._path and durable and not connection.invalidated:
                    connection.connection.cursor().execute("PRAGMA synchronous = NORMAL")

    def _ensure_ready(self) -> None:
        if self._ready:
            if self._path is None or self._path.stat().st_ino == self._inode:
                return
            raise FileNotFoundError(2, "the file was replaced while it was in use")
        if self._path is not None:
            _create_private(self._path)
        with self._locked(durable=False) as connection:
            migrate(connection)
        self._inode = self._path.stat().st_ino if self._path else None
        self._ready = True

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turns refusals into errors that say which database cannot be used, and why."""
        try:
            self._ensure_ready()
            yield
        except NewerSchemaError as error:
            self._reset()
            raise NewerLedgerError(
                f"the ledger {self.name} was written by a newer version (its schema is {error}). "
                f"Upgrade headgate, or choose another database."
            ) from None
        except (IntegrityError, DataError):
            raise
        except DBAPIError as error:  # its own text would hold the statement
            self._reset()
            raise self._unavailable(str(error.orig)) from None
        except (sqlite3.Error, PoolTimeoutError, ResourceClosedError) as error:
            self._reset()
            raise self._unavailable(str(error)) from None
        except OSError as error:
            self._reset()
            raise self._unavailable(error.strerror or str(error)) from None

    def _reset(self) -> None:
        self._ready = False
        self._engine.dispose()
        self._on_reset()

    def _unavailable(self, reason: str) -> LedgerUnavailable:
        reason = " ".join(reason.split())
        if password := self._url.password:
            reason = reason.replace(str(password), "***")
        return LedgerUnavailable(f"cannot use the ledger {self.name}: {reason}. {_next_step(reason)}")


def parsed(text: str) -> URL:
    """Raises ValueError for what is no URL, or of a database that is not supported; it is not repeated there."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError("the ledger's URL is none; expected sqlite:///PATH or postgresql://USER@HOST/NAME") from None
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in ("sqlite", "sqlite+pysqlite") and url.database not in (None, "", ":memory:"):
        return url
    raise ValueError(
        f"a ledger cannot be kept in {url.drivername}: expected a file, sqlite:///PATH, or postgresql://USER@HOST/NAME"
    )


def _postgres(url: URL) -> Engine:
    defaults = {name: value for name, value in _POSTGRES_DEFAULTS.items() if name not in url.query}
    return create_engine(url.update_query_dict(defaults), pool_pre_ping=True, hide_parameters=True)


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY_MS / 1000})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
        connection.execute(f"PRAGMA page_size = {_PAGE}")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            _switch_to_wal(connection)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Under the write lock of another process SQLite refuses the switch at once, without waiting: we wait for it."""
    for _ in range(20):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
        connection.execute("BEGIN IMMEDIATE").connection.rollback()
    raise sqlite3.OperationalError("database is locked")


def _create_private(path: Path) -> None:
    """SQLite gives its journals the mode of the database.

    An existing file is not opened: closing it would drop the locks that this process holds on it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        path.chmod(0o600)


def _next_step(reason: str) -> str:
    low = reason.lower()
    if "full" in low or "space" in low:
        return "Free some space on its disk; what was written so far is kept."
    if "locked" in low or "lock timeout" in low:
        return "Another process holds it: it is tried again."
    if "not a database" in low or "malformed" in low:
        return "Move the file away to begin a new ledger, or restore it from a backup."
    return "Check that it is there, can be reached and may be written."
