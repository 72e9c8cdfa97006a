"""How Alembic runs here: on the connection it is given, inside that connection's transaction."""

from __future__ import annotations

from alembic import context

from gateway.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can roll back DDL; Alembic takes care not to rely on it, but the store begins transactions itself.
    transactional_ddl=True,
    # SQLite cannot alter a column; a batch copies the table.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
