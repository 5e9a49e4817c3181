"""The tables of the history, as of the newest migration."""

from datetime import UTC, datetime

from sqlalchemy import Column, DateTime, Dialect, ForeignKey, Index, Integer, MetaData, Table, Text, TypeDecorator

# The newest script in migrations/versions; a test holds the two together. Knowing it here spares the command line
# the import of alembic whenever nothing is to be migrated.
HEAD = "0001"

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """SQLite keeps no time zone: what goes in and comes out is UTC."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


revisions = Table(
    "revisions",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("policy_text", Text, nullable=False),
    Column("policy_hash", Text, nullable=False),
    Column("snapshot_version", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("state", Text, nullable=False),
    Column("error", Text),
    Column("parent", Integer, ForeignKey("revisions.number")),
    sqlite_autoincrement=True,  # a number is never given twice
)

Index("one_live_revision", revisions.c.state, unique=True, sqlite_where=revisions.c.state == "live")
