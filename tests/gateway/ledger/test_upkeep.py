"""What an operator does to the database from outside, while a gateway has it open."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from gateway.chat import Call
from gateway.errors import ConfigError
from gateway.ledger import retention, rollup, upkeep
from gateway.ledger.entry import Entry, Query
from gateway.ledger.schema import corrections, entries, measurements, scores
from gateway.ledger.sql import SqlLedger
from tests.contracts.shadowed import served, shadow

pytestmark = pytest.mark.anyio

Calls = Callable[..., Call]
Entries = Callable[..., Entry]

DAY = 86_400.0
MIDNIGHT = 1_800_057_600.0


async def filled(database: str, folder: Path, call: Calls, entry: Entries) -> SqlLedger:
    """Four days with three requests each, at 0:00, 8:00 and 16:00, and a text in each."""
    ledger = await SqlLedger.open(database, spool=folder, text=True)
    for n in range(12):
        told = entry(f"r{n:02d}", call(f"r{n:02d}"))
        await ledger.settle(replace(told, at=MIDNIGHT + n * DAY / 3, text={"answer": "blue"}))
    return ledger


async def test_pruning_entries_keeps_their_sums(database: str, tmp_path: Path, call: Calls, entry: Entries) -> None:
    ledger = await filled(database, tmp_path, call, entry)
    queries = [Query(), Query(by="day"), Query(by="hour"), Query(since=MIDNIGHT + DAY, by="model")]
    before = [await ledger.savings(query) for query in queries]
    noon = MIDNIGHT + 2.5 * DAY
    assert await asyncio.to_thread(upkeep.prune, database, noon, "entries") == (MIDNIGHT + 2 * DAY, 6)
    assert await asyncio.to_thread(upkeep.prune, database, noon, "entries") == (MIDNIGHT + 2 * DAY, 0)
    assert [await ledger.savings(query) for query in queries] == before
    assert [each["request_id"] for each in await ledger.entries()] == [f"r{n:02d}" for n in range(11, 5, -1)]
    assert await ledger.entry("r00") is None
    with ledger.store.transaction() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM calls").scalar() == 6, "their calls are gone too"

    # What is left is still proven; what is gone is not made anew from nothing.
    assert await asyncio.to_thread(upkeep.check, database) == []
    with ledger.store.transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE rollups SET requests = 7")
    assert await asyncio.to_thread(upkeep.rebuild, database)
    assert [row.requests for row in await ledger.savings(Query(by="day"))] == [21, 21, 3, 3]
    assert await asyncio.to_thread(upkeep.check, database) == []

    # A limit in the middle of a pruned hour counts as its beginning, and ranges still add up.
    parts = [Query(until=MIDNIGHT + 1.5), Query(MIDNIGHT + 1.5, MIDNIGHT + DAY / 3 + 9), Query(MIDNIGHT + DAY / 3 + 9)]
    counts = [(await ledger.savings(replace(query, by="hour"))) for query in parts]
    assert [sum(row.requests for row in rows) for rows in counts] == [0, 7, 41], "48 together"
    await ledger.aclose()


async def test_pruning_texts_keeps_the_entries(database: str, tmp_path: Path, call: Calls, entry: Entries) -> None:
    ledger = await filled(database, tmp_path, call, entry)
    assert await asyncio.to_thread(upkeep.prune, database, MIDNIGHT + DAY, "texts") == (MIDNIGHT + DAY, 3)
    assert [each["text"] for each in await ledger.entries()] == [{"answer": "blue"}] * 9 + [None] * 3
    assert await asyncio.to_thread(upkeep.check, database) == []
    with ledger.store.transaction() as connection:
        assert rollup.kept_from(connection) == 0
    await ledger.aclose()


async def test_an_open_call_keeps_its_entry(database: str, tmp_path: Path, call: Calls, entry: Entries) -> None:
    ledger = await filled(database, tmp_path, call, entry)
    await ledger.intend(call("r00", 2))
    assert (await asyncio.to_thread(upkeep.prune, database, MIDNIGHT + DAY, "entries"))[1] == 2
    assert await ledger.entry("r00") is not None
    await ledger.aclose()


async def test_many_are_pruned_in_batches(
    database: str, tmp_path: Path, call: Calls, entry: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "BATCH", 5)
    ledger = await filled(database, tmp_path, call, entry)
    assert (await asyncio.to_thread(upkeep.prune, database, MIDNIGHT + 9 * DAY, "texts"))[1] == 12
    assert (await asyncio.to_thread(upkeep.prune, database, MIDNIGHT + 9 * DAY, "entries"))[1] == 12
    assert (await ledger.savings())[0].requests == 12
    await ledger.aclose()


async def test_rebuilding_under_load_loses_nothing(database: str, tmp_path: Path, call: Calls, entry: Entries) -> None:
    ledger = await SqlLedger.open(database, spool=tmp_path)
    stop = asyncio.Event()
    done = 0

    async def worker(name: int) -> None:
        nonlocal done
        number = 0
        while not stop.is_set():
            await ledger.settle(entry(f"{name}-{number}", call(f"{name}-{number}")))
            number += 1
            done += 1

    workers = [asyncio.create_task(worker(name)) for name in range(8)]
    for _ in range(5):
        await asyncio.sleep(0.1)
        with ledger.store.transaction(write=True) as connection:
            connection.exec_driver_sql("UPDATE rollups SET spent = spent + 1")
        assert await asyncio.to_thread(upkeep.rebuild, database)
    stop.set()
    await asyncio.gather(*workers)
    await ledger.aclose()
    assert upkeep.check(database) == []
    again = await SqlLedger.open(database, spool=tmp_path)
    [row] = await again.savings()
    assert (row.requests, row.spent.nano) == (done, 10 * done)
    await again.aclose()


def test_there_must_be_a_ledger(tmp_path: Path) -> None:
    for work in (upkeep.check, upkeep.rebuild, lambda database: upkeep.prune(database, 0.0, "entries")):
        with pytest.raises(ConfigError, match="no ledger"):
            work(f"sqlite:///{tmp_path}/none.db")
        with closing(sqlite3.connect(tmp_path / "empty.db")):
            (tmp_path / "empty.db").touch()
        with pytest.raises(ConfigError, match="no ledger in it"):
            work(f"sqlite:///{tmp_path}/empty.db")
    assert not (tmp_path / "none.db").exists()


async def test_what_belongs_to_a_pruned_entry_goes_with_it(database: str, tmp_path: Path) -> None:
    """Its corrections, what measured it and its scores; the sums of all of it stay, and what is left is proven."""
    ledger = await SqlLedger.open(database, spool=tmp_path)
    for name, at in (("old", MIDNIGHT + 60), ("young", MIDNIGHT + 2 * DAY)):
        request = replace(served(name), at=at)
        await ledger.settle(request)
        await ledger.settle(shadow(request))
        await ledger.score(name, "feedback", 1.0)
    queries = [Query(), Query(by="day"), Query(by="strategy")]
    before = [await ledger.savings(query) for query in queries]
    assert before[0][0].baseline_by_method.keys() == {"measured"}

    def left() -> dict[str, set[str]]:
        with ledger.store.transaction() as connection:
            return {
                table.name: set(connection.scalars(select(table.c.request_id)))
                for table in (corrections, measurements, scores)
            }

    assert all(names == {"old", "young"} for names in left().values())
    assert await asyncio.to_thread(upkeep.prune, database, MIDNIGHT + DAY, "entries") == (MIDNIGHT + DAY, 2)
    assert all(names == {"young"} for names in left().values())
    assert [await ledger.savings(query) for query in queries] == before
    assert await asyncio.to_thread(upkeep.check, database) == []
    # What an older version left behind is found, too.
    with ledger.store.transaction(write=True) as connection:
        connection.execute(delete(entries).where(entries.c.request_id.like("young%")))
        connection.execute(update(scores).values(made=MIDNIGHT + 2 * DAY))
    assert (await asyncio.to_thread(upkeep.prune, database, MIDNIGHT + 3 * DAY, "entries"))[1] == 0
    assert all(not names for names in left().values())
    assert [await ledger.savings(query) for query in queries] == before
    await ledger.aclose()


async def test_a_gateway_keeps_no_longer_than_it_is_told(
    database: str, tmp_path: Path, call: Calls, entry: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    monkeypatch.setattr(retention, "PAUSE", 0.0)
    ledger = await filled(database, tmp_path, call, entry)
    [before] = await ledger.savings()
    asked: list[float] = []

    def aside(moment: float) -> int:
        asked.append(moment)
        return 0

    def keeping(days: int | None, texts: int | None) -> retention.Retention:
        return retention.Retention(ledger.store, days, texts, aside, lambda: MIDNIGHT + 4.5 * DAY)

    assert await keeping(None, None).once() == (0, 0)
    assert await keeping(3, 2).once() == (6, 3)
    assert await keeping(3, 2).once() == (0, 0)
    found = await ledger.entries()
    assert [each["request_id"] for each in found] == [f"r{n:02d}" for n in range(11, 2, -1)]
    assert [each["text"] is None for each in found] == [False] * 6 + [True] * 3
    assert asked == [MIDNIGHT + 2 * DAY] * 2, "what is kept aside has texts, too"
    assert await ledger.savings() == [before]
    assert await asyncio.to_thread(upkeep.check, database) == []
    await ledger.aclose()


async def test_a_database_that_is_away_does_not_end_it(
    database: str, tmp_path: Path, call: Calls, entry: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FIRST", 0.0)
    monkeypatch.setattr(retention, "DAY", 1e-9)
    ledger = await filled(database, tmp_path, call, entry)
    tries = 0

    def aside(moment: float) -> int:
        nonlocal tries
        tries += 1
        raise OSError("away")

    keeping = asyncio.create_task(retention.Retention(ledger.store, None, 10**9, aside).run())
    for _ in range(500):
        if tries > 2:
            break
        await asyncio.sleep(0.01)
    keeping.cancel()
    assert tries > 2
    await asyncio.wait([keeping])
    await ledger.aclose()
