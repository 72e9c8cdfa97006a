"""Scores: how good answers were, as far as anybody said; and all that is known of a route's requests for its report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Select, and_, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.ledger.entry import Query, Source, Traffic
from gateway.ledger.schema import entries, is_telling, measurements, scores
from gateway.ledger.totals import read
from pricing.live import Window

MOST = 20_000
"""Requests that a report looks at, the newest of its window."""

TOLD = (
    entries.c.at,
    entries.c.request_id,
    entries.c.route,
    entries.c.strategy,
    entries.c.arm == "holdout",
    entries.c.propensity,
    entries.c.shadow_propensity,
    entries.c.baseline_method == "measured",
    entries.c.visible_input,
    entries.c.visible_output,
    entries.c.spent,
    entries.c.baseline_likely,
    entries.c.stand_in,
)
"""What a report takes of an entry."""

Seen = tuple[Any, ...]
"""The values of `TOLD` of one request, as the driver has them."""

Known = Mapping[str, Any]
"""What is known of some requests, by their ids."""


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
    by_route: dict[str, list[Seen]] = {}
    for each in reversed(newest[:most]):
        by_route.setdefault(each[2], []).append(each)
    beside = _beside(connection, newest[:most][-1][0], newest[0][0]) if newest else ({}, {}, {})
    found = {route: _traffic(rows, *beside) for route, rows in by_route.items()}
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
    feedback = and_(scores.c.request_id == row.request_id, scores.c.source == "feedback")

    def chosen(at: ColumnElement[float], of: FromClause, *conditions: ColumnElement[bool]) -> list[Seen]:
        limits = [*([at >= since] if since is not None else []), *([at < until] if until is not None else [])]
        clients = (row.shadow_of.is_(None), row.outcome == "ok")
        some = select(*TOLD).select_from(of).where(*limits, *clients, *conditions)
        return _plain(connection, some.order_by(at.desc(), row.request_id.desc()).limit(limit))

    drawn = chosen(row.at, entries, is_telling)
    # Not those that are older than all of these, where these are enough.
    enough = [scores.c.at >= drawn[-1][0]] if len(drawn) == limit else []
    scored = chosen(scores.c.at, scores.join(entries, feedback), scores.c.source == "feedback", ~is_telling, *enough)
    if not scored:
        return drawn
    return sorted([*drawn, *scored], key=itemgetter(0, 1), reverse=True)[:limit]


def _beside(connection: Connection, first: float, last: float) -> tuple[Known, Known, Known]:
    """What was measured of the requests of a time, said of them, and found to agree, by their ids.

    They are few: looked up with each request they would take as long as all else. A score that came before its request
    was on record has no time.
    """
    at = scores.c.at
    measured = select(measurements.c.request_id, measurements.c.cost).where(measurements.c.at.between(first, last))

    def said(source: Source) -> Known:
        these = select(scores.c.request_id, scores.c.value).where(scores.c.source == source)
        return dict(
            _plain(connection, these.where(at.between(first, last))) + _plain(connection, these.where(at.is_(None)))
        )

    return dict(_plain(connection, measured)), said("feedback"), said("agreement")


def _plain(connection: Connection, asked: Select[Any]) -> list[Seen]:
    """The rows as the driver has them, of which SQLAlchemy would make objects: there may be thousands."""
    with connection.execute(asked) as found:
        return list(found.cursor.fetchall())


def _traffic(rows: Sequence[Seen], measured: Known, said: Known, agreed: Known) -> Traffic:
    """Of one route, in the order of time."""
    at, ids, _, strategies, held, chances, drawn, booked, asked, shown, spent, likely, stood_in = zip(
        *rows, strict=True
    )
    served = [not holdout for holdout in held]
    # A baseline that is measured as the request settles is the teacher's own answer, which the client was given.
    own = [bool(teachers) and mine for teachers, mine in zip(booked, served, strict=True)]
    alone = [
        (likely if teachers else measured) if mine else spent
        for mine, teachers, spent, likely, measured in zip(
            served, own, spent, likely, map(measured.get, ids), strict=True
        )
    ]
    columns = {
        "at": at,
        "holdout": list(map(bool, held)),
        "propensity": chances,
        "shadow_propensity": [e if mine else None for e, mine in zip(drawn, served, strict=True)],
        "own": own,
        "input_tokens": asked,
        "shown_tokens": shown,
        "cost": spent,
        "teacher_cost": alone,
        "baseline": likely,
        "score": list(map(said.get, ids)),
        "agreement": list(map(agreed.get, ids)),
    }
    return Traffic(Window(columns), notional=any(stood_in), strategies=Counter(compress(strategies, served)))
