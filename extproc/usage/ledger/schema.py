"""The tables of the ledger, as of the newest migration. Times are microseconds since the epoch, money picodollars."""

from collections.abc import Mapping

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from extproc.usage.ledger.rollup import COUNTERS
from extproc.usage.ledger.spans import Grain

# The newest script in migrations/versions; a test holds the two together. Knowing it here spares the import of
# alembic whenever nothing is to be migrated.
HEAD = "0003"

# The ledger may share a PostgreSQL database with other parts, which have migrations of their own.
VERSION_TABLE = "usage_version"

# Beyond these a number is an error of whoever measured it. They keep every sum below within 64 bits.
AT_LIMIT = 2**53
COUNT_LIMIT = 10**12
COST_LIMIT = 10**16

ID_LIMIT = 512  # characters: what an index of PostgreSQL takes

BOUNDED: Mapping[str, int] = {
    "at_us": AT_LIMIT,
    "attempts": 2**31 - 1,
    "status": 2**15 - 1,
    "input_tokens": COUNT_LIMIT,
    "output_tokens": COUNT_LIMIT,
    "cached_tokens": COUNT_LIMIT,
    "cache_write_tokens": COUNT_LIMIT,
    "reasoning_tokens": COUNT_LIMIT,
    "cost_pico": COST_LIMIT,
    "first_byte_us": COUNT_LIMIT,
    "duration_us": COUNT_LIMIT,
    "bytes_in": AT_LIMIT,
    "bytes_out": AT_LIMIT,
}

metadata = MetaData()

# Whom and what a request is counted for. Records and rollups hold its number: rows stay short, and one index by
# (series, time) serves every one of its columns.
series = Table(
    "usage_series",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),  # of all the names: those may be too long for an index
    Column("key", Text, nullable=False, index=True),
    Column("team", Text, nullable=False, index=True),
    Column("organization", Text, nullable=False, index=True),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("served_model", Text, nullable=False),
)

records = Table(
    "usage_records",
    metadata,
    # In the order in which they were written: indexes name a record by it, which is shorter than by time and id.
    Column("number", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    # A record is known by its id, and found by its time: ids are random, and an index of them alone would touch
    # another page of the disk for every record.
    Column("at_us", BigInteger, nullable=False),
    Column("id", Text, nullable=False),
    Column("series", Integer, nullable=False),
    Column("surface", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("status", Integer, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("cost_pico", BigInteger),
    Column("first_byte_us", BigInteger),
    Column("duration_us", BigInteger, nullable=False),
    Column("bytes_in", BigInteger, nullable=False),
    Column("bytes_out", BigInteger, nullable=False),
    Column("streamed", Boolean, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("cache_hit", Boolean, nullable=False),
    CheckConstraint(
        " AND ".join(f"{name} BETWEEN 0 AND {limit}" for name, limit in BOUNDED.items())
        + f" AND length(id) <= {ID_LIMIT}",
        name="usage_bounds",
    ),
    UniqueConstraint("at_us", "id", name="usage_records_once"),
    Index("usage_records_series", "series", "at_us"),
)

# Records are found by their id in an index of their own, by runs of so many and id. New ones touch the few pages of the
# last run; whoever looks for one goes through all runs, of which there are few. SQLAlchemy does not know this index.
RUN = 4096
RUNS = f"(usage_records.number / {RUN})"


def key(table: Table) -> tuple[str, str]:
    """The columns that tell rows apart: time and id of a record, bucket and series of a sum."""
    return "at_us", "id" if table is records else "series"


def _rollup(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("at_us", BigInteger, primary_key=True, autoincrement=False),  # where the bucket begins
        Column("series", Integer, primary_key=True, autoincrement=False),
        *(Column(counter, BigInteger, nullable=False) for counter in COUNTERS),
        Column("histogram", Text, nullable=False),
        sqlite_with_rowid=False,
    )


minutes = _rollup("usage_minutes")
hours = _rollup("usage_hours")
days = _rollup("usage_days")

# A range reads at most an hour of minutes, unless asked for each of them; of hours and days it may read many.
Index("usage_hours_series", hours.c.series, hours.c.at_us)
Index("usage_days_series", days.c.series, days.c.at_us)

TABLES: Mapping[Grain, Table] = {"record": records, "minute": minutes, "hour": hours, "day": days}

# How far each log has been read, in bytes.
logs = Table(
    "usage_logs",
    metadata,
    Column("log", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
)

# Before which instant retention has removed a grain.
horizons = Table(
    "usage_horizons",
    metadata,
    Column("grain", Text, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
)
