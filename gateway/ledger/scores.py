"""Scores: how good answers were, as far as anybody said; and all that is known of a route's requests for its report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Row, and_, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.ledger.entry import Query, Source, Traffic
from gateway.ledger.schema import entries, is_telling, measurements, scores
from gateway.ledger.totals import read
from pricing.live import Observed

MOST = 20_000
"""Requests that a report looks at, the newest of its window: it takes half a second of the processor for them."""


Seen = Row[*tuple[Any, ...]]
"""A request with what is known of it, as `_newest` selects it."""


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


def observed(
    connection: Connection, since: float | None, until: float | None, most: int = MOST
) -> tuple[dict[str, Traffic], bool]:
    """The traffic of each route that was measured or scored in a range of time; and whether there was more of it.

    Requests that failed, were left or recovered are not in it: they have no answer to speak of.
    """
    newest = _newest(connection, since, until, most + 1)
    found: dict[str, Traffic] = {}
    for each in reversed(newest[:most]):
        _, _, route, strategy, arm, *_, stand_in = each
        traffic = found.setdefault(route, Traffic())
        traffic.requests.append(_seen(each))
        traffic.notional = traffic.notional or stand_in
        if arm != "holdout":
            traffic.strategies[strategy] += 1
    for route, sums in read(connection, Query(since=since, until=until, by="route")).items():
        if sums.shadows:
            traffic = found.setdefault(route, Traffic())
            traffic.spent, traffic.unpriced = sums.of("measurement"), sums.of("shadows_unpriced")
    return found, len(newest) > most


def _newest(connection: Connection, since: float | None, until: float | None, limit: int) -> list[Seen]:
    """The newest requests that tell something: those for which something was drawn, and those that were scored.

    Two walks along an index each. One over all requests would read a year of them where few tell anything.
    """
    row = entries.c
    said, agreed = scores.alias("said"), scores.alias("agreed")
    feedback = and_(said.c.request_id == row.request_id, said.c.source == "feedback")

    def chosen(at: ColumnElement[float], of: FromClause, *conditions: ColumnElement[bool]) -> Sequence[Seen]:
        joined = of.outerjoin(measurements, measurements.c.request_id == row.request_id).outerjoin(
            agreed, and_(agreed.c.request_id == row.request_id, agreed.c.source == "agreement")
        )
        limits = [*([at >= since] if since is not None else []), *([at < until] if until is not None else [])]
        told = (
            *(row.at, row.request_id, row.route, row.strategy, row.arm, row.propensity, row.shadow_propensity),
            *(row.visible_input, row.visible_output, row.spent, row.baseline_method, row.baseline_likely),
            *(measurements.c.cost, said.c.value, agreed.c.value, row.stand_in),
        )
        clients = (row.shadow_of.is_(None), row.outcome == "ok")
        some = select(*told).select_from(joined).where(*limits, *clients, *conditions)
        return connection.execute(some.order_by(at.desc(), row.request_id.desc()).limit(limit)).all()

    drawn = chosen(row.at, entries.outerjoin(said, feedback), is_telling)
    # Not those that are older than all of these, where these are enough.
    enough = [said.c.at >= drawn[-1][0]] if len(drawn) == limit else []
    scored = chosen(said.c.at, said.join(entries, feedback), said.c.source == "feedback", ~is_telling, *enough)
    if not scored:
        return list(drawn)
    return sorted([*drawn, *scored], key=itemgetter(0, 1), reverse=True)[:limit]


def _seen(row: Seen) -> Observed:
    at, _, _, _, arm, propensity, shadow_propensity, asked, shown, spent, method, likely, measured, score, agreed, _ = (
        row
    )
    holdout = arm == "holdout"
    # A baseline that is measured as the request settles is the teacher's own answer, which the client was given.
    own = not holdout and method == "measured"
    return Observed(
        at=at,
        holdout=holdout,
        propensity=propensity,
        shadow_propensity=None if holdout else shadow_propensity,
        own=own,
        input_tokens=asked,
        shown_tokens=shown,
        cost=spent,
        teacher_cost=spent if holdout else likely if own else measured,
        baseline=likely,
        score=score,
        agreement=agreed,
    )
