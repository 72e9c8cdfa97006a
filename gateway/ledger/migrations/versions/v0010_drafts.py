"""Drafts: the answers that a cascade had, without their words; and whether a shadow was drawn. Unknown of what was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Two columns of entries."""
    op.add_column("entries", sa.Column("shadow_drawn", sa.Boolean()))
    op.add_column("entries", sa.Column("drafts", sa.Text()))
