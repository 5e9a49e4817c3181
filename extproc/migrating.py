"""Brings the tables of a database to the schema that this version knows."""

import logging
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, inspect, text


class NewerSchemaError(Exception):
    """The tables were written by a newer version; its text names their schema."""


class Schema(NamedTuple):
    """A folder of alembic's scripts, the newest of them, and the table that says which of them have run."""

    scripts: Path
    head: str
    versions: str


def migrate(connection: Connection, schema: Schema) -> None:
    """Runs the scripts that are missing, in the transaction of `connection`, which must exclude other writers.

    Raises:
        NewerSchemaError: the database has had a script that this version does not have.
    """
    at = version(connection, schema.versions)
    if at == schema.head:
        return
    # Slow to import, and needed once in the life of a database.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(schema.scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, schema.head)
    except CommandError as error:
        raise NewerSchemaError(str(at)) from error


def version(connection: Connection, versions: str) -> str | None:
    """The newest script that has run."""
    if not inspect(connection).has_table(versions):
        return None
    found: str | None = connection.execute(text(f"SELECT version_num FROM {versions}")).scalar()  # noqa: S608
    return found
