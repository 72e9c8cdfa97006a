"""Whose a reservation is: its request and its process, so that one that was left behind can be settled."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Three columns. Of the reservations that there are nobody knows whose they are: `gkt keys budget --recompute`."""
    op.add_column("reservations", sa.Column("request_id", sa.Text()))
    op.add_column("reservations", sa.Column("run", sa.Integer()))
    op.add_column("reservations", sa.Column("own_key", sa.Boolean(), nullable=False, server_default=sa.false()))
