"""How alembic runs a migration: on the connection, and in the transaction, that it was given."""

from alembic import context

from extproc.usage.ledger.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
