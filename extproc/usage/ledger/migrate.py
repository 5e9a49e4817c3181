"""Brings a database to the schema that this version knows."""

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from extproc.usage.ledger.schema import HEAD, VERSION_TABLE

SCRIPTS = Path(__file__).with_name("migrations")


class NewerSchemaError(Exception):
    """The database has a migration that this version does not have."""


def migrate(connection: Connection) -> None:
    """Runs the migrations that are missing, in the transaction of `connection`, which must exclude other writers."""
    at = version(connection)
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


def version(connection: Connection) -> str | None:
    """The newest migration that has run."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    return found
