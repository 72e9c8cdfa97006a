"""Mending: sums that are wrong are made right in small steps, while entries settle.

An entry and its part of the sums are committed together, so how much a sum is wrong by is the same whatever settles
meanwhile. It is measured in a snapshot, slice by slice, which locks nothing, and then added to the sum, a few rows a
transaction, as a writer adds. What would change the measure is another who mends: a mark counts the transactions of
those, and each makes sure that it is the next.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.ledger.reading import ledger_at
from gateway.ledger.rollup import KEYS, coarser_differences, finest_differences
from gateway.ledger.savings import DAY, HOUR
from gateway.ledger.schema import LEVELS, MEASURES, Level, corrections, entries, marks, rollups

CHUNK = 500
"""Rows that are changed in one transaction; nobody waits for them for longer than some milliseconds."""

SPAN = max(level.hours for level in LEVELS)
"""Hours of the coarsest level, in which all others fit."""

LEAST_REST = 0.1
"""Seconds: how long a writer of SQLite sleeps at most between its looks at the lock that it waits for."""

PLAN = ("model", "strategy", "route")
"""What is empty in the keys of levels that do not tell plans apart."""

Key = tuple[Any, ...]
Change = Mapping[Key, Sequence[int]]
"""What is to be added to each measure of a rollup."""


def mend(url: str) -> list[dict[str, Any]]:
    """Make all sums right at the ledger at `url`; what was wrong (see `rollup.differences`). Raises `ConfigError`.

    When it is interrupted, some sums are right and the others as they were.
    """
    wrong: list[dict[str, Any]] = []
    with ledger_at(url) as snapshot:
        snapshot.rollback()
        done = 0
        while (begin := _next(snapshot, done)) is not None:
            first = begin // SPAN * SPAN
            done = first + SPAN
            hour = _next(snapshot, first, LEVELS[:1])
            while hour is not None and hour < done:
                day = hour // DAY * DAY
                wrong += _slice(url, snapshot, day, day + DAY)
                hour = _next(snapshot, day + DAY, LEVELS[:1])
            for level in LEVELS[1:]:  # each behind the one that it is made of, which is right by now
                wrong += _slice(url, snapshot, first, done, level)
    return sorted(wrong, key=lambda each: tuple(each[key] for key in KEYS))


def rest(took: float) -> None:
    """Leave the database to others for as long as it was kept from them."""
    time.sleep(max(took, LEAST_REST))


def _slice(url: str, snapshot: Connection, first: int, end: int, level: Level | None = None) -> list[dict[str, Any]]:
    """Mend the finest sums of some hours, and with them the coarser ones; or those of one coarser level."""
    while True:
        counted = _counted(snapshot)
        if level is None:
            wrong = finest_differences(snapshot, first, end)
        else:
            wrong = coarser_differences(snapshot, level, first, end)
        snapshot.rollback()
        if not wrong or _add(url, changes(wrong), counted):
            return wrong


def changes(wrong: Sequence[Mapping[str, Any]]) -> Change:
    """What makes these sums right, and with a finest one all the coarser ones that are sums of it."""
    found: defaultdict[Key, list[int]] = defaultdict(lambda: [0] * len(MEASURES))
    finest, *coarser = LEVELS
    for each in wrong:
        kept, should = each["kept"] or {}, each["should"] or {}
        change = [should.get(name, 0) - kept.get(name, 0) for name in MEASURES]
        targets = [dict(each)]
        if each["level"] == finest.number:
            for level in coarser:
                hour = each["hour"] // level.hours * level.hours
                together = [*([] if level.by_caller else ["caller"]), *([] if level.by_plan else PLAN)]
                targets.append({**each, "level": level.number, "hour": hour, **dict.fromkeys(together, "")})
        for target in targets:
            sums = found[tuple(target[key] for key in KEYS)]
            sums[:] = map(sum, zip(sums, change, strict=True))
    return {key: sums for key, sums in sorted(found.items()) if any(sums)}


def _add(url: str, change: Change, counted: int) -> bool:
    """Add `change`; False when somebody else has mended since `counted`: what is left must be measured again."""
    rows = (
        {**dict(zip(KEYS, key, strict=True)), **dict(zip(MEASURES, sums, strict=True))} for key, sums in change.items()
    )
    with ledger_at(url, for_writing=True) as connection:
        connection.rollback()
        into = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        new = into(rollups)
        more = {name: rollups.c[name] + new.excluded[name] for name in MEASURES}
        adds = new.on_conflict_do_update(index_elements=list(KEYS), set_=more)
        while chunk := list(islice(rows, CHUNK)):
            began = time.monotonic()
            if not _count(connection, counted):
                connection.rollback()
                return False
            connection.execute(adds, chunk)
            connection.commit()
            counted += 1
            rest(time.monotonic() - began)
    return True


def _counted(connection: Connection) -> int:
    return connection.scalar(select(marks.c.hour).where(marks.c.name == "mended")) or 0


def _count(connection: Connection, counted: int) -> bool:
    """Count one more, unless there are others than `counted`."""
    mine = update(marks).where(marks.c.name == "mended", marks.c.hour == counted).values(hour=counted + 1)
    if connection.execute(mine).rowcount:
        return True
    into = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    first = into(marks).values(name="mended", hour=1).on_conflict_do_nothing()
    return counted == 0 and connection.execute(first.execution_options(preserve_rowcount=True)).rowcount > 0


def _next(connection: Connection, hour: int, levels: Sequence[Level] = LEVELS) -> int | None:
    """The first hour from `hour` on of which there is anything to look at in these levels; None: there is none."""
    found = [int(at // HOUR) for at in _moments(connection, hour * HOUR) if at is not None]
    for level in levels:
        first = select(func.min(rollups.c.hour)).where(rollups.c.level == level.number, rollups.c.hour >= hour)
        found += [each for each in [connection.scalar(first)] if each is not None]
    connection.rollback()
    return min(found, default=None)


def _moments(connection: Connection, since: float) -> Iterator[float | None]:
    for table in (entries, corrections):
        yield connection.scalar(select(func.min(table.c.at)).where(table.c.at >= since))
