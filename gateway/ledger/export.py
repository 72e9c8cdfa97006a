"""Export: settled requests, or their calls, as a file for others. Amounts are exact, twice: `_nano` and `_usd`.

A whole number of nano-dollars adds up anywhere; the dollars beside it are the same number as a decimal, for readers.
What nobody knows is empty, never 0. Texts of prompts and answers are not exported.

A row has what was booked, and in the columns that begin with `now_` what stands by now: corrections and measured
baselines included. Each number of savings is the sum of one of these columns over the same requests and shadows.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Double,
    Integer,
    Table,
    Text,
    cast,
    func,
    select,
    union_all,
)

from gateway.errors import ConfigError
from gateway.ledger import rollup
from gateway.ledger.entry import Query
from gateway.ledger.reading import ledger_at
from gateway.ledger.rows import STAGES
from gateway.ledger.savings import SUMS, wanted
from gateway.ledger.schema import MEASURES, calls, corrections, entries
from gateway.ledger.tally import amounts
from pricing.money import Money

Rows = Literal["requests", "calls"]
Format = Literal["csv", "parquet"]

AMOUNTS = frozenset(
    {
        "spent",
        *(f"{name}_spent" for name in ("guidance", "answer", "fallback", "measurement", "priced", "notional", "bound")),
        *(f"baseline_{name}" for name in ("low", "likely", "high")),
        "avoided",
        "bound_amount",
        "amount",
        *(f"now_{name}" for name in (*STAGES, "spent", "notional", "bound", "wasted_spent", "compared_spent")),
        *(f"now_{name}" for name in ("likely", "low", "high", "corrected", "amount")),
    }
)
LEFT_OUT = frozenset({"text", "is_open", "run", "baseline_of"})
ADDED: Mapping[Rows, Mapping[str, str]] = {
    "requests": {"kind": "text", "now_method": "text", **{f"now_{name}": "int" for name in MEASURES}},
    "calls": {"shadow_of": "text", "now_amount": "int"},
}
"""Columns behind those of the table. `kind`: request, or shadow, which is a measurement of one."""
MOMENTS = {"at": "time", "started": "time"}
"""Seconds since the epoch, and the name of the same moment for readers (UTC)."""

BATCH = 10_000
ALL = Query()
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell that a spreadsheet runs begins with; the last four are the full-width forms of the first."""


def export(url: str, path: Path, form: Format, rows: Rows = "requests", query: Query = ALL) -> int:
    """Write what `query` wants to the file `path`, oldest first; how many rows. The file appears when it is whole.

    Raises `ConfigError` when there is no ledger at `url`, the library for `form` is missing or the file cannot be made.
    """
    write = _csv if form == "csv" else _parquet()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with ledger_at(url) as connection:
            count = write(beside, columns(rows), _batches(connection, rows, query))
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
    return count


def columns(rows: Rows) -> dict[str, str]:
    """The columns of an export and what they hold: text, int, float, bool, usd or time."""
    found: dict[str, str] = {}
    kinds: Mapping[type, str] = {Text: "text", BigInteger: "int", Integer: "int", Double: "float", Boolean: "bool"}
    own = {column.name: kinds[type(column.type)] for column in _table(rows).columns if column.name not in LEFT_OUT}
    for name, kind in {**own, **ADDED[rows]}.items():
        found |= {f"{name}_nano": "int", f"{name}_usd": "usd"} if name in AMOUNTS else {name: kind}
        if name in MOMENTS:
            found[MOMENTS[name]] = "time"
    return found


def _table(rows: Rows) -> Table:
    return entries if rows == "requests" else calls


def _batches(connection: Connection, rows: Rows, query: Query) -> Iterator[Sequence[dict[str, Any]]]:
    table = _table(rows)
    chosen = select(*(column for column in table.columns if column.name not in LEFT_OUT)).where(*wanted(query))
    if table is calls:
        chosen = chosen.join(entries, entries.c.request_id == calls.c.request_id).add_columns(entries.c.shadow_of)
        chosen = chosen.order_by(entries.c.at, entries.c.request_id, calls.c.started, calls.c.id)
    else:
        chosen = chosen.order_by(entries.c.at, entries.c.request_id)
    found = connection.execution_options(yield_per=BATCH).execute(chosen)
    more = _standing if rows == "requests" else _corrected
    for batch in found.mappings().partitions():
        yield [_told(row) for row in more(connection, batch)]


def _standing(connection: Connection, batch: Sequence[Mapping[Any, Any]]) -> Iterator[dict[str, Any]]:
    """Entries with their sums as they are by now: their own and those of their corrections."""
    dialect = connection.dialect.name
    which = rollup.ids(dialect, [row["request_id"] for row in batch])
    parts = []
    summed: Sequence[tuple[Table, Mapping[str, ColumnElement[Any]]]] = (
        (entries, SUMS),
        (corrections, {name: func.sum(corrections.c[name]) for name in MEASURES}),
    )
    for table, of in summed:
        by = table.c.request_id, table.c.baseline_method
        sums = [cast(of[name], BigInteger).label(name) for name in MEASURES]
        parts.append(select(*by, *sums).where(rollup.named(dialect, which, table)).group_by(*by))
    totals: dict[str, Counter[str]] = {row["request_id"]: Counter() for row in batch}
    counted: dict[str, Counter[str | None]] = {row["request_id"]: Counter() for row in batch}
    for name, method, *found in connection.execute(union_all(*parts)):
        measures = dict(zip(MEASURES, found, strict=True))
        totals[name].update(measures)
        counted[name][method] += measures["requests"] + measures["shadows"]
    for row in batch:
        name = row["request_id"]
        yield {
            **row,
            "kind": "request" if row["shadow_of"] is None else "shadow",
            # A request is counted once, under the method that its baseline has by now.
            "now_method": next(method for method, count in counted[name].items() if count),
            **{f"now_{measure}": totals[name][measure] for measure in MEASURES},
        }


def _corrected(connection: Connection, batch: Sequence[Mapping[Any, Any]]) -> Iterator[dict[str, Any]]:
    """Calls with what they cost by now."""
    dialect = connection.dialect.name
    which = rollup.ids(dialect, sorted({row["request_id"] for row in batch}))
    later = select(corrections).where(rollup.named(dialect, which, corrections)).order_by(corrections.c.number)
    of: dict[str, list[Mapping[Any, Any]]] = {}
    for correction in connection.execute(later).mappings():
        of.setdefault(correction["request_id"], []).append(correction)
    for row in batch:
        yield {**row, "now_amount": amounts([row], of.get(row["request_id"], []))[row["id"]]}


def _told(row: Mapping[Any, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, value in row.items():
        if name in AMOUNTS:
            told[f"{name}_nano"] = value
            told[f"{name}_usd"] = None if value is None else Money(value)
        else:
            told[name] = value
        if name in MOMENTS:
            told[MOMENTS[name]] = datetime.fromtimestamp(value, UTC)
    return told


def _csv(path: Path, names: Mapping[str, str], batches: Iterator[Sequence[dict[str, Any]]]) -> int:
    count = 0
    with path.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for batch in batches:
            writer.writerows([_cell(value) for value in row.values()] for row in batch)
            count += len(batch)
    return count


def _cell(value: Any) -> Any:
    if isinstance(value, Money):
        return value.plain
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return harmless(value) if isinstance(value, str) else value


def harmless(text: str) -> str:
    """A text for a cell of CSV. Names come from callers, and spreadsheets run what begins like a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _parquet() -> Callable[[Path, Mapping[str, str], Iterator[Sequence[dict[str, Any]]]], int]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow: pip install 'gkt-gateway[parquet]', or use --format csv") from error
    types = {
        "text": arrow.string(),
        "int": arrow.int64(),
        "float": arrow.float64(),
        "bool": arrow.bool_(),
        "usd": arrow.decimal128(28, 9),
        "time": arrow.timestamp("us", tz="UTC"),
    }

    def write(path: Path, names: Mapping[str, str], batches: Iterator[Sequence[dict[str, Any]]]) -> int:
        schema = arrow.schema([(name, types[kind]) for name, kind in names.items()])
        count = 0
        with parquet.ParquetWriter(path, schema) as writer:
            for batch in batches:
                plain = [{n: v.dollars if isinstance(v, Money) else v for n, v in row.items()} for row in batch]
                writer.write_table(arrow.Table.from_pylist(plain, schema=schema))
                count += len(batch)
        return count

    return write
