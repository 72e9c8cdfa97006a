"""Baselines that can be priced again: what each is the price of, what corrections made of it. Unknown of what was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0011"


def upgrade() -> None:
    """A column of entries, and one of corrections."""
    op.add_column("entries", sa.Column("baseline_of", sa.Text()))
    op.add_column("corrections", sa.Column("baseline", sa.Text()))
