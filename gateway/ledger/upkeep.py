"""Upkeep: what an operator does to the ledger's database from outside; a gateway may be writing meanwhile.

All of it is done in small steps with rests between them: SQLite has one writer, and a gateway must not wait for long.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, Table, delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.ledger import rollup
from gateway.ledger.mending import mend, rest
from gateway.ledger.reading import ledger_at
from gateway.ledger.savings import DAY, HOUR
from gateway.ledger.schema import calls, corrections, entries, marks, measurements, scores

BATCH = 2_000
"""Entries that are removed in one transaction: a fraction of a second, in which SQLite has no other writer."""

BELONGING: tuple[Table, ...] = (calls, scores, corrections, measurements)
"""What is kept of a request beside its entry, and goes with it. Rollups have the sums of it."""

What = Literal["texts", "entries"]


def check(url: str) -> list[dict[str, Any]]:
    """The rollups that are not what the entries say: see `rollup.differences`. Nothing is changed.

    Raises `ConfigError`, as all here do, when there is no ledger at `url`, or one of another version.
    """
    with ledger_at(url) as connection:
        return rollup.differences(connection)


def rebuild(url: str) -> list[dict[str, Any]]:
    """Make right the rollups that are not what the entries say; what was wrong with them. See `mending`."""
    return mend(url)


def prune(url: str, before: float, what: What) -> tuple[float, int]:
    """Remove the entries before a moment with their calls, or their texts alone; the moment, and how many they were.

    The moment is moved back to the beginning of its day (UTC). Sums of what is removed stay: they are kept by the hour.
    Entries that somebody is just changing are left to the next time.
    """
    first = int(before // HOUR) // DAY * DAY
    start = float(first * HOUR)
    with ledger_at(url, for_writing=True) as connection:
        removed = 0
        began = time.monotonic()
        while count := prune_some(connection, start, what, BATCH):
            connection.commit()
            removed += count
            rest(time.monotonic() - began)
            began = time.monotonic()
        connection.commit()
        while what == "entries" and _orphans(connection, start):
            connection.commit()
        connection.commit()
    return start, removed


def prune_some(connection: Connection, start: float, what: What, most: int) -> int:
    """Remove at most so many of the entries before `start`, which begins a day (UTC), or of their texts; how many."""
    return _entries(connection, int(start // HOUR), most) if what == "entries" else _texts(connection, start, most)


def day(at: float) -> str:
    """A moment's date in UTC."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def moment(hour: int) -> str:
    """The beginning of an hour since the epoch, in UTC."""
    return datetime.fromtimestamp(hour * HOUR, UTC).strftime("%Y-%m-%dT%H:00Z")


def _mark(connection: Connection, hour: int) -> None:
    """From now on nobody proves the sums before `hour` by entries. In the transaction that removes the first of them.

    Who proves sums looks at the mark and at the entries in one snapshot, and so never between the two.
    """
    if rollup.kept_from(connection) < hour:
        into = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        new = into(marks).values(name="pruned", hour=hour)
        later = marks.c.hour < new.excluded.hour
        connection.execute(new.on_conflict_do_update(index_elements=["name"], set_={"hour": hour}, where=later))


def _entries(connection: Connection, first: int, most: int) -> int:
    _mark(connection, first)
    # Not those with an open call: its process may yet settle it, or recovery add it.
    is_open = exists().where(calls.c.request_id == entries.c.request_id, calls.c.is_open)
    old = select(entries.c.request_id).where(entries.c.at < first * HOUR, ~is_open).order_by(entries.c.at).limit(most)
    # Others lock entries first and change rollups then: to wait for them here would be to wait in a circle.
    names = list(connection.scalars(old.with_for_update(skip_locked=True)))
    which = rollup.ids(connection.dialect.name, names)
    for table in BELONGING:
        connection.execute(delete(table).where(rollup.named(connection.dialect.name, which, table)))
    connection.execute(delete(entries).where(rollup.named(connection.dialect.name, which)))
    return len(names)


def _orphans(connection: Connection, before: float) -> int:
    """Remove what belonged to entries that an older version pruned and left behind; how many rows, at most `BATCH`."""
    gone = 0
    for table, at in ((corrections, corrections.c.at), (measurements, measurements.c.at), (scores, scores.c.made)):
        there = exists().where(entries.c.request_id == table.c.request_id)
        names = list(connection.scalars(select(table.c.request_id).where(at < before, ~there).limit(BATCH)))
        which = rollup.ids(connection.dialect.name, names)
        gone += connection.execute(delete(table).where(rollup.named(connection.dialect.name, which, table))).rowcount
    return gone


def _texts(connection: Connection, before: float, most: int) -> int:
    told = select(entries.c.request_id).where(entries.c.at < before, entries.c.text.is_not(None)).limit(most)
    return connection.execute(update(entries).where(entries.c.request_id.in_(told)).values(text=None)).rowcount
