"""The newest drafts of a route are found without looking at what no cascade answered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """One partial index."""
    some = sa.text("drafts IS NOT NULL AND shadow_of IS NULL")
    op.create_index("ix_entries_drafted", "entries", ["route", "at"], sqlite_where=some, postgresql_where=some)
