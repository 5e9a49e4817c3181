"""Brings the tables of issued keys to the schema that this version knows."""

from pathlib import Path

from sqlalchemy import Connection, text

from controlplane.keys.schema import HEAD, VERSIONS
from extproc import migrating

SCRIPTS = Path(__file__).with_name("migrations")
_LOCK = 0x6B657973  # any number, the same in every process


def migrate(connection: Connection) -> None:
    """Runs what is missing; raises `migrating.NewerSchemaError`."""
    if connection.dialect.name == "postgresql":  # two control planes may start at once; SQLite's lock is held already
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    migrating.migrate(connection, migrating.Schema(SCRIPTS, HEAD, VERSIONS))
