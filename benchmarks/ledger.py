"""How long the ledger's questions take over millions of entries: `python -m benchmarks.ledger`.

Fills a database with a year of requests, in bulk and with the gateway's own rows, makes the rollups, proves them equal
to the entries, and asks what `gkt savings` and a dashboard ask. Times are of the whole answer, in Python's hands.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, insert, select

from gateway.chat import Call, Outcome, StrategyName
from gateway.ledger import rollup, rows, savings, upkeep
from gateway.ledger.entry import Entry, Query
from gateway.ledger.schema import calls, entries, rollups
from gateway.ledger.store import Store
from pricing.baseline import Baseline
from pricing.bill import Line
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage

DAY = 86_400.0
DAYS = 365
BEGIN = 1_767_225_600.0  # 2026-01-01
CALLERS = 20
BULK = 20_000

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
    """How many entries of how many calls each."""

    entries: int
    calls: int


def generated(shape: Shape, run: int) -> Iterator[tuple[rows.Row, list[rows.Row]]]:
    """Entries with their calls as rows, spread over a year; the same ones each time."""
    dice = random.Random(1)
    models, weights = list(MODELS), [weight for _, weight in MODELS.values()]
    step = DAYS * DAY / shape.entries
    for n in range(shape.entries):
        model = dice.choices(models, weights)[0]
        [outcome] = dice.choices(list(OUTCOMES), list(OUTCOMES.values()))
        at, request_id = BEGIN + n * step, f"chatcmpl-{n:012x}"
        caller = f"key-{min(int(dice.expovariate(0.2)), CALLERS - 1):02d}"
        made = [_call(request_id, k, at, dice) for k in range(max(shape.calls, 1))]
        alone = dice.randrange(1_000_000, 9_000_000)
        base = Baseline("same_length", Money(alone // 2), Money(alone), Money(alone * 2), 400)
        told = Entry(
            request_id,
            at,
            model,
            model,
            MODELS[model][0],
            "route " + model,
            caller,
            outcome,
            True,
            made,
            base,
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
        yield settled.entry, list(settled.calls[: shape.calls])


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
    run = store.join(BEGIN)
    began = time.perf_counter()
    waiting: tuple[list[Any], list[Any]] = ([], [])

    def flush() -> None:
        with store._begin(write=True) as connection:
            for table, batch in zip((entries, calls), waiting, strict=True):
                _bulk(connection, table, batch)
                batch.clear()

    for entry, made in generated(shape, run):
        waiting[0].append(entry)
        waiting[1].extend(made)
        if len(waiting[0]) == BULK:
            flush()
    flush()
    print(f"{shape.entries:,} entries with {shape.calls} calls each written in {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    with store._begin(write=True) as connection:
        rollup.rebuild(connection)
        counted = connection.execute(select(rollups.c.level, func.count()).group_by(rollups.c.level)).all()
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("ANALYZE")
    kept = ", ".join(f"{count:,} of level {level}" for level, count in sorted(map(tuple, counted)))
    print(f"rollups ({kept}) made in {time.perf_counter() - began:.0f} s")


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


def questions() -> dict[str, Query]:
    """What is asked, by the name that the table shows."""
    end = BEGIN + DAYS * DAY
    return {
        "overview, all time": Query(),
        "by day, all time": Query(by="day"),
        "by model, all time": Query(by="model"),
        "by strategy, all time": Query(by="strategy"),
        "by caller, all time": Query(by="caller"),
        "one model by day, all time": Query(model="gpt-6-luna", by="day"),
        "overview, 30 days up to now": Query(since=end - 30 * DAY + 1_234.5),
        "by day, 30 days up to now": Query(since=end - 30 * DAY + 1_234.5, by="day"),
        "by hour, 7 days": Query(since=end - 7 * DAY, by="hour"),
        "overview, 24 hours up to now": Query(since=end - DAY + 1_234.5),
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

    for name, query in questions().items():
        line(f"savings {name}", partial(store.savings, query))
    line("newest 50 requests", lambda: store.entries(Query(), 50))
    line("newest 50 of one model", lambda: store.entries(Query(model="cheap"), 50))
    line("50 requests half a year ago", lambda: store.entries(Query(until=BEGIN + DAYS * DAY / 2), 50))
    line("one request opened", lambda: store.entry(f"chatcmpl-{shape.entries // 2:012x}"))
    with store._begin() as connection:
        began = time.perf_counter()
        slow = savings.fold(connection.execute(savings.from_entries(Query())).mappings(), Query())
        print(f"\nthe overview from the entries themselves: {time.perf_counter() - began:.1f} s")
    assert slow == store.savings(Query())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000, help="how many requests (1,000,000)")
    parser.add_argument("--calls", type=int, default=2, help="calls of each; 0 saves time and disk (2)")
    parser.add_argument("--url", help="an empty database; a new SQLite file when left out, removed at the end")
    parser.add_argument("--keep", type=Path, help="where to leave the SQLite file; filled only once")
    asked = parser.parse_args()
    shape = Shape(asked.entries, asked.calls)
    with ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = asked.url or f"sqlite:///{folder}/ledger.db"
        store = Store.open(url)
        stack.callback(store.close)
        with store._begin() as connection:
            found = connection.scalar(select(func.count()).select_from(entries))
        if not found:
            fill(store, shape)
        began = time.perf_counter()
        assert upkeep.check(url) == []
        print(f"rollups proven equal to the entries in {time.perf_counter() - began:.0f} s")
        measure(store, shape)


if __name__ == "__main__":
    main()
