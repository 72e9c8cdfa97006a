"""The writer: few transactions, nothing lost, nobody waits for ever."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.typing import EventDict

from gateway.chat import Call
from gateway.errors import Busy, GatewayError
from gateway.ledger import rows
from gateway.ledger.entry import Entry
from gateway.ledger.rows import Intent, Settlement
from gateway.ledger.sql import SqlLedger
from gateway.ledger.store import Store
from gateway.ledger.writer import Writer

pytestmark = pytest.mark.anyio

Calls = Callable[..., Call]
Entries = Callable[..., Entry]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


class Counting(Store):
    """A store that remembers how large its batches were."""

    batches: list[int]

    def write(self, batch: Sequence[Intent | Settlement]) -> None:
        super().write(batch)
        self.batches.append(len(batch))


@pytest.fixture
async def store(url: str) -> AsyncIterator[Counting]:
    made = Counting.open(url)
    assert isinstance(made, Counting)
    made.batches = []
    assert made.join(0.0) == 1
    yield made
    made.close()


@contextmanager
def locked(url: str) -> Iterator[sqlite3.Connection]:
    """Another process's write transaction, held."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


def count(url: str, table: str) -> int:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        return int(other.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def aside(folder: Path) -> list[Path]:
    return list(folder.glob("refused-*"))


@pytest.mark.alone
async def test_many_share_a_transaction(store: Counting, url: str, call: Calls) -> None:
    writer = Writer(store, lambda: None)
    await asyncio.gather(*(writer.intend(rows.intent(call(f"r{n}"), 1)) for n in range(100)))
    assert count(url, "calls") == 100
    assert len(store.batches) <= 5, store.batches
    assert writer.waiting == 0
    await writer.close()


@pytest.mark.alone
async def test_one_alone_does_not_wait_for_others(url: str, call: Calls) -> None:
    ledger = await SqlLedger.open(url)
    began = time.monotonic()
    for n in range(20):
        await ledger.intend(call(f"r{n}"))
    assert time.monotonic() - began < 1.0
    await ledger.aclose()


async def test_an_intent_is_on_record_when_intend_returns_as_it_was_then(url: str, call: Calls) -> None:
    ledger = await SqlLedger.open(url)
    made = call("r")
    waiting = asyncio.create_task(ledger.intend(made))
    await asyncio.sleep(0)
    made.cut = True
    await waiting
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        found = other.execute("SELECT request_id, id, is_open, bound_amount, amount, cut FROM calls").fetchall()
    assert found == [("r", "call-1", 1, 900, None, 0)]
    await ledger.aclose()


async def test_a_row_that_the_database_refuses_fails_alone(url: str, call: Calls, entry: Entries) -> None:
    ledger = await SqlLedger.open(url)
    poison = call("poison", bound=2**63)
    calls = [call(f"r{n}") for n in range(60)]
    tasks = [ledger.intend(made) for made in [*calls[:30], poison, *calls[30:]]]
    results = await asyncio.gather(*tasks, ledger.settle(entry("s", call("s"))), return_exceptions=True)
    failed = results.pop(30)
    assert isinstance(failed, GatewayError)
    assert isinstance(failed.__cause__, OverflowError)
    assert results == [None] * 61
    assert (count(url, "calls"), count(url, "entries")) == (61, 1)
    await ledger.aclose()


async def test_an_entry_that_the_database_refuses_is_kept_beside_the_spool(
    url: str, tmp_path: Path, call: Calls, entry: Entries, logs: list[EventDict]
) -> None:
    """It is money that was spent. An intent is not: its call is not made."""
    ledger = await SqlLedger.open(url)
    poison = replace(entry("poison", call("poison")), why=None)  # type: ignore[arg-type]  # what no code of ours does
    worse = replace(entry("worse", call("worse")), why="\ud800")  # nothing can be made of that, not even a record
    waiting = [ledger.settle(poison), ledger.settle(entry("s", call("s"))), ledger.settle(worse)]
    done = await asyncio.gather(*waiting, ledger.intend(call("intent", bound=2**63)), return_exceptions=True)
    assert [type(each) for each in done] == [GatewayError, type(None), GatewayError, GatewayError]
    assert count(url, "entries") == 1
    await ledger.aclose()
    [kept] = aside(tmp_path)
    content = kept.read_bytes()
    assert [name in content for name in (b"poison", b"worse", b"intent")] == [True, True, False]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert sum(log["items"] for log in logs if log["log_level"] == "critical") == 2


async def test_a_disk_that_cannot_keep_it_ends_nothing(
    url: str, call: Calls, entry: Entries, logs: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await SqlLedger.open(url)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.ledger.spool._sync", full)
    poison = replace(entry("poison", call("poison")), why=None)  # type: ignore[arg-type]  # as above
    with pytest.raises(GatewayError):
        await asyncio.wait_for(ledger.settle(poison), 5)
    await asyncio.wait_for(ledger.settle(entry("s", call("s"))), 5)
    assert [log["request_ids"] for log in logs if log["log_level"] == "critical"] == [["poison"]]
    await ledger.aclose()


async def test_a_full_queue_refuses_intents_but_no_entry(url: str, call: Calls, entry: Entries) -> None:
    ledger = await SqlLedger.open(url, limit=10)
    with locked(url):
        taken = [asyncio.create_task(ledger.intend(call(f"r{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await ledger.intend(call("one too many"))
        taken.append(asyncio.create_task(ledger.settle(entry("s", call("s")))))
        await asyncio.sleep(0)
        assert ledger.waiting == 11
    await asyncio.gather(*taken)
    await ledger.intend(call("room again"))
    assert (count(url, "calls"), count(url, "entries")) == (12, 1)
    await ledger.aclose()


async def test_a_lock_held_by_another_process_loses_nothing(url: str, call: Calls, entry: Entries) -> None:
    ledger = await SqlLedger.open(url, spool_bytes=0)

    async def request(name: str) -> None:
        made = call(name)
        await ledger.intend(made)
        await ledger.settle(entry(name, made))

    early = [asyncio.create_task(request(f"early{n}")) for n in range(50)]
    await asyncio.sleep(0.01)
    with locked(url):
        late = [asyncio.create_task(request(f"late{n}")) for n in range(50)]
        await asyncio.sleep(1.3)  # longer than SQLite itself waits
        assert not any(task.done() for task in late)
    await asyncio.gather(*early, *late)
    [row] = await ledger.savings()
    assert (row.requests, row.spent.nano) == (100, 1_000)
    await ledger.aclose()


async def test_a_database_that_fails_for_long_is_busy_to_intents_and_keeps_entries(
    url: str, call: Calls, entry: Entries, logs: list[EventDict]
) -> None:
    ledger = await SqlLedger.open(url, patience=0.5, spool_bytes=0)
    with locked(url):
        settled = asyncio.create_task(ledger.settle(entry("s", call("s"))))
        with pytest.raises(Busy):
            await asyncio.wait_for(ledger.intend(call("r")), 5)
        assert not settled.done()
    assert "database is locked" in str(logs)
    await asyncio.wait_for(settled, 5)
    assert (count(url, "calls"), count(url, "entries")) == (1, 1), "what was refused is not on record"
    await ledger.aclose()


async def test_a_disk_without_room(url: str, call: Calls, entry: Entries) -> None:
    store = Store.open(url)
    run = store.join(0.0)
    writer = Writer(store, lambda: None, patience=0.3)
    # SQLite's own limit on the size of the file fails as a full disk does.
    with store._engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.execute("PRAGMA max_page_count=1")
    big = [rows.settlement(entry("r" * 9_000 + str(n), call("r" * 9_000 + str(n))), run, text=False) for n in range(9)]
    waiting = [writer.settle(item) for item in big]
    with pytest.raises(Busy):
        await writer.intend(rows.intent(call("i" * 9_000), run))
    assert not any(future.done() for future in waiting)
    driver.execute("PRAGMA max_page_count=1000000")
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert (count(url, "calls"), count(url, "entries")) == (9, 9)
    await writer.close()
    store.close()


async def test_closing_gives_up_on_a_dead_database_and_says_what_is_lost(
    url: str, call: Calls, entry: Entries, logs: list[EventDict]
) -> None:
    ledger = await SqlLedger.open(url, patience=0.1, spool_bytes=0)
    with locked(url):
        settled = asyncio.create_task(ledger.settle(entry("s", call("s"))))
        await asyncio.sleep(0)
        await asyncio.wait_for(ledger.aclose(), 10)
        with pytest.raises(Busy):
            await settled
    assert [log["request_ids"] for log in logs if log["log_level"] == "critical"] == [["s"]]


async def test_a_caller_that_is_cancelled_takes_nothing_back(url: str, call: Calls, entry: Entries) -> None:
    ledger = await SqlLedger.open(url)
    task = asyncio.create_task(ledger.settle(entry("s", call("s"))))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await ledger.aclose()
    assert count(url, "entries") == 1


async def test_the_heartbeat_survives_a_failure(url: str, until: Until) -> None:
    beats: list[float] = []

    def tick() -> None:
        beats.append(time.monotonic())
        raise OSError("no")

    store = Store.open(url)
    writer = Writer(store, tick, every=0.02)

    async def thrice() -> bool:
        return len(beats) >= 3

    await until(thrice)
    await writer.close()
    store.close()


def test_an_unused_folder_is_made(tmp_path: Path) -> None:
    Store.open(f"sqlite:///{tmp_path}/a/b/c.db").close()
    assert (tmp_path / "a" / "b" / "c.db").is_file()
