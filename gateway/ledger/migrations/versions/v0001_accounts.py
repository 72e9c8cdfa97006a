"""Runs, calls, entries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """The tables that the ledger begins with."""
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process_start", sa.Text(), nullable=False),
        sa.Column("heartbeat", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_table(
        "calls",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("seat", sa.Text(), nullable=False),
        sa.Column("upstream", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("stand_in", sa.Text()),
        sa.Column("asked", sa.Text()),
        sa.Column("route", sa.Text()),
        sa.Column("strategy", sa.Text()),
        sa.Column("caller", sa.Text()),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("cut", sa.Boolean(), nullable=False),
        sa.Column("bound_amount", sa.BigInteger()),
        sa.Column("notional", sa.Boolean(), nullable=False),
        sa.Column("is_bound", sa.Boolean(), nullable=False),
        sa.Column("first_token", sa.Double()),
        sa.Column("duration", sa.Double()),
        sa.Column("finish", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("input", sa.BigInteger()),
        sa.Column("output", sa.BigInteger()),
        sa.Column("cached", sa.BigInteger()),
        sa.Column("cache_write", sa.BigInteger()),
        sa.Column("reasoning", sa.BigInteger()),
        sa.Column("seconds", sa.Double()),
        sa.Column("usage_source", sa.Text()),
        sa.Column("price", sa.Text()),
        sa.Column("amount", sa.BigInteger()),
        sa.PrimaryKeyConstraint("request_id", "id", name="pk_calls"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_calls_run_runs"),
    )
    is_open = sa.column("is_open", sa.Boolean()) == sa.true()
    op.create_index("ix_calls_open", "calls", ["run"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_table(
        "entries",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("teacher", sa.Text()),
        sa.Column("student", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("wasted", sa.Text()),
        sa.Column("stand_in", sa.Boolean(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=False),
        sa.Column("first_token", sa.Double()),
        sa.Column("duration", sa.Double()),
        sa.Column("visible_input", sa.BigInteger()),
        sa.Column("visible_output", sa.BigInteger()),
        sa.Column("teacher_tokens", sa.BigInteger()),
        sa.Column("spent", sa.BigInteger()),
        sa.Column("unpriced", sa.Boolean(), nullable=False),
        sa.Column("guidance_spent", sa.BigInteger(), nullable=False),
        sa.Column("answer_spent", sa.BigInteger(), nullable=False),
        sa.Column("fallback_spent", sa.BigInteger(), nullable=False),
        sa.Column("priced_spent", sa.BigInteger(), nullable=False),
        sa.Column("notional_spent", sa.BigInteger(), nullable=False),
        sa.Column("bound_spent", sa.BigInteger(), nullable=False),
        sa.Column("baseline_method", sa.Text()),
        sa.Column("baseline_low", sa.BigInteger()),
        sa.Column("baseline_likely", sa.BigInteger()),
        sa.Column("baseline_high", sa.BigInteger()),
        sa.Column("baseline_tokens", sa.BigInteger()),
        sa.Column("text", sa.Text()),
        sa.PrimaryKeyConstraint("request_id", name="pk_entries"),
    )
    op.create_index("ix_entries_at", "entries", ["at"])
