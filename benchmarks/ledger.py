"""How long the ledger's questions take over millions of entries: `python -m benchmarks.ledger`.

Fills a database with a year of requests, in bulk and with the gateway's own rows, makes the rollups, proves them equal
to the entries, and asks what `gkt savings` asks: times are of the whole answer, in Python's hands. Then it opens the
dashboard's pages, within this process but through the whole application: from the request to the last byte of its page.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from benchmarks.year import DAY, DAYS, Shape, fill
from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.config import Config
from gateway.dashboard import PATH
from gateway.dashboard.app import Dashboard
from gateway.ledger import savings, upkeep
from gateway.ledger.entry import Query
from gateway.ledger.schema import entries
from gateway.ledger.store import Store


def questions(end: float) -> dict[str, Query]:
    """What is asked, by the name that the table shows."""
    return {
        "overview, all time": Query(),
        "by day, all time": Query(by="day"),
        "by model, all time": Query(by="model"),
        "by strategy, all time": Query(by="strategy"),
        "by caller, all time": Query(by="caller"),
        "one model by day, all time": Query(model="gpt-6-luna", by="day"),
        "overview, 30 days up to now": Query(since=end - 30 * DAY),
        "by day, 30 days up to now": Query(since=end - 30 * DAY, by="day"),
        "by hour, 7 days": Query(since=end // DAY * DAY - 6 * DAY, by="hour"),
        "overview, 24 hours up to now": Query(since=end - DAY),
    }


def timed(ask: Callable[[], Any], times: int = 7) -> tuple[float, float]:
    """Milliseconds of the first answer, and of the middle one of the others."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - began) * 1_000)
    return taken[0], statistics.median(taken[1:])


def measure(store: Store, shape: Shape) -> None:
    """Print the times of all questions."""
    print(f"\n| {'question':36} | first, ms | then, ms |\n|{'-' * 38}|----------:|---------:|")

    def line(name: str, ask: Callable[[], Any], times: int = 7) -> None:
        first, then = timed(ask, times)
        print(f"| {name:36} | {first:9.1f} | {then:8.1f} |")

    for name, query in questions(shape.end).items():
        line(f"savings {name}", partial(store.savings, query))
    line("newest 50 requests", lambda: store.entries(Query(), 50))
    line("newest 50 of one model", lambda: store.entries(Query(model="cheap"), 50))
    line("50 requests half a year ago", lambda: store.entries(Query(until=shape.end - DAYS * DAY / 2), 50))
    line("one request opened", lambda: store.entry(f"chatcmpl-{shape.entries // 2:012x}"))
    with store.transaction() as connection:
        began = time.perf_counter()
        asked = savings.from_entries(Query()), savings.from_corrections(Query())
        slow = savings.fold((row for each in asked for row in connection.execute(each)), Query())
        print(f"\nthe overview from the entries themselves: {time.perf_counter() - began:.1f} s")
    assert [sums.row() for sums in slow.values()] == store.savings(Query())


def config(url: str) -> Config:
    """A gateway over the filled ledger, whose student runs on a machine that is paid by the hour."""
    return Config.parse(
        {
            "ledger": {"url": url},
            "upstreams": {
                "openai": {"kind": "scripted", "model": "gpt-6-sol"},
                "local": {"kind": "scripted", "model": "mine"},
            },
            "routes": {"*": {"teacher": "openai", "student": "local"}},
            "prices": {"gpt-6-sol": {"input": 2, "output": 10}, "mine": {"per_hour": 2}},
        }
    )


def addresses(shape: Shape) -> dict[str, str]:
    """The pages that are timed, by the name that the table shows."""
    middle = datetime.fromtimestamp(shape.end - DAYS * DAY / 2, UTC).date()
    return {
        "overview, 7 days (the first page)": "",
        "overview, today": "?range=today",
        "overview, 30 days": "?range=30d",
        "overview, all time": "?range=all",
        "overview, all time, by day as CSV": "?range=all&format=csv&table=time",
        "requests, 30 days": "/requests",
        "requests, all time": "/requests?range=all",
        "requests, all, one model": "/requests?range=all&model=cheap",
        "requests, all, one key's failures": "/requests?range=all&caller=key-0007&outcome=failed",
        "requests, all, three rare filters": "/requests?range=all&model=careful&caller=key-1905&outcome=failed",
        "requests, all, none that matches": "/requests?range=all&model=never-asked",
        "requests, one day half a year ago": f"/requests?from={middle}&to={middle}",
        "one request opened": f"/requests/chatcmpl-{shape.entries - 2:012x}",
        "models, 7 days": "/models",
        "models, all time": "/models?range=all",
        "keys, 7 days": "/keys",
        "keys, all time": "/keys?range=all",
    }


async def measure_pages(url: str, shape: Shape) -> None:
    """Print how long each page takes from the request to its last byte, through the whole application."""
    async with open_gateway(config(url), environ={}) as gateway:
        app = create_app(gateway.config, opener=lambda _: nullcontext(gateway), pages={PATH: Dashboard(gateway)})
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            print(f"\n| {'page':40} | first, ms | then, ms | CPU, ms | kB |")
            print(f"|{'-' * 42}|----------:|---------:|--------:|---:|")
            for name, address in addresses(shape).items():
                taken, used = [], []
                for _ in range(9):
                    began, worked = time.perf_counter(), time.process_time()
                    answer = await http.get(PATH + address)
                    taken.append((time.perf_counter() - began) * 1_000)
                    used.append((time.process_time() - worked) * 1_000)
                    answer.raise_for_status()
                first, *others = taken
                times = f"{first:9.1f} | {statistics.median(others):8.1f} | {statistics.median(used[1:]):7.1f}"
                print(f"| {name:40} | {times} | {len(answer.content) / 1_000:.0f} |", flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000, help="how many requests (1,000,000)")
    parser.add_argument("--callers", type=int, default=2_000, help="how many keys they have (2,000)")
    parser.add_argument("--calls", type=int, default=2, help="calls of each; 0 saves time and disk (2)")
    parser.add_argument("--detailed", type=int, help="how many of the newest requests have call rows (all)")
    parser.add_argument("--url", help="an empty database; a new SQLite file when left out, removed at the end")
    parser.add_argument("--trust", action="store_true", help="do not prove the rollups again")
    parser.add_argument("--keep", type=Path, help="where to leave the SQLite file; filled only once")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = asked.url or f"sqlite:///{folder}/ledger.db"
        store = Store.open(url)
        stack.callback(store.close)
        with store.transaction() as connection:
            newest = connection.scalar(select(func.max(entries.c.at)))
        detailed = asked.entries if asked.detailed is None else asked.detailed
        shape = Shape(asked.entries, asked.callers, asked.calls, detailed, time.time() if newest is None else newest)
        if newest is None:
            fill(store, shape)
        if not asked.trust:
            began = time.perf_counter()
            assert upkeep.check(url) == []
            print(f"rollups proven equal to the entries in {time.perf_counter() - began:.0f} s", flush=True)
        measure(store, shape)
        asyncio.run(measure_pages(url, shape))


if __name__ == "__main__":
    main()
