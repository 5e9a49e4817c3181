"""Brings the ledger's database to the schema that this version knows."""

from pathlib import Path

from sqlalchemy import Connection

from extproc import migrating
from extproc.usage.ledger.schema import HEAD, VERSION_TABLE

SCRIPTS = Path(__file__).with_name("migrations")


def migrate(connection: Connection) -> None:
    """Runs what is missing; raises `migrating.NewerSchemaError`."""
    migrating.migrate(connection, migrating.Schema(SCRIPTS, HEAD, VERSION_TABLE))
