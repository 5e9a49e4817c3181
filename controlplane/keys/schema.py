"""The tables of issued keys, as of the newest migration. Nothing in them is secret."""

from sqlalchemy import JSON, Boolean, Column, Index, Integer, MetaData, Table, Text

from controlplane.revisions.schema import UtcDateTime

# The newest script in migrations/versions; a test holds the two together.
HEAD = "keys_0002"

# Other parts keep their tables in the same database, and count their migrations elsewhere.
VERSIONS = "issued_keys_version"

metadata = MetaData()

# A row per token, so that one name may have several: the current one, and those that were rotated or revoked.
issued_keys = Table(
    "issued_keys",
    metadata,
    Column("jti", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("kid", Text, nullable=False),
    Column("team", Text),
    Column("models", JSON(none_as_null=True)),
    Column("limits", JSON, nullable=False),
    Column("budget", Text),
    Column("created", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("issued", UtcDateTime, nullable=False),
    Column("expires", UtcDateTime),
    Column("rotated", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("revoked_by", Text),
    Column("current", Boolean, nullable=False),
    Column("addresses", JSON(none_as_null=True)),
)

Index(
    "one_current_issued_key",
    issued_keys.c.name,
    unique=True,
    sqlite_where=issued_keys.c.current,
    postgresql_where=issued_keys.c.current,
)
Index("issued_keys_by_name", issued_keys.c.name)
Index("issued_keys_by_revocation", issued_keys.c.revoked_at)

# One row. Every change adds one to it, in the same transaction.
generations = Table(
    "issued_keys_generation",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("generation", Integer, nullable=False),
)
