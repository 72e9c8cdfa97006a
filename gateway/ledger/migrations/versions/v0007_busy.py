"""The calls to one upstream in the order of time: how busy its machine is."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """One index; some seconds for each ten million calls."""
    op.create_index("ix_calls_upstream_started", "calls", ["upstream", "started"])
