"""Issued keys, and the counter of their changes."""

import sqlalchemy as sa
from alembic import op

revision = "keys_0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "issued_keys",
        sa.Column("jti", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("kid", sa.Text, nullable=False),
        sa.Column("team", sa.Text),
        sa.Column("models", sa.JSON),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("budget", sa.Text),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("issued", sa.DateTime, nullable=False),
        sa.Column("expires", sa.DateTime),
        sa.Column("rotated", sa.DateTime),
        sa.Column("revoked_at", sa.DateTime),
        sa.Column("revoked_by", sa.Text),
        sa.Column("current", sa.Boolean, nullable=False),
    )
    current = sa.text("current")
    op.create_index(
        "one_current_issued_key",
        "issued_keys",
        ["name"],
        unique=True,
        sqlite_where=current,
        postgresql_where=current,
    )
    op.create_index("issued_keys_by_name", "issued_keys", ["name"])
    op.create_index("issued_keys_by_revocation", "issued_keys", ["revoked_at"])
    generation = op.create_table(
        "issued_keys_generation",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("generation", sa.Integer, nullable=False),
    )
    op.bulk_insert(generation, [{"id": 1, "generation": 0}])


def downgrade() -> None:
    op.drop_table("issued_keys_generation")
    op.drop_table("issued_keys")
