"""Drafted: the requests of a cascade whose shadow was drawn, with all that is kept of the answers to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Connection, Table, func, select

from gateway.cascade import kept
from gateway.cascade.kept import Kept
from gateway.ledger import rollup
from gateway.ledger.entry import SHADOW
from gateway.ledger.schema import calls, corrections, entries, scores
from gateway.ledger.tally import amounts

BATCH = 2_000
"""Requests that are looked up at once."""


class Asked(NamedTuple):
    """A call: tokens read and nano-dollars, corrections included; None: unknown. `rates` are its price's, as kept.

    `seat`: whether the teacher was asked, or a student.
    """

    read: int | None
    amount: int | None
    rates: Mapping[str, Any] | None
    seat: str = "student"


@dataclass(frozen=True, slots=True)
class Drafted:
    """A request that a cascade answered and whose shadow was drawn. `score` is what feedback says; None: nothing.

    `answers` are the request's own and then its shadow's, `calls` theirs by their ids.
    `stand_in`: some model only stood in for another.
    """

    request_id: str
    at: float
    answers: Sequence[Kept]
    calls: Mapping[str, Asked]
    score: float | None
    stand_in: bool


@dataclass(frozen=True, slots=True)
class Rate:
    """How likely the requests of a cascade were to be drawn for a shadow: `drawn` of `requests`, the first `since`."""

    propensity: float
    since: float
    requests: int
    drawn: int


def rates(connection: Connection, route: str, since: float | None, until: float | None) -> list[Rate]:
    """The rates at which shadows were drawn in a range of time, those first that began first."""
    row = entries.c
    propensity = row.propensity * row.shadow_propensity
    sums = func.min(row.at), func.count(), func.count().filter(row.shadow_drawn)
    chosen = select(propensity, *sums).where(*_of(route, since, until), row.shadow_drawn.is_not(None))
    return [Rate(*found) for found in connection.execute(chosen.group_by(propensity).order_by(func.min(row.at)))]


def drafted(connection: Connection, route: str, since: float | None, until: float | None) -> list[Drafted]:
    """The requests of `route` whose shadow was drawn, oldest first."""
    row, shadow = entries.c, entries.alias("shadow")
    said = scores.alias("said")
    joined = entries.outerjoin(shadow, shadow.c.request_id == row.request_id + SHADOW).outerjoin(
        said, (said.c.request_id == row.request_id) & (said.c.source == "feedback")
    )
    beside = shadow.c.drafts.label("beside"), said.c.value.label("score"), shadow.c.stand_in.label("stood_in")
    columns = (row.request_id, row.at, row.drafts, row.stand_in, *beside)
    wanted = (*_of(route, since, until), row.shadow_drawn, row.drafts.is_not(None))
    order = (row.at, row.request_id)
    found = connection.execute(select(*columns).select_from(joined).where(*wanted).order_by(*order)).mappings().all()
    batches = (found[start : start + BATCH] for start in range(0, len(found), BATCH))
    return [each for batch in batches for each in _told(connection, batch)]


def climbed(connection: Connection, route: str, since: float, limit: int) -> list[list[Kept]]:
    """The drafts of the newest `limit` requests since then that a route's cascade answered, and their shadows'."""
    row, shadow = entries.c, entries.alias("shadow")
    joined = entries.outerjoin(shadow, shadow.c.request_id == row.request_id + SHADOW)
    wanted = (*_of(route, since, None), row.drafts.is_not(None))
    chosen = select(row.drafts, shadow.c.drafts.label("beside")).select_from(joined).where(*wanted)
    found = connection.execute(chosen.order_by(row.at.desc(), row.request_id).limit(limit))
    return [[*kept.loads(each.drafts), *kept.loads(each.beside or "[]")] for each in found]


def _of(route: str, since: float | None, until: float | None) -> list[ColumnElement[bool]]:
    """The answered requests that a route's own cascade served, holdouts aside."""
    row = entries.c
    limits = [*([row.at >= since] if since is not None else []), *([row.at < until] if until is not None else [])]
    return [row.route == route, row.strategy == "cascade", row.outcome == "ok", row.shadow_of.is_(None), *limits]


def _told(connection: Connection, batch: Sequence[Mapping[Any, Any]]) -> Iterator[Drafted]:
    dialect = connection.dialect.name
    names = [name for row in batch for name in (row["request_id"], row["request_id"] + SHADOW)]
    which = rollup.ids(dialect, names)

    def of(table: Table, *order: ColumnElement[Any]) -> dict[str, list[Mapping[Any, Any]]]:
        chosen = select(table).where(rollup.named(dialect, which, table)).order_by(table.c.request_id, *order)
        rows = connection.execute(chosen).mappings().all()
        return {name: list(group) for name, group in groupby(rows, key=lambda row: row["request_id"])}

    made, later = of(calls), of(corrections, corrections.c.number)
    for row in batch:
        known: dict[str, Asked] = {}
        for name in (row["request_id"], row["request_id"] + SHADOW):
            costs = amounts(made.get(name, []), later.get(name, []))
            for call in made.get(name, []):
                price = None if call["price"] is None else orjson.loads(call["price"])
                known[call["id"]] = Asked(call["input"], costs[call["id"]], price, call["seat"])
        yield Drafted(
            row["request_id"],
            row["at"],
            [*kept.loads(row["drafts"]), *(kept.loads(row["beside"]) if row["beside"] is not None else [])],
            known,
            row["score"],
            bool(row["stand_in"] or row["stood_in"]),
        )
