"""A database that does not fail but keeps who asks it waiting: nobody else waits, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from gateway.chat import Call
from gateway.errors import Busy
from gateway.ledger import upkeep
from gateway.ledger.entry import Entry
from gateway.ledger.sql import SqlLedger
from gateway.ledger.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Calls = Callable[..., Call]
Entries = Callable[..., Entry]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

SECONDS = 5.0
"""How long the database is blocked: longer than an intent would be kept waiting."""

PROMPT = 4.0
"""Seconds within which each step of a request is done, on a machine that has other things to do."""


@contextmanager
def locked(database: str) -> Iterator[None]:
    """Somebody else has the lock that all writers need."""
    engine = create_engine(database)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.connection.cursor().execute("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("LOCK TABLE rollups IN EXCLUSIVE MODE")
        yield
        connection.rollback()
    engine.dispose()


@contextmanager
def frozen(database: str) -> Iterator[None]:
    """The server's processes for this database stand still, and their sockets are open."""
    engine = create_engine(database)
    with engine.connect() as connection:
        pids = connection.scalars(
            text("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        ).all()
    engine.dispose()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@dataclass
class Load:
    """Requests one after the other, from twenty clients."""

    ledger: SqlLedger
    call: Calls
    entry: Entries
    done: list[str] = field(default_factory=list)
    slowest: float = 0.0
    stop: bool = False

    async def client(self, name: int) -> None:
        number = 0
        while not self.stop:
            request_id = f"{name}-{number}"
            number += 1
            made = self.call(request_id)
            await self.timed(self.ledger.intend(made))
            await asyncio.sleep(0.01)
            await self.timed(self.ledger.settle(self.entry(request_id, made)))
            self.done.append(request_id)

    async def timed(self, step: object) -> None:
        began = time.monotonic()
        await step  # type: ignore[misc]  # a coroutine of the ledger's
        self.slowest = max(self.slowest, time.monotonic() - began)


async def check(database: str, folder: Path, load: Load) -> None:
    """Every entry is there, once."""
    await asyncio.wait_for(load.ledger.aclose(), 30)
    again = await SqlLedger.open(database, spool=folder)
    [row] = await again.savings()
    count = len(load.done)
    assert (row.requests, row.outcomes, row.spent.nano) == (count, {"ok": count}, 10 * count)
    assert {str(each["request_id"]) for each in await again.entries(limit=count + 1)} == set(load.done)
    await again.aclose()
    assert upkeep.check(database) == []
    assert not [path for path in os.listdir(folder) if ".spool-" in path]


@pytest.mark.parametrize("how", ["locked", "frozen"])
async def test_a_database_that_blocks_under_load_keeps_nobody(
    database: str, tmp_path: Path, call: Calls, entry: Entries, until: Until, how: str
) -> None:
    if how == "frozen" and database.startswith("sqlite"):
        pytest.skip("SQLite has no server")
    blocked = locked if how == "locked" else frozen
    load = Load(await SqlLedger.open(database, spool=tmp_path, heartbeat=0.5), call, entry)

    async def under_way() -> bool:
        return len(load.done) > 100

    clients = [asyncio.create_task(load.client(name)) for name in range(20)]
    await until(under_way)
    before = len(load.done)
    with blocked(database):
        await asyncio.sleep(SECONDS / 2)
        middle = len(load.done)
        await asyncio.sleep(SECONDS / 2)
        during = len(load.done)
        assert load.ledger.away
        assert load.ledger.spooled > 0
    await asyncio.sleep(1.5)
    load.stop = True
    await asyncio.wait_for(asyncio.gather(*clients), 10)
    assert 0 < before <= middle < during < len(load.done)
    assert load.slowest < PROMPT
    await check(database, tmp_path, load)


async def test_a_frozen_server_and_a_full_disk_refuse_calls_and_keep_entries(
    postgres: Callable[[], str], tmp_path: Path, call: Calls, entry: Entries
) -> None:
    database = postgres()
    ledger = await SqlLedger.open(database, spool=tmp_path, spool_bytes=4_000, patience=0.5)
    with frozen(database):
        settled = [asyncio.create_task(ledger.settle(entry(f"s{n}", call(f"s{n}")))) for n in range(20)]
        async with asyncio.timeout(10):
            while not ledger.full:  # noqa: ASYNC110 - a thread's doing
                await asyncio.sleep(0.02)
        began = time.monotonic()
        with pytest.raises(Busy):
            await ledger.intend(call("late"))
        assert time.monotonic() - began < PROMPT
        assert not all(each.done() for each in settled), "the disk had no room for all"
    await asyncio.wait_for(asyncio.gather(*settled), 10)
    await ledger.aclose()
    again = await SqlLedger.open(database, spool=tmp_path)
    [row] = await again.savings()
    assert row.requests == 20
    await again.aclose()


async def test_rebuilding_and_pruning_hold_up_nobody(
    database: str, tmp_path: Path, call: Calls, entry: Entries
) -> None:
    """All sums are wrong, and half of the entries are to go, while others settle."""
    ledger = await SqlLedger.open(database, spool=tmp_path)
    old = [entry(f"old-{n}", call(f"old-{n}")) for n in range(3_000)]
    await asyncio.gather(*(ledger.settle(each) for each in old))
    with ledger.store.transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE rollups SET spent = spent + 1")
    now = 1.8e9 + 3 * 86_400

    def today(request_id: str, *made: Call) -> Entry:
        told = entry(request_id, *made)
        return Entry(**{name: getattr(told, name) for name in told.__slots__} | {"at": now})

    load = Load(ledger, call, today)
    clients = [asyncio.create_task(load.client(name)) for name in range(20)]
    wrong = await asyncio.to_thread(upkeep.rebuild, database)
    assert wrong
    assert (await asyncio.to_thread(upkeep.prune, database, now, "entries"))[1] == 3_000
    load.stop = True
    await asyncio.wait_for(asyncio.gather(*clients), 10)
    assert load.slowest < PROMPT
    await ledger.aclose()
    assert upkeep.check(database) == []
    store = Store.open(database)
    with store.transaction() as connection:
        counted = connection.exec_driver_sql("SELECT sum(requests), sum(spent) FROM rollups WHERE level = 1").one()
    store.close()
    count = 3_000 + len(load.done)
    assert tuple(map(int, counted)) == (count, 10 * count)
