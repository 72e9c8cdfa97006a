"""Tables: rows of exact values, defined once and shown twice, on a page and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, overload

from gateway.ledger.entry import SavingsRow
from gateway.ledger.export import harmless
from gateway.ledger.rows import STAGES
from gateway.ledger.sums import Sums
from pricing.money import Money

Kind = Literal["text", "code", "count", "money", "percent", "seconds", "rate", "moment", "hour", "state"]

T = TypeVar("T")


class Later(Sequence[T]):
    """What is made of each item of a sequence, when that is looked at: a page shows few rows of many."""

    def __init__(self, of: Sequence[Any], make: Callable[[Any], T]) -> None:
        self._of = of
        self._make = make

    def __len__(self) -> int:
        return len(self._of)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        return Later(self._of[place], self._make) if isinstance(place, slice) else self._make(self._of[place])

    def __iter__(self) -> Iterator[T]:
        return map(self._make, self._of)


NONE = ""
"""In a table: there is none, and that is known; None is unknown."""

SHOWN = 20
"""Rows of a table of groups that a page shows; its CSV has all."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name in CSV (with the unit), its heading, and how a page shows its values: see `NONE`."""

    name: str
    title: str
    kind: Kind = "text"

    @property
    def numeric(self) -> bool:
        """True when its values are to stand right-aligned."""
        return self.kind in ("count", "money", "percent", "seconds", "rate")


@dataclass(frozen=True, slots=True)
class Table:
    """`links` are the addresses behind the first cell of each row; empty: none.

    `shown`: how many rows a page shows.
    """

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    links: Sequence[str] = ()
    shown: int = SHOWN

    def csv(self) -> str:
        """The whole table: amounts in dollars to the nano-dollar, times in UTC, shares of one, nothing for unknown."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(column.name for column in self.columns)
        for row in self.rows:
            writer.writerow(_cell(value, column.kind) for value, column in zip(row, self.columns, strict=True))
        return out.getvalue()


def _cell(value: Any, kind: Kind) -> str:
    if value is None:
        return ""
    if isinstance(value, Money):
        return value.plain
    if kind == "moment":
        return instant(value)
    return harmless(value) if isinstance(value, str) else str(value)


def instant(at: float) -> str:
    """A moment in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


SUMS = (
    Column("requests", "Requests", "count"),
    Column("spent_usd", "Spent", "money"),
    Column("guidance_usd", "Guidance", "money"),
    Column("answer_usd", "Answer", "money"),
    Column("fallback_usd", "Fallback", "money"),
    Column("measurement_usd", "Measurement", "money"),
    Column("compared", "Compared", "count"),
    Column("compared_spent_usd", "Spent, compared", "money"),
    Column("teacher_alone_usd", "Teacher alone", "money"),
    Column("teacher_alone_low_usd", "Low", "money"),
    Column("teacher_alone_high_usd", "High", "money"),
    Column("saved_usd", "Saved", "money"),
    Column("saved_share", "Saved, %", "percent"),
    Column("saved_after_measurement_usd", "Saved, after measurement", "money"),
    Column("output_token_share", "Paper’s share", "percent"),
    Column("wasted", "Wasted", "count"),
    Column("wasted_usd", "Wasted", "money"),
    Column("unpriced", "Unpriced", "count"),
    Column("notional_usd", "Notional", "money"),
    Column("at_bound_usd", "At bound", "money"),
    Column("corrected_usd", "Corrections", "money"),
    Column("shadows", "Measurements", "count"),
    Column("shadows_unpriced", "Measurements, unpriced", "count"),
    Column("shadows_missed", "Measurements, skipped or failed", "count"),
)
"""All that a row of savings says."""

BRIEF = ("requests", "spent_usd", "teacher_alone_usd", "saved_usd", "saved_share", "unpriced")
"""What of it a page has room for."""


def saved_share(row: SavingsRow) -> float | None:
    """What part of the baseline was saved; None when nothing can be compared. Negative: it cost more."""
    return None if row.share is None else 1 - row.share


def made(row: SavingsRow) -> int:
    """The measurements that were made, whatever came of them."""
    return sum(row.shadows.values()) - row.shadows.get("skipped", 0)


def sums(row: SavingsRow) -> list[Any]:
    """A row of savings in the order of `SUMS`."""
    stages = [row.spent_by_stage.get(stage, Money.ZERO) for stage in STAGES]
    baseline = [row.baseline, row.baseline_low, row.baseline_high]
    saved = [row.saved, saved_share(row), row.saved_after_measurement, row.output_token_share]
    compared = [row.compared, row.compared_spent]
    rest = [
        row.wasted,
        row.wasted_spent,
        row.unpriced,
        row.notional,
        row.bound,
        row.corrected,
        made(row),
        row.shadows_unpriced,
        sum(row.missed.values()),
    ]
    return [row.requests, row.spent, *stages, *compared, *baseline, *saved, *rest]


def dearest(groups: Iterable[tuple[str, Sums]]) -> Sequence[SavingsRow]:
    """The rows of groups by what was spent, the most first; made when somebody looks at them."""
    ordered = sorted(groups, key=lambda each: (-each[1].spent, -each[1].requests, each[0]))
    return Later(ordered, lambda each: each[1].row(each[0]))


def by_group(name: str, caption: str, rows: Sequence[SavingsRow], column: Column, links: Sequence[str] = ()) -> Table:
    """One row a group with all its sums, the group in `column`."""
    whole = Later(rows, lambda row: [row.group, *sums(row)])
    return Table(name, caption, (column, *SUMS), whole, links)


def brief(table: Table, wanted: Sequence[str] = BRIEF) -> Table:
    """The same table as a page shows it: the group, the columns that are `wanted`, and the first rows."""
    keep = [0, *(index for index, column in enumerate(table.columns) if column.name in wanted)]
    rows = Later(table.rows, lambda row: [row[index] for index in keep])
    return Table(table.id, table.caption, [table.columns[i] for i in keep], rows, table.links, table.shown)
