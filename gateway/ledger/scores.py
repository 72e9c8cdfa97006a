"""Scores: how good answers were, as far as anybody said; and all that is known of a route's requests for its report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, and_, case, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.ledger.entry import Source, Traffic
from gateway.ledger.schema import entries, measurements, scores
from pricing.live import Observed

MOST = 20_000
"""Requests that a report looks at, the newest of its window: it takes half a second of the processor for them."""


def put(connection: Connection, request_id: str, source: Source, value: float, label: str | None) -> None:
    """Put a score on record, in place of an earlier one of the same source."""
    into = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    row = {"made": time.time(), "value": value, "label": label}
    made = into(scores).values(request_id=request_id, source=source, **row)
    connection.execute(made.on_conflict_do_update(index_elements=["request_id", "source"], set_=row))


def of(connection: Connection, request_id: str) -> dict[str, dict[str, Any]]:
    """The scores of a request by their source, as plain data."""
    found = connection.execute(select(scores).where(scores.c.request_id == request_id)).mappings()
    return {row["source"]: {name: row[name] for name in ("made", "value", "label")} for row in found}


def observed(
    connection: Connection, since: float | None, until: float | None, most: int = MOST
) -> tuple[dict[str, Traffic], bool]:
    """The traffic of each route that was measured or scored in a range of time; and whether there was more of it.

    Requests that failed, were left or recovered are not in it: they have no answer to speak of.
    """
    row = entries.c
    during = [*([row.at >= since] if since is not None else []), *([row.at < until] if until is not None else [])]
    said, agreed = scores.alias("said"), scores.alias("agreed")
    joined = (
        entries.outerjoin(measurements, measurements.c.request_id == row.request_id)
        .outerjoin(said, and_(said.c.request_id == row.request_id, said.c.source == "feedback"))
        .outerjoin(agreed, and_(agreed.c.request_id == row.request_id, agreed.c.source == "agreement"))
    )
    telling = or_(row.arm.is_not(None), row.shadow_propensity.is_not(None), said.c.value.is_not(None))
    chosen = (
        select(
            *(row.route, row.strategy, row.at, row.arm, row.propensity, row.shadow_propensity, row.stand_in),
            *(row.visible_input, row.visible_output, row.spent, row.baseline_method, row.baseline_likely),
            measurements.c.cost.label("measured"),
            said.c.value.label("score"),
            agreed.c.value.label("agreement"),
        )
        .select_from(joined)
        .where(*during, row.shadow_of.is_(None), row.outcome == "ok", telling)
        .order_by(row.at.desc(), row.request_id.desc())
        .limit(most + 1)
    )
    newest = connection.execute(chosen).mappings().all()
    found: dict[str, Traffic] = {}
    for each in reversed(newest[:most]):
        traffic = found.setdefault(each["route"], Traffic())
        traffic.requests.append(_seen(each))
        traffic.notional = traffic.notional or each["stand_in"]
        if each["arm"] != "holdout":
            traffic.strategies[each["strategy"]] += 1
    sums = func.sum(row.priced_spent), func.sum(case((row.unpriced, 1), else_=0))
    shadows = select(row.route, *sums).where(*during, row.shadow_of.is_not(None)).group_by(row.route)
    for route, spent, unpriced in connection.execute(shadows):
        traffic = found.setdefault(route, Traffic())
        traffic.spent, traffic.unpriced = int(spent), int(unpriced)
    return found, len(newest) > most


def _seen(row: Mapping[Any, Any]) -> Observed:
    holdout = row["arm"] == "holdout"
    # A baseline that is measured as the request settles is the teacher's own answer, which the client was given.
    own = not holdout and row["baseline_method"] == "measured"
    return Observed(
        at=row["at"],
        holdout=holdout,
        propensity=row["propensity"],
        shadow_propensity=None if holdout else row["shadow_propensity"],
        own=own,
        input_tokens=row["visible_input"],
        shown_tokens=row["visible_output"],
        cost=row["spent"],
        teacher_cost=row["spent"] if holdout else row["baseline_likely"] if own else row["measured"],
        baseline=row["baseline_likely"],
        score=row["score"],
        agreement=row["agreement"],
    )
