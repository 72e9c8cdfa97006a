"""Rollups: sums by the hour and coarser, kept in the transaction that writes the entries, and proven against them.

Everything is said in one place, `savings.SUMS`: what a rollup adds up is computed by the database from the entries that
it has just been given, so that live sums, rebuilt ones and the check cannot mean different things.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Connection,
    Dialect,
    Select,
    Table,
    Text,
    bindparam,
    case,
    cast,
    column,
    delete,
    except_,
    func,
    insert,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    type_coerce,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.ledger.savings import HOUR, SUMS, hour_of, number
from gateway.ledger.schema import LEVELS, MEASURES, Level, corrections, entries, marks, rollups

KEYS = rollups.primary_key.columns.keys()

Hour: TypeAlias = int | ColumnElement[int]
"""An hour since the epoch, or a parameter for one."""


def added(dialect: str, which: Any, sign: int = 1) -> Any:
    """Adds to the rollups of all levels the entries that `which` names (see `named`), or takes them out."""
    return _upsert(dialect, summed(sign=sign).where(named(dialect, which)))


def _added_with(dialect: str, which: Any, these: Sequence[Mapping[str, Any]]) -> Any:
    """The same, with some rows of `corrections`, in one statement: see `_upsert`."""
    keys = [(correction["request_id"], correction["number"]) for correction in these]
    changed = tuple_(corrections.c.request_id, corrections.c.number).in_(keys)
    of = union_all(summed().where(named(dialect, which)), summed(table=corrections).where(changed)).subquery()
    sums = [cast(func.sum(of.c[name]), BigInteger).label(name) for name in MEASURES]
    by = [of.c[key] for key in KEYS]
    return _upsert(dialect, select(*by, *sums).group_by(*by))


def _upsert(dialect: str, of: Select[Any]) -> Any:
    into = sqlite.insert(rollups) if dialect == "sqlite" else postgresql.insert(rollups)
    # In the order of their keys: two processes that add to the same ones then never wait for each other in a circle.
    new = into.from_select([*KEYS, *MEASURES], of.order_by(*(column(key) for key in KEYS)))
    more = {name: rollups.c[name] + new.excluded[name] for name in MEASURES}
    return new.on_conflict_do_update(index_elements=KEYS, set_=more)


def summed(levels: Sequence[Level] = LEVELS, *, sign: int = 1, table: Table = entries) -> Select[Any]:
    """Rollups as entries make them, as corrections change them, or of coarser levels as the finest has them.

    Column for column; `sign` -1 for all sums the other way round.
    """
    level = _levels(levels)
    hour = table.c.hour if table is rollups else hour_of(table)
    method = table.c.method if table is rollups else func.coalesce(table.c.baseline_method, literal_column("''", Text))
    told: dict[str, ColumnElement[Any]] = {
        "level": level.c.level,
        "hour": hour // level.c.hours * level.c.hours,
        "outcome": table.c.outcome,
        "caller": _if(level.c.by_caller, table.c.caller),
        **{name: _if(level.c.by_plan, table.c[name]) for name in ("model", "strategy", "route")},
        "method": method,
    }
    of = SUMS if table is entries else {name: func.sum(table.c[name]) for name in MEASURES}
    sums = [cast(of[name] * sign if sign != 1 else of[name], BigInteger).label(name) for name in MEASURES]
    keys = [told[key] for key in KEYS]
    labelled = [key.label(name) for key, name in zip(keys, KEYS, strict=True)]
    return select(*labelled, *sums).select_from(table.join(level, true())).group_by(*keys)


def _if(kept: ColumnElement[int], name: ColumnElement[str]) -> ColumnElement[str]:
    return case((kept == number(1), name), else_=literal_column("''", Text))


def _levels(levels: Sequence[Level]) -> Any:
    """A table of them, so that one statement serves all."""

    def row(level: Level) -> Any:
        told = {
            "level": level.number,
            "hours": level.hours,
            "by_caller": int(level.by_caller),
            "by_plan": int(level.by_plan),
        }
        return select(*(number(value).label(name) for name, value in told.items()))

    return union_all(*map(row, levels)).subquery("levels")


def proven(start: Hour, end: Hour | None = None) -> Select[Any]:
    """Rollups of the finest level from the hour `start` up to `end`, as entries and corrections together say they are.

    Without those that come to nothing: a correction may take out all that an entry put in.
    """
    finest = LEVELS[:1]

    def within(table: Table) -> list[ColumnElement[bool]]:
        return [table.c.at >= start * HOUR, *([table.c.at < end * HOUR] if end is not None else [])]

    of = union_all(*(summed(finest, table=table).where(*within(table)) for table in (entries, corrections))).subquery()
    sums = [cast(func.sum(of.c[name]), BigInteger).label(name) for name in MEASURES]
    told = select(*(of.c[key] for key in KEYS), *sums).group_by(*(of.c[key] for key in KEYS))
    return told.having(or_(*(func.sum(of.c[name]) != 0 for name in MEASURES)))


def derived(level: Level, first: Hour | None = None, end: Hour | None = None) -> Select[Any]:
    """Rollups of a coarser level as the one it is made of has them; of whole spans of it, where hours are given."""
    finer = summed([level], table=rollups).where(rollups.c.level == number(level.of or 0), _is_something())
    told = finer.where(*_hours(first, end))
    return told.having(or_(*(func.sum(rollups.c[name]) != 0 for name in MEASURES)))


def _hours(first: Hour | None, end: Hour | None) -> list[ColumnElement[bool]]:
    since = [rollups.c.hour >= first] if first is not None else []
    return [*since, *([rollups.c.hour < end] if end is not None else [])]


def _is_something() -> ColumnElement[bool]:
    """Not one that everything was taken out of again."""
    return or_(*(rollups.c[name] != 0 for name in MEASURES))


def correct(connection: Connection, these: Sequence[Mapping[str, Any]], of: Sequence[str] = ()) -> None:
    """Put rows of `corrections` on record, and what they change into the rollups, with the new entries `of`."""
    if not these:
        add(connection, of)
        return
    connection.execute(insert(corrections), [dict(correction) for correction in these])
    dialect = connection.dialect.name
    connection.execute(_added_with(dialect, bindparam("ids"), these), {"ids": ids(dialect, of)})


def ids(dialect: str, of: Sequence[str]) -> Any:
    """Names of entries as one value, for `named`, so that a statement is the same for any number of them."""
    return orjson.dumps(of).decode() if dialect == "sqlite" else list(of)


def add(connection: Connection, of: Sequence[str], sign: int = 1) -> None:
    """Add the entries `of` to the rollups, as they are now, or take them out."""
    dialect = connection.dialect.name
    if of:
        connection.execute(added(dialect, bindparam("ids"), sign), {"ids": ids(dialect, of)})


def named(dialect: str, which: Any, table: Table = entries) -> ColumnElement[bool]:
    """The rows whose request is in `which`: a value that `ids` made, or a parameter for one."""
    if dialect == "sqlite":
        return table.c.request_id.in_(select(column("value")).select_from(func.json_each(which)))
    return table.c.request_id == func.any(type_coerce(which, postgresql.ARRAY(Text)))


def kept_from(connection: Connection) -> int:
    """The first hour of which all entries are still there; the sums of earlier ones cannot be proven any more."""
    return connection.scalar(select(marks.c.hour).where(marks.c.name == "pruned")) or 0


def differences(connection: Connection) -> list[dict[str, Any]]:
    """The rollups that are not what they should be, as they are (`kept`) and as they should be (`should`).

    The finest are compared with the entries, but for hours whose entries may have been pruned, and each coarser level
    with the one that it is made of. Reads all entries: some seconds for a million.
    """
    found = finest_differences(connection)
    found += [wrong for level in LEVELS[1:] for wrong in coarser_differences(connection, level)]
    return sorted(found, key=lambda wrong: tuple(wrong[key] for key in KEYS))


def finest_differences(connection: Connection, first: int = 0, end: int | None = None) -> list[dict[str, Any]]:
    """Those of the finest level in a range of hours, which are compared with the entries. One snapshot is needed."""
    start = max(first, kept_from(connection))
    if end is not None and start >= end:
        return []
    return _compared(connection, LEVELS[0], start, end)


def coarser_differences(
    connection: Connection, level: Level, first: int | None = None, end: int | None = None
) -> list[dict[str, Any]]:
    """Those of a coarser level, compared with the one it is made of; of whole spans of it, where hours are given."""
    return _compared(connection, level, first, end)


def _compared(connection: Connection, level: Level, first: int | None, end: int | None) -> list[dict[str, Any]]:
    kind: Callable[[], Dialect] = type(connection.dialect)
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, statement in zip(("kept", "should"), _comparisons(kind, level, first is None, end is None), strict=True):
        for row in connection.exec_driver_sql(statement, {"first": first, "end": end}).mappings():
            key = tuple(row[each] for each in KEYS)
            wrong = found.setdefault(key, {**dict(zip(KEYS, key, strict=True)), "kept": None, "should": None})
            wrong[name] = {each: int(row[each]) for each in MEASURES}
    return [found[key] for key in sorted(found)]


@cache
def _comparisons(kind: Callable[[], Dialect], level: Level, from_first: bool, to_last: bool) -> tuple[str, str]:
    """What is kept and should not be, and the other way round, in the hours from `:first` up to `:end`, if any.

    Compiled once a process: that takes longer than a small database takes to answer.
    """
    dialect = kind()
    first = None if from_first else literal_column(":first", BigInteger)
    end = None if to_last else literal_column(":end", BigInteger)
    kept = select(*(rollups.c[name] for name in (*KEYS, *MEASURES)))
    are = kept.where(rollups.c.level == level.number, _is_something(), *_hours(first, end))
    should = proven(number(0) if first is None else first, end) if level is LEVELS[0] else derived(level, first, end)

    def plain(statement: CompoundSelect[Any]) -> str:
        told = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        if dialect.name == "sqlite":
            return told
        return told.replace(":first", "%(first)s::bigint").replace(":end", "%(end)s::bigint")

    return plain(except_(are, should)), plain(except_(should, are))


def hold(connection: Connection) -> None:
    """Keep others from changing rollups until the transaction ends; a writer's transaction on SQLite does so itself.

    Who has written entries and waits for this adds them to the rollups afterwards. For who changes them more than once
    in a transaction, too: nobody can then wait in a circle. Comes before the first change, and behind locks on entries.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE rollups IN EXCLUSIVE MODE")


def rebuild(connection: Connection) -> None:
    """Make the rollups anew from the entries, but for the hours whose entries may have been pruned. See `hold`.

    In one go, and so for a database that was filled by other means; one that is written to is mended (see `mending`).
    """
    start = kept_from(connection)
    finest, *coarser = LEVELS
    is_finest = rollups.c.level == finest.number
    connection.execute(delete(rollups).where(~is_finest | (rollups.c.hour >= start)))
    for made in (proven(start), *map(derived, coarser)):
        connection.execute(insert(rollups).from_select([*KEYS, *MEASURES], made))
