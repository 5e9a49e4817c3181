"""Records by request id. Within an hour, so that new rows touch few pages of the index: ids are random."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    in_bytes = ' COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else ""
    hour = sa.text("(at_us / 3600000000)")
    op.create_index("usage_records_request", "usage_records", [hour, sa.text(f"id{in_bytes}")])


def downgrade() -> None:
    op.drop_index("usage_records_request", "usage_records")
