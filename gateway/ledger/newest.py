"""Newest: the newest entries that a query wants, found by way of the rollups.

The index on time has entries in order, but walking it for a rare caller, or for a model that nobody asked for, would
read everything that others asked. Rollups know in which hours there is something to find, whatever is filtered by; an
index for each filter would cost every request, and help little when several are combined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, func, select

from gateway.ledger import rollup, savings
from gateway.ledger.entry import Query
from gateway.ledger.savings import HOUR
from gateway.ledger.schema import Level, entries, rollups

SOUGHT = 64
"""Hours, or days, of one coarser stretch that are looked up one by one."""

Place = tuple[float, str]
"""The `at` and `request_id` of an entry."""


def newest(
    connection: Connection,
    query: Query,
    limit: int,
    before: Place | None = None,
    columns: Sequence[ColumnElement[Any]] = tuple(entries.columns),
) -> Sequence[Row[*tuple[Any, ...]]]:
    """The newest `limit` requests that `query` wants, newest first, only those older than the one at `before`.

    Measurements are none. `columns`: what to tell of each.
    """
    clients = entries.c.shadow_of.is_(None)
    wanted = [clients, *savings.wanted(query), *([savings.older(before)] if before else [])]
    if not savings.filters(query):
        return connection.execute(_newest_first(select(*columns).where(*wanted), limit)).all()
    # Of each stretch the names alone, by one statement that is made once: there may be as many stretches as entries.
    during = (entries.c.at >= bindparam("first"), entries.c.at < bindparam("last"))
    names = _newest_first(select(entries.c.request_id).where(*wanted, *during), limit)
    kept = rollup.kept_from(connection)
    runs = _runs(_hours(connection, query, *_bounds(query, before, kept), _levels(query)), limit)
    # Of hours that were pruned rollups know more than there is; nearly all of those entries are gone.
    found: list[str] = []
    for first, last in chain(runs, [(0, kept)] if kept else []):
        found += connection.scalars(names, {"first": float(first * HOUR), "last": float(last * HOUR)})
        if len(found) >= limit:
            break
    these = rollup.named(connection.dialect.name, rollup.ids(connection.dialect.name, found))
    return connection.execute(_newest_first(select(*columns).where(these), limit)).all()


def _newest_first(of: Select[Any], limit: int) -> Select[Any]:
    return of.order_by(entries.c.at.desc(), entries.c.request_id.desc()).limit(limit)


def _levels(query: Query) -> list[Level]:
    """Where to look, coarsest first: for a caller's requests of one plan, first where the caller asked at all."""
    of_caller = replace(query, model=None, strategy=None)
    coarse = [level for level in savings.levels(of_caller) if level.hours > savings.DAY] if query.caller else []
    levels = savings.levels(query)
    return [*coarse, *levels] if query.caller and levels[0].by_plan else levels


def _wanted(query: Query, level: Level) -> list[ColumnElement[bool]]:
    """What a level can say of them: without plans more than there is."""
    return savings.filters(query if level.by_plan else replace(query, model=None, strategy=None), rollups)


def _bounds(query: Query, before: Place | None, kept: int) -> tuple[int, int | None]:
    """The hours to look in: from the first up to the last, None for without end."""
    first = kept if query.since is None else max(kept, int(query.since // HOUR))
    ends = [
        *([-(-query.until // HOUR)] if query.until is not None else []),
        *([before[0] // HOUR + 1] if before else []),
    ]
    return first, int(min(ends)) if ends else None


def _hours(
    connection: Connection, query: Query, first: int, last: int | None, levels: Sequence[Level]
) -> Iterator[tuple[int, int]]:
    """The hours that have entries which `query` wants, and how many, newest first; through coarser rollups."""
    level, *finer = levels
    begin = rollups.c.hour
    limits: list[ColumnElement[bool]]
    if last is not None and (last - first) // level.hours < SOUGHT:
        # One by one: then the table's key finds the rows of one caller among those of all.
        limits = [begin.in_(range(first // level.hours * level.hours, last, level.hours))]
    else:
        limits = [begin > first - level.hours, *([begin < last] if last is not None else [])]
    some = select(begin, func.sum(rollups.c.requests)).where(
        rollups.c.level == level.number, *limits, *_wanted(query, level)
    )
    there = some.group_by(begin).having(func.sum(rollups.c.requests) > 0).order_by(begin.desc())
    with connection.execute(there) as found:  # row by row: often the newest few are enough
        for hour, count in found:
            end = hour + level.hours
            if finer:
                yield from _hours(connection, query, max(first, hour), end if last is None else min(last, end), finer)
            else:
                yield hour, int(count)


def _runs(hours: Iterable[tuple[int, int]], enough: int) -> Iterator[tuple[int, int]]:
    """Hours that follow one another as one stretch, until it has `enough`: its first hour, and the one after it."""
    run: tuple[int, int] | None = None
    held = 0
    for hour, count in hours:
        if run and (run[0] != hour + 1 or held >= enough):
            yield run
            run, held = None, 0
        run = (hour, run[1] if run else hour + 1)
        held += count
    if run:
        yield run
