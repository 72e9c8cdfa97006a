"""Sums by the hour and coarser, filled from the entries that are there; corrections; how far entries were pruned."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

GROUPED = ("caller", "model", "strategy", "route", "outcome")

COMPARED = "spent IS NOT NULL AND baseline_likely IS NOT NULL"
LENGTHS = "teacher_tokens IS NOT NULL AND baseline_tokens IS NOT NULL"
SUMS = {
    "requests": "1",
    "spent": "priced_spent",
    "guidance": "guidance_spent",
    "answer": "answer_spent",
    "fallback": "fallback_spent",
    "unpriced": "CASE WHEN unpriced THEN 1 ELSE 0 END",
    "notional": "notional_spent",
    "bound": "bound_spent",
    "wasted": "CASE WHEN wasted IS NOT NULL THEN 1 ELSE 0 END",
    "wasted_spent": "CASE WHEN wasted IS NOT NULL THEN guidance_spent ELSE 0 END",
    "compared": f"CASE WHEN {COMPARED} THEN 1 ELSE 0 END",
    "compared_spent": f"CASE WHEN {COMPARED} THEN spent ELSE 0 END",
    "likely": f"CASE WHEN {COMPARED} THEN baseline_likely ELSE 0 END",
    "low": f"CASE WHEN {COMPARED} THEN coalesce(baseline_low, 0) ELSE 0 END",
    "low_known": f"CASE WHEN {COMPARED} AND baseline_low IS NOT NULL THEN 1 ELSE 0 END",
    "high": f"CASE WHEN {COMPARED} THEN coalesce(baseline_high, 0) ELSE 0 END",
    "high_known": f"CASE WHEN {COMPARED} AND baseline_high IS NOT NULL THEN 1 ELSE 0 END",
    "teacher_tokens": f"CASE WHEN {LENGTHS} THEN teacher_tokens ELSE 0 END",
    "baseline_tokens": f"CASE WHEN {LENGTHS} THEN baseline_tokens ELSE 0 END",
    "corrected": "0",
}
"""What is summed, as this step knows it: later ones may know more."""


def upgrade() -> None:
    """Three tables, and the rollups of all entries so far."""
    op.add_column("calls", sa.Column("tier", sa.Text()))
    op.create_table(
        "corrections",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("made", sa.Double(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in GROUPED),
        sa.Column("baseline_method", sa.Text()),
        sa.Column("calls", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in SUMS),
        sa.PrimaryKeyConstraint("request_id", "number", name="pk_corrections"),
    )
    op.create_index("ix_corrections_at", "corrections", ["at"])
    op.create_table(
        "rollups",
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in (*GROUPED, "method")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in SUMS),
        sa.PrimaryKeyConstraint("level", "hour", *GROUPED, "method", name="pk_rollups"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "marks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_marks"),
    )
    seconds = "floor(at)" if op.get_bind().dialect.name == "postgresql" else "at"
    columns = ", ".join(("level", "hour", *GROUPED, "method", *SUMS))
    sums = ", ".join(f"sum({what})" for what in SUMS.values())
    for level, (hours, by_caller) in enumerate(((1, True), (24, True), (24, False), (768, True)), 1):
        hour = f"CAST({seconds} AS BIGINT) / {3_600 * hours} * {hours}"
        # Not the constant itself, by which nothing can be grouped.
        caller = f"CASE WHEN {int(by_caller)} = 1 THEN caller ELSE '' END"
        keys = ", ".join((hour, caller, *GROUPED[1:], "coalesce(baseline_method, '')"))
        op.execute(f"INSERT INTO rollups ({columns}) SELECT {level}, {keys}, {sums} FROM entries GROUP BY {keys}")  # noqa: S608 - of constants
