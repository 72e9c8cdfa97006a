"""The database goes away under load, at once and without a word, and comes back: nothing is missing, nobody hung."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from gateway.chat import Call
from gateway.ledger import upkeep
from gateway.ledger.entry import Entry
from gateway.ledger.sql import SqlLedger
from tests.conftest import Children
from tests.postgres_server import SECONDS, PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Calls = Callable[..., Call]
Entries = Callable[..., Entry]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    made = PostgresServer(tmp_path_factory.mktemp("outage"))
    yield made
    made.close()


async def test_an_outage_under_load(
    server: PostgresServer, tmp_path: Path, call: Calls, entry: Entries, until: Until
) -> None:
    ledger = await SqlLedger.open(server.url, spool=tmp_path, heartbeat=0.5)
    stop = asyncio.Event()
    done: list[str] = []
    slowest = 0.0

    async def worker(name: int) -> None:
        nonlocal slowest
        number = 0
        while not stop.is_set():
            request_id = f"{name}-{number}"
            number += 1
            made = call(request_id)
            began = time.monotonic()
            await ledger.intend(made)
            await asyncio.sleep(0.005)
            await ledger.settle(entry(request_id, made))
            slowest = max(slowest, time.monotonic() - began)
            done.append(request_id)

    async def under_way() -> bool:
        return len(done) > 100

    workers = [asyncio.create_task(worker(name)) for name in range(20)]
    await until(under_way)
    before = len(done)
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(SECONDS)
    during = len(done)
    assert ledger.spooled > 0
    await asyncio.to_thread(server.start)
    await asyncio.sleep(2)
    stop.set()
    await asyncio.wait_for(asyncio.gather(*workers), 10)
    assert 0 < before < during < len(done)
    assert slowest < 5, "nobody hung"
    await asyncio.wait_for(ledger.aclose(), 30)

    again = await SqlLedger.open(server.url, spool=tmp_path)
    [row] = await again.savings()
    assert (row.requests, row.outcomes, row.spent.nano) == (len(done), {"ok": len(done)}, 10 * len(done))
    found = {str(each["request_id"]) for each in await again.entries(limit=len(done) + 1)}
    assert found == set(done)
    assert upkeep.check(server.url) == [], "the sums have outlived it too"
    await again.aclose()
    assert not [path for path in os.listdir(tmp_path) if ".spool-" in path]


UNDER_LOAD = """
import asyncio, logging, sys
import structlog
from pathlib import Path
from gateway.chat import Call
from gateway.ledger.entry import Entry
from gateway.ledger.sql import SqlLedger
from tests.conftest import Children
from pricing.bill import Line
from pricing.money import Money
from pricing.usage import Usage

async def worker(ledger, name):
    for n in range(1_000_000):
        id = f"{name}-{n}"
        call = Call("c", id, "answer", "teacher", "openai", "gpt-6-sol", None, 1.8e9, Money(1000))
        await ledger.intend(call)
        print("intended", id)
        if n % 3:
            call.line = Line("answer", "gpt-6-sol", Usage(), None, Money(10))
            await ledger.settle(Entry(id, 1.8e9, "m", "*", "hint", "", "bob", "ok", False, [call], None))
            print("settled", id)

async def main(name, url, folder):
    ledger = await SqlLedger.open(url, spool=Path(folder), heartbeat=0.5)
    await asyncio.gather(*(worker(ledger, f"{name}.{w}") for w in range(10)))

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_processes_are_killed_while_the_database_is_away(
    server: PostgresServer, tmp_path: Path, child: Children, until: Until
) -> None:
    processes = [child(UNDER_LOAD, name, server.url, str(tmp_path)) for name in "ab"]
    said: list[str] = []
    readers = [asyncio.create_task(asyncio.to_thread(_lines, process, said)) for process in processes]

    async def under_way() -> bool:
        return len(said) > 500

    await until(under_way)
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(min(SECONDS, 3))
    for process in processes:
        process.send_signal(signal.SIGKILL)
    await asyncio.gather(*readers)
    await asyncio.to_thread(server.start)

    ledger = await SqlLedger.open(server.url, spool=tmp_path)
    intended = {line.split()[1] for line in said if line.startswith("intended")}
    settled = {line.split()[1] for line in said if line.startswith("settled")}
    entries = {str(each["request_id"]): each for each in await ledger.entries(limit=1_000_000)}
    assert len(settled) > 100
    assert intended <= entries.keys()
    assert all(entries[name]["outcome"] == "ok" for name in settled)
    assert all(each["spent"] == (10 if each["outcome"] == "ok" else 1_000) for each in entries.values())
    [row] = await ledger.savings()
    assert row.requests == len(entries)
    assert row.outcomes["recovered"] >= len(intended) // 4
    assert upkeep.check(server.url) == []
    await ledger.aclose()
    assert not [path for path in os.listdir(tmp_path) if ".spool-" in path]


def _lines(process: subprocess.Popen[str], said: list[str]) -> None:
    assert process.stdout is not None
    said.extend(line.strip() for line in process.stdout if line.endswith("\n"))
