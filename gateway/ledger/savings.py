"""The sums of savings: grouped queries, in whole nano-dollars, and their fold into rows.

Long stretches come from coarse rollups, the days and hours around them from finer ones, and what is left at the two
ends from the entries themselves. The database groups finer than was asked, by outcome and baseline method too, so that
one pass counts everything; the fold adds whole numbers, so nothing is rounded on the way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Table,
    and_,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from gateway.errors import BadRequest
from gateway.ledger.entry import Query
from gateway.ledger.rows import STAGES, day_of
from gateway.ledger.schema import LEVELS, MEASURES, Level, corrections, entries, rollups
from gateway.ledger.sums import ALL, Brief, Sums

HOUR = 3_600
DAY = 24
"""Hours of a day."""


class whole_seconds(GenericFunction[int]):  # noqa: N801 - a function of SQL is named as one
    """The whole seconds of a time since 1970: PostgreSQL rounds where SQLite cuts off."""

    type = BigInteger()
    inherit_cache = True


@compiles(whole_seconds)
def _cut(element: Any, compiler: Any, **rest: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **rest)} AS BIGINT)"


@compiles(whole_seconds, "postgresql")
def _floor(element: Any, compiler: Any, **rest: Any) -> str:
    return f"CAST(floor({compiler.process(element.clauses, **rest)}) AS BIGINT)"


def number(value: int) -> ColumnElement[int]:
    """A constant of the statement itself: PostgreSQL takes two expressions with parameters for different ones."""
    return literal_column(str(value), BigInteger)


def hour_of(table: Table) -> ColumnElement[int]:
    """The hour since the epoch of an entry or a correction, exactly as Python's `at // 3600`."""
    return whole_seconds(table.c.at) // number(HOUR)


GROUPS = ("day", "model", "strategy", "caller", "hour", "route")
"""What savings can be grouped by."""


def _sum(column: ColumnElement[Any], when: ColumnElement[bool] | None = None) -> ColumnElement[Any]:
    return func.coalesce(func.sum(column if when is None else case((when, column), else_=0)), 0)


def _count(when: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((when, 1), else_=0))


_row = entries.c
_compared = and_(_row.spent.is_not(None), _row.baseline_likely.is_not(None))
_is_request = _row.shadow_of.is_(None)
_lengths = and_(_row.teacher_tokens.is_not(None), _row.baseline_tokens.is_not(None))
_wasted = _row.wasted.is_not(None)

SUMS: dict[str, ColumnElement[Any]] = {
    "requests": _count(_is_request),
    "spent": _sum(_row.priced_spent),
    **{stage: _sum(_row[f"{stage}_spent"]) for stage in STAGES},
    "unpriced": _count(and_(_row.unpriced, _is_request)),
    "notional": _sum(_row.notional_spent),
    "bound": _sum(_row.bound_spent),
    "wasted": _count(_wasted),
    "wasted_spent": _sum(_row.guidance_spent, _wasted),
    "compared": _count(_compared),
    "compared_spent": _sum(_row.spent, _compared),
    "likely": _sum(_row.baseline_likely, _compared),
    "low": _sum(_row.baseline_low, _compared),
    "low_known": _count(and_(_compared, _row.baseline_low.is_not(None))),
    "high": _sum(_row.baseline_high, _compared),
    "high_known": _count(and_(_compared, _row.baseline_high.is_not(None))),
    "teacher_tokens": _sum(_row.teacher_tokens, _lengths),
    "baseline_tokens": _sum(_row.baseline_tokens, _lengths),
    "corrected": func.sum(number(0)),  # only corrections are
    "shadows": _count(~_is_request),
    "shadows_unpriced": _count(and_(_row.unpriced, ~_is_request)),
}
"""What each measure of a rollup is, of entries."""


def wanted(query: Query, table: Table = entries) -> list[ColumnElement[bool]]:
    """The conditions that `query` puts on an entry, or on a correction."""
    conditions: list[ColumnElement[bool]] = []
    if query.since is not None:
        conditions.append(table.c.at >= query.since)
    if query.until is not None:
        conditions.append(table.c.at < query.until)
    return conditions + filters(query, table)


def filters(query: Query, table: Table = entries) -> list[ColumnElement[bool]]:
    """Those of them that are not about time."""
    asked = (
        ("model", query.model),
        ("strategy", query.strategy),
        ("caller", query.caller),
        ("outcome", query.outcome),
    )
    return [table.c[name] == value for name, value in asked if value is not None]


def older(than: tuple[float, str]) -> ColumnElement[bool]:
    """The condition that an entry comes after the one with this `at` and `request_id`, newest first."""
    at, request_id = than
    return and_(_row.at <= at, or_(_row.at < at, _row.request_id < request_id))


def from_entries(query: Query) -> Select[Any]:
    """The sums that `query` asks for, of the entries as they are. `BadRequest` for a grouping that there is not."""
    return _summed(query, entries, SUMS, wanted(query))


def from_corrections(query: Query) -> Select[Any]:
    """What corrections change about `from_entries`."""
    sums = {name: func.sum(corrections.c[name]) for name in MEASURES}
    return _summed(query, corrections, sums, wanted(query, corrections))


def _from_rollups(query: Query, level: Level, first: int | None, last: int | None) -> Select[Any]:
    """Both, from the rollups of a level; see `within`."""
    conditions = [*within(level, first, last), *filters(query, rollups)]
    return _summed(query, rollups, {name: func.sum(rollups.c[name]) for name in MEASURES}, conditions)


def within(level: Level, first: int | None, last: int | None) -> list[ColumnElement[bool]]:
    """The rollups of a level from the hour `first` up to `last`; None: without end."""
    limits = [
        *([rollups.c.hour >= first] if first is not None else []),
        *([rollups.c.hour < last] if last is not None else []),
    ]
    return [rollups.c.level == level.number, *limits]


def _summed(
    query: Query, table: Table, sums: Mapping[str, ColumnElement[Any]], conditions: Iterable[ColumnElement[bool]]
) -> Select[Any]:
    method = table.c.method if table is rollups else table.c.baseline_method
    parts = [table.c.outcome.label("outcome"), method.label("method")]
    if query.by is not None:
        parts.append(_group(query, table).label("group"))
    # PostgreSQL sums whole numbers into decimal ones, which take longer.
    labelled = [cast(sums[name], BigInteger).label(name) for name in MEASURES]  # in the order of `Sums`
    return select(*parts, *labelled).where(*conditions).group_by(*(part.element for part in parts))


def _group(query: Query, table: Table) -> ColumnElement[Any]:
    by = query.by or ""
    if by not in GROUPS:
        raise BadRequest(f"by must be one of {', '.join(GROUPS)}, not {by!r}", param="by")
    if by == "hour":
        return table.c.hour if table is rollups else hour_of(table)
    if by == "day" and query.ahead:
        return _day(table.c.hour if table is rollups else hour_of(table), query.ahead)
    return table.c.hour // number(DAY) if by == "day" and table is rollups else table.c[by]


def _day(hour: ColumnElement[int], ahead: Sequence[tuple[int, int]]) -> ColumnElement[int]:
    """The number of the day, in a zone, that holds an hour; see `Query.ahead`."""
    (_, first), *later = ahead
    changes = [(hour >= number(since), (hour + number(hours)) // number(DAY)) for since, hours in reversed(later)]
    usual = (hour + number(first)) // number(DAY)
    return case(*changes, else_=usual) if changes else usual


def statements(query: Query) -> Iterator[Select[Any]]:
    """What to ask so that all rows together are the sums of `query`, each request in one of them.

    Raises `BadRequest` for a grouping that there is not.
    """
    ends, stretches = _pieces(query)
    for end in ends:
        yield from_entries(end)
        yield from_corrections(end)
    for stretch in stretches:
        yield _from_rollups(query, *stretch)


def brief(query: Query) -> Select[Any]:
    """The group, and `Brief` of it, in one statement; raises `ValueError` for groups in time, which have two names.

    Few columns, and grouped by nothing else: what SQLite sorts rows of groups by is as wide as all that is summed.
    """
    if query.by is None or query.by in ("day", "hour"):
        raise ValueError(f"no brief sums by {query.by}")
    ends, stretches = _pieces(query)
    parts = [
        part
        for end in ends
        for part in (
            _named(query, entries, SUMS).where(*wanted(end)).group_by(_group(query, entries)),
            _named(query, corrections, dict(corrections.c)).where(*wanted(end, corrections)),
        )
    ]
    parts += [
        _named(query, rollups, dict(rollups.c)).where(*within(*stretch), *filters(query, rollups))
        for stretch in stretches
    ]
    all_ = union_all(*parts).subquery()
    sums = [cast(func.sum(all_.c[name]), BigInteger).label(name) for name in Brief._fields]
    return select(all_.c.group, *sums).group_by(all_.c.group)


def _named(query: Query, table: Table, measures: Mapping[str, ColumnElement[Any]]) -> Select[Any]:
    return select(_group(query, table).label("group"), *(measures[name].label(name) for name in Brief._fields))


Stretch = tuple[Level, int | None, int | None]
"""A level of the rollups, from which hour on, and up to which; None: without end."""


def _pieces(query: Query) -> tuple[list[Query], list[Stretch]]:
    """What is left at the two ends for the entries themselves to answer, and the stretches that rollups answer for."""
    first = None if query.since is None else int(-(-query.since // HOUR))
    last = None if query.until is None else int(query.until // HOUR)
    if first is not None and last is not None and first >= last:
        return [query], []
    ends: list[Query] = []
    if first is not None and query.since != first * HOUR:
        ends.append(replace(query, until=float(first * HOUR)))
    if last is not None and query.until != last * HOUR:
        ends.append(replace(query, since=float(last * HOUR)))
    return ends, cover(first, last, levels(query))


def levels(query: Query) -> list[Level]:
    """The levels to answer from, coarsest first: not coarser than the groups, and those that keep least beside them."""
    callers = query.by == "caller" or query.caller is not None
    plans = query.by in ("model", "strategy", "route") or query.model is not None or query.strategy is not None
    longest = {"hour": 1, "day": 1 if query.ahead else DAY}.get(query.by or "")
    # The callers of all time are more rows than the days of a year: only for their own sake.
    fitting = [level for level in LEVELS if level.by_caller is callers and (level.by_plan or (callers and not plans))]
    smallest = {level.hours: level for level in sorted(fitting, key=lambda level: level.by_plan, reverse=True)}
    return [smallest[hours] for hours in sorted(smallest, reverse=True) if longest is None or hours <= longest]


def cover(first: int | None, last: int | None, levels: Sequence[Level]) -> list[Stretch]:
    """The stretch between two hours, cut so that each piece is of the coarsest level that fits there."""
    if first is not None and last is not None and first >= last:
        return []
    level, *finer = levels
    if not finer:
        return [(level, first, last)]
    begin = None if first is None else -(-first // level.hours) * level.hours
    end = None if last is None else last // level.hours * level.hours
    if begin is not None and end is not None and begin >= end:
        return cover(first, last, finer)
    before = [] if begin is None else cover(first, begin, finer)
    after = [] if end is None else cover(end, last, finer)
    return [*before, (level, begin, end), *after]


def fold(rows: Iterable[Sequence[Any]], query: Query) -> dict[str, Sums]:
    """The rows of all `statements(query)`, added up by the name of their group."""
    groups: dict[Any, Sums] = {}
    first = 2 if query.by is None else 3
    for row in rows:
        measures = row[first:]
        if any(measures):  # a rollup that everything was taken out of again is none
            group = None if query.by is None else row[2]
            if (sums := groups.get(group)) is None:
                sums = groups[group] = Sums()
            sums.add(row[0], row[1], measures)
    if query.by is None:
        return {ALL: groups.get(None) or Sums()}  # all of nothing is a row of zeros
    named: defaultdict[str, list[Sums]] = defaultdict(list)
    for group, sums in groups.items():  # rollups and entries name days and hours differently
        named[_name(group, query.by)].append(sums)
    return {name: parts[0] if len(parts) == 1 else Sums.total(parts) for name, parts in sorted(named.items())}


def _name(group: Any, by: str) -> str:
    if by == "hour":
        return datetime.fromtimestamp(int(group) * HOUR, UTC).strftime("%Y-%m-%dT%H:00Z")
    return group if isinstance(group, str) else day_of(int(group) * DAY * HOUR)
