"""How alembic runs a migration: on the connection, and in the transaction, that it was given."""

from alembic import context

from controlplane.keys.schema import VERSIONS, metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSIONS)
context.run_migrations()
