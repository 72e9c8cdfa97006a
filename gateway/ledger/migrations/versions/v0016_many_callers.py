"""Rollups for thousands of callers, and indices that find few requests among millions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

KEPT = ("caller", "model", "strategy", "route", "outcome", "method")
MEASURES = (
    *("requests", "spent", "guidance", "answer", "fallback", "unpriced", "notional", "bound", "wasted"),
    *("wasted_spent", "compared", "compared_spent", "likely", "low", "low_known", "high", "high_known"),
    *("teacher_tokens", "baseline_tokens", "corrected", "measurement", "shadows", "shadows_unpriced"),
)
PLAN = ("model", "strategy", "route")
# The level's number, its hours, what is not kept apart, and the finer level that it is summed from.
LEVELS = (
    (2, 24, (), 1),
    (4, 1, ("caller",), 1),
    (3, 24, ("caller",), 4),
    (5, 1_536, ("caller",), 3),
    (6, 24, PLAN, 2),
    (7, 192, PLAN, 6),
    (8, 1_536, PLAN, 7),
    (9, 12_288, PLAN, 8),
)
"""As this step knows them: later ones may know others."""


def upgrade() -> None:
    """One column, three indices, and all coarser rollups anew: some minutes for ten million requests."""
    op.add_column("scores", sa.Column("at", sa.Double()))
    op.execute("UPDATE scores SET at = (SELECT at FROM entries WHERE entries.request_id = scores.request_id)")
    op.create_index("ix_scores_source_at", "scores", ["source", "at"])
    op.drop_index("ix_entries_at", "entries")
    op.create_index("ix_entries_at", "entries", ["at", "caller", "model", "strategy", "outcome", "shadow_of"])
    telling = sa.text("arm IS NOT NULL OR shadow_propensity IS NOT NULL")
    op.create_index("ix_entries_telling", "entries", ["at"], sqlite_where=telling, postgresql_where=telling)
    op.execute("DELETE FROM rollups WHERE level <> 1")
    columns = ", ".join(("level", "hour", *KEPT, *MEASURES))
    sums = ", ".join(f"sum({name})" for name in MEASURES)
    something = " OR ".join(f"sum({name}) <> 0" for name in MEASURES)
    for level, hours, left_out, finer in LEVELS:
        names = ", ".join("''" if name in left_out else name for name in KEPT)
        kept = ", ".join(name for name in KEPT if name not in left_out)
        begin = f"hour / {hours} * {hours}"
        op.execute(
            f"INSERT INTO rollups ({columns}) SELECT {level}, {begin}, {names}, {sums} FROM rollups "  # noqa: S608 - of constants
            f"WHERE level = {finer} GROUP BY {begin}, {kept} HAVING {something}"
        )
