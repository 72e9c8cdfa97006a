"""What came of the guidance cache, and what its hits saved: nothing, in requests that came before it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Two columns of entries."""
    op.add_column("entries", sa.Column("guidance_cache", sa.Text()))
    op.add_column("entries", sa.Column("avoided", sa.BigInteger()))
