"""Brings the history's database to the schema that this version knows."""

from pathlib import Path

from sqlalchemy import Connection

from controlplane.revisions.schema import HEAD
from extproc import migrating

SCRIPTS = Path(__file__).with_name("migrations")
_VERSIONS = "alembic_version"


def migrate(connection: Connection) -> None:
    """Runs what is missing; raises `migrating.NewerSchemaError`."""
    migrating.migrate(connection, migrating.Schema(SCRIPTS, HEAD, _VERSIONS))
