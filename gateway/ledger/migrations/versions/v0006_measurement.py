"""Arms and measurements: what was drawn for a request, what shadows cost, and what they measured."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

MEASURES = ("measurement", "shadows", "shadows_unpriced")


def upgrade() -> None:
    """Columns for entries and sums, all of them nothing so far, and one table."""
    for name, kind in (("arm", sa.Text()), ("shadow_propensity", sa.Double()), ("shadow_of", sa.Text())):
        op.add_column("entries", sa.Column(name, kind))
    op.add_column("entries", _counted("measurement_spent"))
    for table in ("rollups", "corrections"):
        for name in MEASURES:
            op.add_column(table, _counted(name))
    op.create_table(
        "measurements",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("shadow_id", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=False),
        sa.Column("shown_input", sa.BigInteger()),
        sa.Column("shown_output", sa.BigInteger()),
        sa.Column("teacher_input", sa.BigInteger()),
        sa.Column("teacher_output", sa.BigInteger()),
        sa.Column("cost", sa.BigInteger()),
        sa.Column("price", sa.Text()),
        sa.PrimaryKeyConstraint("request_id", name="pk_measurements"),
    )
    op.create_index("ix_measurements_at", "measurements", ["at"])


def _counted(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
