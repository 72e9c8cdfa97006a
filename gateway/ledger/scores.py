"""Scores: how good answers were, as far as anybody said."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.ledger.entry import Source
from gateway.ledger.schema import entries, scores


def put(connection: Connection, request_id: str, source: Source, value: float, label: str | None) -> None:
    """Put a score on record, in place of an earlier one of the same source."""
    into = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    asked = select(entries.c.at).where(entries.c.request_id == request_id).scalar_subquery()
    row = {"made": time.time(), "value": value, "label": label, "at": asked}
    made = into(scores).values(request_id=request_id, source=source, **row)
    connection.execute(made.on_conflict_do_update(index_elements=["request_id", "source"], set_=row))


def of(connection: Connection, request_id: str) -> dict[str, dict[str, Any]]:
    """The scores of a request by their source, as plain data."""
    found = connection.execute(select(scores).where(scores.c.request_id == request_id)).mappings()
    return {row["source"]: {name: row[name] for name in ("made", "value", "label")} for row in found}
