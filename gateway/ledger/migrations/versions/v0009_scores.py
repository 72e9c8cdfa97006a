"""Scores: what callers say of answers, and how far answers agree with the teacher's own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """One table, empty."""
    op.create_table(
        "scores",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("made", sa.Double(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("label", sa.Text()),
        sa.PrimaryKeyConstraint("request_id", "source", name="pk_scores"),
    )
