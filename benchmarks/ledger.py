"""How long the ledger's questions take over millions of entries: `python -m benchmarks.ledger`.

Fills a database with a year of requests, in bulk and with the gateway's own rows, makes the rollups, proves them equal
to the entries, and asks what `gkt savings` asks: times are of the whole answer, in Python's hands. Then it opens the
dashboard's pages, within this process but through the whole application: from the request to the last byte of its page.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from sqlalchemy import func, select

from benchmarks.year import DAY, DAYS, Shape, fill
from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.cli.hosting import rest
from gateway.config import Config
from gateway.dashboard import PATH
from gateway.dashboard.app import Dashboard
from gateway.ledger import savings, upkeep
from gateway.ledger.entry import Query
from gateway.ledger.schema import entries
from gateway.ledger.store import Store

TIMES = 9
"""How often each question is asked, and each page."""


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
        "by caller, 30 days up to now": Query(since=end - 30 * DAY, by="caller"),
        "by caller, 200 days in the middle": Query(since=end - 250 * DAY, until=end - 50 * DAY, by="caller"),
        "one caller by model, all time": Query(caller="key-0007", by="model"),
        "overview, 24 hours up to now": Query(since=end - DAY),
    }


class Times(NamedTuple):
    """Milliseconds of the first answer; the middle one and the longest of the others; CPU of the middle one."""

    first: float
    then: float
    most: float
    cpu: float


def timed(ask: Callable[[], Any]) -> Times:
    """How long it takes, asked again and again."""
    taken, used = [], []
    for _ in range(TIMES):
        began, worked = time.perf_counter(), time.process_time()
        ask()
        taken.append((time.perf_counter() - began) * 1_000)
        used.append((time.process_time() - worked) * 1_000)
    return Times(taken[0], statistics.median(taken[1:]), max(taken[1:]), statistics.median(used[1:]))


def measure(store: Store, shape: Shape) -> None:
    """Print the times of all questions."""
    print(f"\n| {'question':42} | first, ms | then, ms | most, ms | CPU, ms |")
    print(f"|{'-' * 44}|----------:|---------:|---------:|--------:|")

    def line(name: str, ask: Callable[[], Any]) -> None:
        print(f"| {name:42} | {' | '.join(f'{value:8.1f}' for value in timed(ask))} |", flush=True)

    for name, query in questions(shape.end).items():
        line(f"savings {name}", partial(store.savings, query))
    line("newest 50 requests", lambda: store.entries(Query(), 50))
    line("newest 50 of one model", lambda: store.entries(Query(model="cheap"), 50))
    line("50 requests half a year ago", lambda: store.entries(Query(until=shape.end - DAYS * DAY / 2), 50))
    line("newest 50 of a rare caller", lambda: store.entries(Query(caller="key-1905"), 50))
    line("newest 50 of a caller's one model", lambda: store.entries(Query(caller="key-1905", model="cheap"), 50))
    line("one request opened", lambda: store.entry(f"chatcmpl-{shape.entries // 2:012x}"))
    with store.transaction() as connection:
        began = time.perf_counter()
        asked = savings.from_entries(Query()), savings.from_corrections(Query())
        slow = savings.fold((row for each in asked for row in connection.execute(each)), Query())
        print(f"\nthe overview from the entries themselves: {time.perf_counter() - began:.1f} s")
    assert [sums.row() for sums in slow.values()] == store.savings(Query())


ADMIN = "gkt-admin-of-the-benchmark"
"""Opens the pages: there are keys."""


def config(url: str) -> Config:
    """A gateway over the filled ledger, whose student runs on a machine that is paid by the hour."""
    return Config.parse(
        {
            "ledger": {"url": url},
            "server": {"admin_key_env": "GKT_ADMIN_KEY"},
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
    early = datetime.fromtimestamp(shape.end - DAYS * DAY * 0.6, UTC).date()
    return {
        "overview, 7 days (the first page)": "",
        "overview, today": "?range=today",
        "overview, 30 days": "?range=30d",
        "overview, 30 days of a viewer's zone": "?range=30d&zone=America/New_York",
        "overview, all time": "?range=all",
        "overview, all time, by day as CSV": "?range=all&format=csv&table=time",
        "requests, 30 days": "/requests",
        "requests, all time": "/requests?range=all",
        "requests, all, one model": "/requests?range=all&model=cheap",
        "requests, all, one key's failures": "/requests?range=all&caller=key-0007&outcome=failed",
        "requests, all, three rare filters": "/requests?range=all&model=careful&caller=key-1905&outcome=failed",
        "requests, all, a rare key": "/requests?range=all&caller=key-1905",
        "requests, all, none that matches": "/requests?range=all&model=never-asked",
        "requests, all, a key's, none matches": "/requests?range=all&caller=key-0000&model=never-asked",
        "requests, one day half a year ago": f"/requests?from={middle}&to={middle}",
        "one request opened": f"/requests/chatcmpl-{shape.entries - 2:012x}",
        "models, 7 days": "/models",
        "models, all time": "/models?range=all",
        "models, half a year ago": f"/models?from={middle}&to={middle}",
        "keys, today": "/keys?range=today",
        "keys, 7 days": "/keys",
        "keys, 30 days": "/keys?range=30d",
        "keys, 30 days of a viewer's zone": "/keys?range=30d&zone=America/New_York",
        "keys, all time": "/keys?range=all",
        "keys, all time, as CSV": "/keys?range=all&format=csv",
        "tags, all time, as CSV": "?range=all&format=csv&table=tags",
        "requests, all, 5,000 as CSV": "/requests?range=all&format=csv",
        "trade-off, 7 days": "/tradeoff",
        "trade-off, before anything was measured": f"/tradeoff?to={early}",
        "trade-off, all time": "/tradeoff?range=all",
        "JSON: savings by day, all time": "/gkt/v1/savings?by=day",
        "JSON: savings by hour, 31 days": f"/gkt/v1/savings?by=hour&since={shape.end - 31 * DAY:.0f}",
        "JSON: savings by hour, a year": "/gkt/v1/savings?by=hour",
        "JSON: savings by caller, all time": "/gkt/v1/savings?by=caller",
        "JSON: trade-off, all time": "/gkt/v1/tradeoff",
    }


async def measure_pages(url: str, shape: Shape) -> None:
    """Print how long each page takes from the request to its last byte, through the whole application."""
    async with open_gateway(config(url), environ={"GKT_ADMIN_KEY": ADMIN}) as gateway:
        app = create_app(gateway.config, opener=lambda _: nullcontext(gateway), pages={PATH: Dashboard(gateway)})
        app.state.gateway = gateway  # whose lifespan nobody runs here
        admin = {"authorization": f"Bearer {ADMIN}"}
        rest()  # as a gateway that serves
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=admin) as http:
            print(f"\n| {'page':40} | first, ms | then, ms | most, ms | CPU, ms | kB |")
            print(f"|{'-' * 42}|----------:|---------:|---------:|--------:|---:|")
            for name, address in addresses(shape).items():
                await _page(http, name, address)

            async def news() -> None:
                """A score, which a look at the trade-off has to reckon with."""
                await gateway.ledger.score(f"chatcmpl-{shape.entries - 2:012x}", "feedback", random.random())

            await _page(http, "trade-off, 7 days, a new score each", "/tradeoff", news)


async def _page(
    http: httpx.AsyncClient, name: str, address: str, before: Callable[[], Awaitable[None]] | None = None
) -> None:
    taken, used = [], []
    for _ in range(TIMES):
        if before is not None:
            await before()
        began, worked = time.perf_counter(), time.process_time()
        answer = await http.get(address if address.startswith("/gkt") else PATH + address)
        taken.append((time.perf_counter() - began) * 1_000)
        used.append((time.process_time() - worked) * 1_000)
        answer.raise_for_status()
    first, *others = taken
    times = f"{first:9.1f} | {statistics.median(others):8.1f} | {max(others):8.1f}"
    size = f"{statistics.median(used[1:]):7.1f} | {len(answer.content) / 1_000:.0f}"
    print(f"| {name:40} | {times} | {size} |", flush=True)


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
