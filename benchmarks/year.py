"""A year of made-up requests in bulk, as the gateway itself would have written them, for `benchmarks.ledger`.

Many callers of whom few ask for most, routes with every strategy, and one that is measured from the middle of the year
on: holdouts, shadows with what they measured, and scores. The same requests each time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    MetaData,
    Table,
    Text,
    case,
    cast,
    func,
    insert,
    literal,
    select,
)

from gateway.chat import Call, Outcome, Stage, StrategyName
from gateway.ledger import rollup, rows
from gateway.ledger.entry import Entry, shadow_id
from gateway.ledger.schema import calls, corrections, entries, key_secrets, keys, measurements, rollups, scores
from gateway.ledger.standing import standing
from gateway.ledger.store import Store
from gateway.ledger.tally import amounts, correction, moved, tally
from pricing.baseline import Baseline
from pricing.bill import Line
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage

DAY = 86_400.0
DAYS = 365
BULK = 200_000
KINDS = 20_000
"""Requests that differ; millions of them are made faster than so many are."""

TAGS = 40

# A model's name is a route, and a route has its strategy; the weights are how often each is asked.
MODELS: dict[str, tuple[StrategyName, int]] = {
    "gpt-6-sol": ("cut-off", 50),
    "gpt-6-luna": ("cut-off", 20),
    "assistant": ("hint", 15),
    "careful": ("teacher", 10),
    "cheap": ("student", 5),
}
MEASURED = "gpt-6-luna"
DRAWN = 0.05
"""How likely a request of the measured route is a holdout, and another one is shadowed or scored."""

OUTCOMES: dict[Outcome, int] = {"ok": 965, "abandoned": 25, "failed": 10}
TEACHER = Price("gpt-6-sol", "config", input=Money.usd(2), output=Money.usd(10), row="gpt-6-sol: 2/10")
TABLES = (entries, calls, measurements, corrections, scores)


class Shape(NamedTuple):
    """How many entries of how many callers, up to `end`; the newest `detailed` of them with that many calls each."""

    entries: int
    callers: int
    calls: int
    detailed: int
    end: float

    @property
    def begin(self) -> float:
        """When the first entry was made."""
        return self.end - DAYS * DAY


Rows = tuple[list[Any], ...]
"""Rows of a request, one list for each of `TABLES`: without its id, and at times that count from its own."""


def _callers(number: int) -> tuple[list[str], list[float]]:
    """Names, and weights that add up: the n-th asks an n-th as often as the first."""
    return [caller(n) for n in range(number)], list(accumulate(1 / (n + 1) for n in range(number)))


def caller(number: int) -> str:
    """The id of a key."""
    return f"key-{number:04d}"


def _kind(run: int, made: int, dice: random.Random, callers: tuple[list[str], list[float]], *, measured: bool) -> Rows:
    """One request of a model, a caller and amounts by chance, as the gateway's own rows."""
    models, weights = list(MODELS), [weight for _, weight in MODELS.values()]
    model = dice.choices(models, weights)[0]
    [outcome] = dice.choices(list(OUTCOMES), list(OUTCOMES.values()))
    alone = dice.randrange(1_000_000, 9_000_000)
    told = Entry(
        "",
        0.0,
        model,
        model,
        MODELS[model][0],
        "route " + model,
        dice.choices(callers[0], cum_weights=callers[1])[0],
        outcome,
        True,
        [_call("", k, "answer" if k else "guidance", dice) for k in range(max(made, 1))],
        Baseline("same_length", Money(alone // 2), Money(alone), Money(alone * 2), 400),
        teacher="openai",
        student="local",
        wasted="empty" if dice.random() < 0.01 else None,
        first_token=0.3,
        duration=3.1,
        visible_input=dice.randrange(100, 600),
        visible_output=400,
        teacher_tokens=40,
    )
    if measured and model == MEASURED:
        return _drawn(run, made, dice, told)
    settled = rows.settlement(told, run, text=False)
    return [settled.entry], list(settled.calls[:made]), [], [], []


def _drawn(run: int, made: int, dice: random.Random, told: Entry) -> Rows:
    """The same on a route that is measured, with its shadow and its scores."""
    drawn = dice.random()
    if drawn < DRAWN:
        spent = told.spent
        own = Baseline("measured", spent, spent, spent, 400)
        told = replace(told, strategy="teacher", arm="holdout", propensity=DRAWN, baseline=own)
    else:
        told = replace(told, arm="policy", propensity=1 - DRAWN, shadow_propensity=DRAWN)
        told = replace(told, shadow_drawn=dice.random() < DRAWN)
    settled = rows.settlement(told, run, text=False)
    found: Rows = [settled.entry], list(settled.calls[:made]), [], [], []
    if dice.random() < DRAWN:
        found[4].append(_row(scores, source="feedback", made=60.0, value=float(dice.random() < 0.8)))
    if told.shadow_drawn and told.outcome == "ok":
        _shadow(run, dice, told, settled, found)
    return found


def _shadow(run: int, dice: random.Random, told: Entry, settled: rows.Settlement, found: Rows) -> None:
    name = shadow_id("")
    made = [_call(name, 0, "measurement", dice)]
    shadow = replace(told, request_id=name, at=5.0, calls=made, baseline=None, wasted=None, shadow_of="")
    shadow = replace(shadow, propensity=1.0, arm=None, shadow_propensity=None, shadow_drawn=None, teacher_tokens=400)
    of_shadow = rows.settlement(shadow, run, text=False)
    found[0].append(of_shadow.entry)
    entry = dict(zip(entries.columns.keys(), settled.entry, strict=True))
    booked = [dict(zip(calls.columns.keys(), call, strict=True)) for call in settled.calls]
    measurement = {
        **{name: entry[name] for name in ("route", "strategy")},
        "model": "gpt-6-sol",
        "propensity": DRAWN * (1 - DRAWN),
        "shown_input": entry["visible_input"],
        "shown_output": 400,
        "teacher_input": 312,
        "teacher_output": 400,
        "cost": of_shadow.entry[entries.columns.keys().index("spent")],
    }
    found[2].append(_row(measurements, shadow_id=name, **measurement))
    costs = amounts(booked, [])
    was, will = standing(entry), standing(entry, measurement)
    sums = [tally(entry, booked, costs, each) for each in (was, will)]
    for n, each in enumerate(moved(was.method, sums[0], will.method, sums[1]), 1):
        found[3].append(_row(corrections, **correction(entry, n, 6.0, *each)))
    found[4].append(_row(scores, source="agreement", made=6.0, value=float(dice.random() < 0.7)))


def _row(table: Table, **told: Any) -> rows.Row:
    row = {"request_id": "", "at": 0.0, **told}
    return tuple(row.get(name) for name in table.columns.keys())  # noqa: SIM118 - of the columns, which have names


def _call(request_id: str, number: int, stage: Stage, dice: random.Random) -> Call:
    call = Call(
        f"{request_id}/{number}", request_id, stage, "student" if number else "teacher",
        "local" if number else "openai", "gpt-6-sol", None, float(number), Money(9_000_000),
        first_token=0.3, duration=1.2, finish="stop", usage=Usage(312, 40, 256, seconds=0.9),
    )  # fmt: skip
    call.line = Line(call.stage, call.model, Usage(312, 40, 256), TEACHER, Money(dice.randrange(10_000, 900_000)))
    return call


def fill(store: Store, shape: Shape) -> None:
    """Write the requests in bulk, and then their rollups; the keys of their callers, as `gkt keys create` would."""
    run = store.join(shape.end)
    began = time.perf_counter()
    with store.transaction(write=True) as connection:
        kinds = _kinds(connection, shape, run)
        connection.execute(insert(keys), [_key(n) for n in range(shape.callers)])
        secrets = [
            {"digest": f"{n:064x}", "key_id": caller(n), "hint": "sk", "created_at": 0} for n in range(shape.callers)
        ]
        connection.execute(insert(key_secrets), secrets)
    for first in range(0, shape.entries, BULK):
        with _unhurried(store) as connection:
            last = min(first + BULK, shape.entries)
            for table, kind in zip(TABLES, kinds, strict=True):
                begin = first if table is not calls else max(first, shape.entries - shape.detailed)
                if begin < last:
                    connection.execute(_repeated(table, kind, shape, connection.dialect.name, begin, last))
    with store.transaction(write=True) as connection:
        for kind in kinds:
            kind.drop(connection)
    told = f"{shape.entries:,} requests of {shape.callers:,} callers, the newest {shape.detailed:,} with their calls,"
    print(f"{told} written in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    with _unhurried(store) as connection:
        rollup.rebuild(connection)
        counted = connection.execute(select(rollups.c.level, func.count()).group_by(rollups.c.level)).all()
    with _unhurried(store) as connection:
        connection.exec_driver_sql("ANALYZE")
    kept = ", ".join(f"{count:,} of level {level}" for level, count in sorted(map(tuple, counted)))
    print(f"rollups ({kept}) made in {time.perf_counter() - began:.0f} s", flush=True)


@contextmanager
def _unhurried(store: Store) -> Iterator[Connection]:
    """A transaction that may take its time: the gateway's own connections give up what hangs for seconds."""
    with store.transaction(write=True) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        yield connection


def _kinds(connection: Connection, shape: Shape, run: int) -> list[Table]:
    """The requests that are repeated, in a table of the database beside each of `TABLES`."""
    dice, metadata = random.Random(1), MetaData()
    number, callers = _number(shape), _callers(shape.callers)
    made = [_kind(run, shape.calls, dice, callers, measured=kind >= number) for kind in range(2 * number)]
    found = []
    for place, table in enumerate(TABLES):
        columns = [Column(column.name, column.type) for column in table.columns]
        kinds = Table(f"kinds_{table.name}", metadata, Column("kind", BigInteger, index=True), *columns)
        kinds.create(connection)
        names = kinds.columns.keys()
        told = [dict(zip(names, (kind, *row), strict=True)) for kind, each in enumerate(made) for row in each[place]]
        if told:
            connection.execute(insert(kinds), told)
        connection.exec_driver_sql(f"ANALYZE {kinds.name}")  # else a planner takes it for empty
        found.append(kinds)
    return found


def _number(shape: Shape) -> int:
    return min(KINDS, shape.entries)


def _repeated(table: Table, kinds: Table, shape: Shape, dialect: str, first: int, last: int) -> Any:
    """Writes the rows of the requests from number `first` up to `last`, each at its own time."""
    n = select(literal(first, BigInteger).label("n")).cte("numbers", recursive=True)
    n = n.union_all(select(n.c.n + 1).where(n.c.n + 1 < last))
    number, step = _number(shape), DAYS * DAY / shape.entries
    # Always the same by chance; from the middle of the year on, of those that are measured.
    kind = n.c.n * 48_271 % 2_147_483_647 % number + case((n.c.n * 2 > shape.entries, number), else_=0)
    at = cast(literal(shape.begin, Double) + n.c.n * literal(step, Double), Double)
    digits = func.printf("%012x", n.c.n) if dialect == "sqlite" else func.lpad(func.to_hex(n.c.n), 12, "0")
    name = literal("chatcmpl-", Text) + digits
    day = (
        func.date(at, "unixepoch")
        if dialect == "sqlite"
        else func.to_char(func.timezone("UTC", func.to_timestamp(at)), "YYYY-MM-DD")
    )

    def told(column: ColumnElement[Any]) -> ColumnElement[Any]:
        if column.key in ("request_id", "id", "shadow_of", "shadow_id"):
            return name + column  # nothing where it is nothing
        if column.key in ("at", "made", "started"):
            return at + column
        return day if column.key == "day" else column

    columns = [told(kinds.c[column]) for column in table.columns.keys()]  # noqa: SIM118 - see `_row`
    return insert(table).from_select(table.columns.keys(), select(*columns).join_from(n, kinds, kinds.c.kind == kind))


def _key(number: int) -> dict[str, Any]:
    tags = f'["tag-{number % TAGS:02d}"]' if number % 3 else f'["tag-{number % TAGS:02d}", "third"]'
    return {"id": caller(number), "name": f"team {number}", "tags": tags, "created_at": 0, "version": 1}
