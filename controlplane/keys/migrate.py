"""Brings the tables of issued keys to the schema that this version knows."""

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from controlplane.keys.schema import HEAD, VERSIONS

SCRIPTS = Path(__file__).with_name("migrations")
_LOCK = 0x6B657973  # any number, the same in every process


class NewerSchemaError(Exception):
    """The tables were written by a newer version."""


def migrate(connection: Connection) -> None:
    """Runs the migrations that are missing, in the transaction of `connection`; none, when all have run.

    Raises:
        NewerSchemaError: the database has a migration that this version does not have.
    """
    if connection.dialect.name == "postgresql":  # two control planes may start at once; SQLite's lock is held already
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    at = _version(connection)
    if at == HEAD:
        return
    # Slow to import, and needed once in the life of a database.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError as error:
        raise NewerSchemaError(str(at)) from error


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSIONS):
        return None
    found: str | None = connection.execute(text(f"SELECT version_num FROM {VERSIONS}")).scalar()  # noqa: S608
    return found
