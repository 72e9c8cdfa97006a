"""Totals: what a query asks to be summed, as one connection sees it, from rollups and from entries at the ends."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Select, func, select

from gateway.ledger import rollup, savings
from gateway.ledger.entry import Query
from gateway.ledger.savings import HOUR
from gateway.ledger.schema import rollups
from gateway.ledger.sums import Brief, Sums


def read(connection: Connection, query: Query) -> dict[str, Sums]:
    """The sums that `query` asks for, by their group and in its order.

    Of times whose entries may have been pruned there are whole hours only: a limit there counts as its hour's begin.
    """
    query = _kept(connection, query)
    return savings.fold((row for each in savings.statements(query) for row in plain(connection, each)), query)


def brief(connection: Connection, query: Query) -> dict[str, Brief]:
    """A few of the measures of each group, in no order."""
    made = ((row[0], Brief._make(row[1:])) for row in plain(connection, savings.brief(_kept(connection, query))))
    return {name: sums for name, sums in made if any(sums)}  # a rollup that everything was taken out of is none


def plain(connection: Connection, asked: Select[Any]) -> list[tuple[Any, ...]]:
    """The rows as the driver has them, of which SQLAlchemy would make objects: there may be thousands."""
    with connection.execute(asked) as found:
        return list(found.cursor.fetchall())


def _kept(connection: Connection, query: Query) -> Query:
    """Whole hours at limits before which entries may have been pruned."""
    limits = [limit for limit in (query.since, query.until) if limit is not None and limit % HOUR]
    if limits and min(limits) < (kept := rollup.kept_from(connection) * HOUR):
        begin = {name: getattr(query, name) for name in ("since", "until")}
        return replace(query, **{name: at // HOUR * HOUR for name, at in begin.items() if at and at < kept})
    return query


def names(connection: Connection, query: Query, limit: int) -> list[str]:
    """The groups of `query`, callers or what plans are made of, that most requests are of: at most so many, in order.

    Of whole hours, so that no entry is read.
    """
    if query.by is None:
        raise ValueError("names of nothing")
    first = None if query.since is None else int(query.since // HOUR)
    last = None if query.until is None else int(-(-query.until // HOUR))
    name, count = rollups.c[query.by], func.sum(rollups.c.requests)
    found: Counter[str] = Counter()
    for stretch in savings.cover(first, last, savings.levels(query)):
        some = select(name, count).where(*savings.within(*stretch), *savings.filters(query, rollups)).group_by(name)
        found.update({each: int(number) for each, number in connection.execute(some)})
    return sorted(each for each, number in found.most_common(limit) if number > 0)
