"""What is spent of budgets, and what is put aside."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Two new tables; nothing that was there changes. Budgets begin unspent: nothing kept them before."""
    op.create_table(
        "spending",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("keep_until", sa.BigInteger()),
        sa.PrimaryKeyConstraint("subject", "period", name="pk_spending"),
    )
    op.create_index("ix_spending_keep_until", "spending", ["keep_until"])
    op.create_table(
        "reservations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("periods", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("keep_until", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_reservations"),
    )
    op.create_index("ix_reservations_keep_until", "reservations", ["keep_until"])
