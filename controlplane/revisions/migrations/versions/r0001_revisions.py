"""The history of applied policies."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "revisions",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("policy_text", sa.Text, nullable=False),
        sa.Column("policy_hash", sa.Text, nullable=False),
        sa.Column("snapshot_version", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("parent", sa.Integer, sa.ForeignKey("revisions.number")),
        sqlite_autoincrement=True,
    )
    op.create_index("one_live_revision", "revisions", ["state"], unique=True, sqlite_where=sa.text("state = 'live'"))


def downgrade() -> None:
    op.drop_table("revisions")
