"""Telling: the requests that say something of a route's trade-off, with all that is known of them for its report.

A look reads thousands of them, nearly all of which the look before it has read. So their rows are kept: entries are
never edited, but for what recovery may add to `spent`. A look asks for the names and the spending of the newest, reads
the rows of those that it does not have, and where nothing differs hands out what it made the last time. That is exact,
however long ago the last time was, and whoever wrote meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, select

from gateway.ledger.entry import Query, Source, Traffic
from gateway.ledger.schema import entries, is_telling, measurements, scores
from gateway.ledger.totals import plain, read
from pricing.live import Window

MOST = 12_000
"""Requests that a report looks at, the newest of its window: these are reckoned with in a tenth of a second."""

NAMED = (entries.c.at, entries.c.request_id, entries.c.spent)
"""What tells a request from others, and from what it was before recovery added to it."""

TOLD = (
    *NAMED,
    entries.c.route,
    entries.c.strategy,
    entries.c.arm == "holdout",
    entries.c.propensity,
    entries.c.shadow_propensity,
    entries.c.baseline_method == "measured",
    entries.c.visible_input,
    entries.c.visible_output,
    entries.c.baseline_likely,
    entries.c.stand_in,
)
"""What a report takes of an entry."""

Seen = tuple[Any, ...]
"""The values of `TOLD` of one request, or those of `NAMED`, as the driver has them."""

Known = Mapping[str, Any]
"""What is known of some requests, by their ids."""


class Beside(NamedTuple):
    """What became known of requests later: the teacher's cost, what was said of them, and whether they agree."""

    measured: Known
    said: Known
    agreed: Known


class Look(NamedTuple):
    """What was found, newest first, and the traffic that it came to."""

    rows: Sequence[Seen] = ()
    beside: Beside = Beside({}, {}, {})
    traffic: Mapping[str, Traffic] = {}


class Telling:
    """Looks at one database. Any thread may; the last look is kept, some 6 MB at most."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: Mapping[Seen, Seen] = {}
        self._last = Look()

    def observed(
        self, connection: Connection, since: float | None, until: float | None
    ) -> tuple[dict[str, Traffic], bool]:
        """The traffic of each route that was measured or scored in a range of time; and whether there was more of it.

        Requests that failed, were left or recovered are not in it: they have no answer to speak of.
        """
        newest = self._newest(connection, since, until, self._most + 1)
        rows, last = newest[: self._most], self._last
        beside = _beside(connection, rows[-1][0], rows[0][0]) if rows else Look().beside
        if rows != last.rows or beside != last.beside:
            last = self._last = Look(rows, beside, _traffic(rows, beside))
        found = {route: replace(traffic) for route, traffic in last.traffic.items()}
        for route, sums in read(connection, Query(since=since, until=until, by="route")).items():
            if sums.shadows:
                traffic = found.setdefault(route, Traffic())
                traffic.spent, traffic.unpriced = sums.of("measurement"), sums.of("shadows_unpriced")
        return found, len(newest) > self._most

    def _newest(self, connection: Connection, since: float | None, until: float | None, limit: int) -> list[Seen]:
        """The newest requests that tell something: those for which something was drawn, and those that were scored.

        Two walks along an index each. One over all requests would read a year of them where few tell anything.
        """
        drawn = self._known(connection, select(*NAMED).where(is_telling, *_answered(entries.c.at, since, until)), limit)
        feedback = and_(scores.c.request_id == entries.c.request_id, scores.c.source == "feedback")
        scored = select(*TOLD).select_from(scores.join(entries, feedback)).where(scores.c.source == "feedback")
        # Not those that are older than all of these, where these are enough.
        since = drawn[-1][0] if len(drawn) == limit else since
        scored = scored.where(~is_telling, *_answered(scores.c.at, since, until))
        told = plain(connection, scored.order_by(scores.c.at.desc(), entries.c.request_id.desc()).limit(limit))
        return sorted([*drawn, *told], key=itemgetter(0, 1), reverse=True)[:limit] if told else drawn

    def _known(self, connection: Connection, named: Select[Any], limit: int) -> list[Seen]:
        """The rows of the newest of these, from those that are kept, as far as they are."""
        newest = named.order_by(entries.c.at.desc(), entries.c.request_id.desc()).limit(limit)
        names = plain(connection, newest)
        rows = list(map(self._kept.get, names))
        missing = [name[0] for name, row in zip(names, rows, strict=True) if row is None]
        if missing:
            these = (is_telling, *_answered(entries.c.at, missing[-1], None), entries.c.at <= missing[0])
            found = {row[: len(NAMED)]: row for row in plain(connection, select(*TOLD).where(*these))}
            rows = [row or found.get(name) for name, row in zip(names, rows, strict=True)]
            # Those alone that this look has a use for.
            self._kept = {name: row for name, row in zip(names, rows, strict=True) if row is not None}
        return [row for row in rows if row is not None]


def _answered(at: ColumnElement[float], since: float | None, until: float | None) -> list[ColumnElement[bool]]:
    """The requests of clients in a range of time that were answered."""
    limits = [*([at >= since] if since is not None else []), *([at < until] if until is not None else [])]
    return [entries.c.shadow_of.is_(None), entries.c.outcome == "ok", *limits]


def _beside(connection: Connection, first: float, last: float) -> Beside:
    """Of the requests of a time. They are few: looked up with each of all, they would take as long as everything else.

    A score that came before its request was on record has no time.
    """
    at = scores.c.at
    measured = select(measurements.c.request_id, measurements.c.cost).where(measurements.c.at.between(first, last))

    def said(source: Source) -> Known:
        these = select(scores.c.request_id, scores.c.value).where(scores.c.source == source)
        found = [
            *plain(connection, these.where(at.between(first, last))),
            *plain(connection, these.where(at.is_(None))),
        ]
        return dict(found)

    return Beside(dict(plain(connection, measured)), said("feedback"), said("agreement"))


def _traffic(rows: Sequence[Seen], beside: Beside) -> dict[str, Traffic]:
    """By route."""
    routes: dict[str, list[Seen]] = {}
    for row in reversed(rows):
        routes.setdefault(row[len(NAMED)], []).append(row)
    return {route: _of_route(of_route, *beside) for route, of_route in routes.items()}


def _of_route(rows: Sequence[Seen], measured: Known, said: Known, agreed: Known) -> Traffic:
    at, ids, spent, _, strategies, held, chances, drawn, booked, asked, shown, likely, stood_in = zip(
        *rows, strict=True
    )
    served = [not holdout for holdout in held]
    # A baseline that is measured as the request settles is the teacher's own answer, which the client was given.
    own = [bool(teachers) and mine for teachers, mine in zip(booked, served, strict=True)]
    alone = [
        (baseline if teachers else later) if mine else cost
        for mine, teachers, cost, baseline, later in zip(
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
