"""Limits and budgets of keys; those that there are have none of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Four columns."""
    for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
        op.add_column("keys", sa.Column(name, sa.BigInteger()))
    op.add_column("keys", sa.Column("budgets", sa.Text()))
