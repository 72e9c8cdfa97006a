"""Export: settled requests, or their calls, as a file for others. Amounts are exact, twice: `_nano` and `_usd`.

A whole number of nano-dollars adds up anywhere; the dollars beside it are the same number as a decimal, for readers.
What nobody knows is empty, never 0. Texts of prompts and answers are not exported.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import BigInteger, Boolean, Connection, Double, Integer, Table, Text, select

from gateway.errors import ConfigError
from gateway.ledger.entry import Query
from gateway.ledger.reading import ledger_at
from gateway.ledger.savings import wanted
from gateway.ledger.schema import calls, entries
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
    }
)
LEFT_OUT = frozenset({"text", "is_open", "run"})
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
    table = entries if rows == "requests" else calls
    write = _csv if form == "csv" else _parquet()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with ledger_at(url) as connection:
            count = write(beside, table, _batches(connection, table, query))
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
    return count


def columns(table: Table) -> dict[str, str]:
    """The columns of an export and what they hold: text, int, float, bool, usd or time."""
    found: dict[str, str] = {}
    kinds: Mapping[type, str] = {Text: "text", BigInteger: "int", Integer: "int", Double: "float", Boolean: "bool"}
    for column in table.columns:
        if column.name in LEFT_OUT:
            continue
        if column.name in AMOUNTS:
            found |= {f"{column.name}_nano": "int", f"{column.name}_usd": "usd"}
        else:
            found[column.name] = kinds[type(column.type)]
        if column.name in MOMENTS:
            found[MOMENTS[column.name]] = "time"
    return found


def _batches(connection: Connection, table: Table, query: Query) -> Iterator[Sequence[dict[str, Any]]]:
    chosen = select(*(column for column in table.columns if column.name not in LEFT_OUT)).where(*wanted(query))
    if table is calls:
        chosen = chosen.join(entries, entries.c.request_id == calls.c.request_id)
        chosen = chosen.order_by(entries.c.at, entries.c.request_id, calls.c.started, calls.c.id)
    else:
        chosen = chosen.order_by(entries.c.at, entries.c.request_id)
    found = connection.execution_options(yield_per=BATCH).execute(chosen)
    for batch in found.mappings().partitions():
        yield [_told(row) for row in batch]


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


def _csv(path: Path, table: Table, batches: Iterator[Sequence[dict[str, Any]]]) -> int:
    count = 0
    with path.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns(table))
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


def _parquet() -> Callable[[Path, Table, Iterator[Sequence[dict[str, Any]]]], int]:
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

    def write(path: Path, table: Table, batches: Iterator[Sequence[dict[str, Any]]]) -> int:
        schema = arrow.schema([(name, types[kind]) for name, kind in columns(table).items()])
        count = 0
        with parquet.ParquetWriter(path, schema) as writer:
            for batch in batches:
                plain = [{n: v.dollars if isinstance(v, Money) else v for n, v in row.items()} for row in batch]
                writer.write_table(arrow.Table.from_pylist(plain, schema=schema))
                count += len(batch)
        return count

    return write
