"""The control plane's databases: SQLite by default, PostgreSQL in production."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url

_BUSY_MS = 5000


def engine(url: str | URL) -> Engine:
    """An engine for an SQLAlchemy URL. An SQLite file is made for its owner only, journals included.

    Raises:
        OSError: the file cannot be made.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        # A connection that the server ended is noticed before it is used.
        return create_engine(parsed, hide_parameters=True, pool_pre_ping=True)
    if parsed.database is not None:
        _private_file(Path(parsed.database))
    made = create_engine(parsed, hide_parameters=True)
    event.listen(made, "connect", _prepare)
    event.listen(made, "begin", _begin)
    return made


@contextmanager
def writing(opened: Engine) -> Iterator[Connection]:
    """A transaction that holds SQLite's write lock from its start: an upgrade from reading could not wait."""
    with opened.connect() as plain:
        connection = plain.execution_options(writes=True)
        with connection.begin():
            yield connection


def _private_file(path: Path) -> None:
    """SQLite gives its journals the mode of the database."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(handle, 0o600)
    finally:
        os.close(handle)


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
