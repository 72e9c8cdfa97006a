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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from sqlalchemy import Connection, func, insert, select

from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.chat import Call, Outcome, StrategyName
from gateway.config import Config
from gateway.dashboard import PATH
from gateway.dashboard.app import Dashboard
from gateway.ledger import rollup, rows, savings, upkeep
from gateway.ledger.entry import Entry, Query
from gateway.ledger.schema import calls, entries, keys, rollups
from gateway.ledger.store import Store
from pricing.baseline import Baseline
from pricing.bill import Line
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage

DAY = 86_400.0
DAYS = 365
CALLERS = 20
BULK = 20_000
KINDS = 50_000
"""Requests that differ; millions of them are made faster than so many are."""

# A model's name is a route, and a route has its strategy; the weights are how often each is asked.
MODELS: dict[str, tuple[StrategyName, int]] = {
    "gpt-6-sol": ("cut-off", 50),
    "gpt-6-luna": ("cut-off", 20),
    "assistant": ("hint", 15),
    "careful": ("teacher", 10),
    "cheap": ("student", 5),
}
OUTCOMES: dict[Outcome, int] = {"ok": 965, "abandoned": 25, "failed": 10}
TEACHER = Price("gpt-6-sol", "config", input=Money.usd(2), output=Money.usd(10), row="gpt-6-sol: 2/10")


class Shape(NamedTuple):
    """How many entries, up to the moment `end`; the newest `detailed` of them with that many calls each."""

    entries: int
    calls: int
    detailed: int
    end: float

    @property
    def begin(self) -> float:
        """When the first entry was made."""
        return self.end - DAYS * DAY


def generated(shape: Shape, run: int) -> Iterator[tuple[rows.Row, Sequence[rows.Row]]]:
    """Entries with their calls as rows, spread over a year: each one of `KINDS`, at its own time."""
    dice = random.Random(1)
    kinds = [_kind(shape, run, dice) for _ in range(min(KINDS, shape.entries))]
    step = DAYS * DAY / shape.entries
    first = shape.entries - shape.detailed
    started = calls.columns.keys().index("started")
    for n in range(shape.entries):
        at, request_id = shape.begin + n * step, f"chatcmpl-{n:012x}"
        entry, made = kinds[int(dice.random() * len(kinds))]
        again = [
            (request_id, f"{request_id}/{k}", *call[2:started], at + k, *call[started + 1 :])
            for k, call in enumerate(made if n >= first else ())
        ]
        yield (request_id, at, rows.day_of(at), *entry[3:]), again


def _kind(shape: Shape, run: int, dice: random.Random) -> tuple[rows.Row, Sequence[rows.Row]]:
    """One entry with its calls, of a model, a caller and amounts by chance, as the gateway's own rows."""
    models, weights = list(MODELS), [weight for _, weight in MODELS.values()]
    model = dice.choices(models, weights)[0]
    [outcome] = dice.choices(list(OUTCOMES), list(OUTCOMES.values()))
    caller = f"key-{min(int(dice.expovariate(0.2)), CALLERS - 1):02d}"
    alone = dice.randrange(1_000_000, 9_000_000)
    told = Entry(
        "",
        shape.begin,
        model,
        model,
        MODELS[model][0],
        "route " + model,
        caller,
        outcome,
        True,
        [_call("", k, shape.begin, dice) for k in range(max(shape.calls, 1))],
        Baseline("same_length", Money(alone // 2), Money(alone), Money(alone * 2), 400),
        teacher="openai",
        student="local",
        wasted="empty" if dice.random() < 0.01 else None,
        first_token=0.3,
        duration=3.1,
        visible_input=312,
        visible_output=400,
        teacher_tokens=40,
    )
    settled = rows.settlement(told, run, text=False)
    return settled.entry, settled.calls[: shape.calls]


def _call(request_id: str, number: int, at: float, dice: random.Random) -> Call:
    call = Call(
        f"{request_id}/{number}", request_id, "answer" if number else "guidance", "student" if number else "teacher",
        "local" if number else "openai", "gpt-6-sol", None, at + number, Money(9_000_000),
        first_token=0.3, duration=1.2, finish="stop", usage=Usage(312, 40, 256, seconds=0.9),
    )  # fmt: skip
    call.line = Line(call.stage, call.model, Usage(312, 40, 256), TEACHER, Money(dice.randrange(10_000, 900_000)))
    return call


def fill(store: Store, shape: Shape) -> None:
    """Write the entries in bulk, and then their rollups."""
    run = store.join(shape.end)
    began = time.perf_counter()
    waiting: tuple[list[Any], list[Any]] = ([], [])

    def flush() -> None:
        with store.transaction(write=True) as connection:
            for table, batch in zip((entries, calls), waiting, strict=True):
                _bulk(connection, table, batch)
                batch.clear()

    for entry, made in generated(shape, run):
        waiting[0].append(entry)
        waiting[1].extend(made)
        if len(waiting[0]) == BULK:
            flush()
    flush()
    told = f"{shape.entries:,} entries, the newest {shape.detailed:,} with {shape.calls} calls each,"
    print(f"{told} written in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    with store.transaction(write=True) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        rollup.rebuild(connection)
        counted = connection.execute(select(rollups.c.level, func.count()).group_by(rollups.c.level)).all()
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("ANALYZE")
    kept = ", ".join(f"{count:,} of level {level}" for level, count in sorted(map(tuple, counted)))
    print(f"rollups ({kept}) made in {time.perf_counter() - began:.0f} s", flush=True)


def _bulk(connection: Connection, table: Any, batch: list[Any]) -> None:
    if not batch:
        return
    if connection.dialect.name == "postgresql":
        cursor = connection.connection.cursor()
        with cursor.copy(f"COPY {table.name} ({', '.join(table.columns.keys())}) FROM STDIN") as copy:
            for row in batch:
                copy.write_row(row)
        return
    statement = str(insert(table).compile(dialect=connection.dialect))
    connection.connection.cursor().executemany(statement, batch)


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
        slow = savings.fold(connection.execute(savings.from_entries(Query())).mappings(), Query())
        print(f"\nthe overview from the entries themselves: {time.perf_counter() - began:.1f} s")
    assert slow == store.savings(Query())


TAGS = ("search", "support", "research")


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


def name_callers(store: Store) -> None:
    """Give the callers names and tags, as `gkt keys create` would."""
    with store.transaction(write=True) as connection:
        if connection.scalar(select(func.count()).select_from(keys)):
            return
        connection.execute(
            insert(keys),
            [
                {"id": f"key-{n:02d}", "name": f"team {n}", "tags": f'["{TAGS[n % 3]}"]', "created_at": 0, "version": 1}
                for n in range(CALLERS)
            ],
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
        "requests, all, one key's failures": "/requests?range=all&caller=key-07&outcome=failed",
        "requests, all, three rare filters": "/requests?range=all&model=careful&caller=key-05&outcome=failed",
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
        shape = Shape(asked.entries, asked.calls, detailed, time.time() if newest is None else newest)
        if newest is None:
            fill(store, shape)
        if not asked.trust:
            began = time.perf_counter()
            assert upkeep.check(url) == []
            print(f"rollups proven equal to the entries in {time.perf_counter() - began:.0f} s", flush=True)
        measure(store, shape)
        name_callers(store)
        asyncio.run(measure_pages(url, shape))


if __name__ == "__main__":
    main()
