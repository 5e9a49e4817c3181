"""Networks that issued keys may be used from."""

import sqlalchemy as sa
from alembic import op

revision = "keys_0002"
down_revision = "keys_0001"


def upgrade() -> None:
    op.add_column("issued_keys", sa.Column("addresses", sa.JSON))


def downgrade() -> None:
    op.drop_column("issued_keys", "addresses")
