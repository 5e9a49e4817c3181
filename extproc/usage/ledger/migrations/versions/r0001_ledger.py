"""Usage records, their rollups, and how far each log was read."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_BOUNDS = {
    "at_us": 9007199254740992,
    "attempts": 2147483647,
    "status": 32767,
    "input_tokens": 1000000000000,
    "output_tokens": 1000000000000,
    "cached_tokens": 1000000000000,
    "cache_write_tokens": 1000000000000,
    "reasoning_tokens": 1000000000000,
    "cost_pico": 10000000000000000,
    "first_byte_us": 1000000000000,
    "duration_us": 1000000000000,
    "bytes_in": 9007199254740992,
    "bytes_out": 9007199254740992,
}
_ROLLUPS = ("usage_minutes", "usage_hours", "usage_days")
_COUNTERS = (
    "requests",
    "errors",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_pico",
    "unpriced",
    "unpriced_input",
    "unpriced_output",
    "estimated",
    "abandoned",
    "output_us",
)


def upgrade() -> None:
    op.create_table(
        "usage_series",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("key", "team", "organization", "model", "provider", "served_model")
        ),
    )
    for name in ("key", "team", "organization"):
        op.create_index(f"ix_usage_series_{name}", "usage_series", [name])
    _create_records()
    for name in _ROLLUPS:
        op.create_table(
            name,
            sa.Column("at_us", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("series", sa.Integer, primary_key=True, autoincrement=False),
            *(sa.Column(counter, sa.BigInteger, nullable=False) for counter in _COUNTERS),
            sa.Column("histogram", sa.Text, nullable=False),
            sqlite_with_rowid=False,
        )
    for name in _ROLLUPS[1:]:
        op.create_index(f"{name}_series", name, ["series", "at_us"])
    op.create_table(
        "usage_logs",
        sa.Column("log", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "usage_horizons",
        sa.Column("grain", sa.Text, primary_key=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )


def _create_records() -> None:
    op.create_table(
        "usage_records",
        sa.Column("at_us", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("series", sa.Integer, nullable=False),
        sa.Column("surface", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("cost_pico", sa.BigInteger),
        sa.Column("first_byte_us", sa.BigInteger),
        sa.Column("duration_us", sa.BigInteger, nullable=False),
        sa.Column("bytes_in", sa.BigInteger, nullable=False),
        sa.Column("bytes_out", sa.BigInteger, nullable=False),
        sa.Column("streamed", sa.Boolean, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
        sa.Column("cache_hit", sa.Boolean, nullable=False),
        sa.CheckConstraint(
            " AND ".join(f"{name} BETWEEN 0 AND {limit}" for name, limit in _BOUNDS.items()) + " AND length(id) <= 512",
            name="usage_bounds",
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("usage_records_series", "usage_records", ["series", "at_us"])


def downgrade() -> None:
    for name in ("usage_horizons", "usage_logs", *_ROLLUPS, "usage_records", "usage_series"):
        op.drop_table(name)
