"""When calls ran on which machine, how often limits refused somebody, and which sessions were ended by a logout."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """A column of calls, NULL in those that came before it, and two tables, empty."""
    op.add_column("calls", sa.Column("machines", sa.Text()))
    op.create_table(
        "refusals",
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "caller", "reason", name="pk_refusals"),
    )
    op.create_table(
        "ended_sessions",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_ended_sessions"),
    )
