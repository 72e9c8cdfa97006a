"""Tables: rows of exact values, defined once and shown twice, on a page and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Literal, Protocol, TypeVar, overload

from gateway.ledger.entry import BriefRow, SavingsRow
from gateway.ledger.export import harmless
from gateway.ledger.rows import STAGES
from pricing.money import Money

Kind = Literal["text", "code", "count", "money", "percent", "seconds", "rate", "moment", "hour", "state"]

NUMBERS: tuple[Kind, ...] = ("count", "percent", "seconds", "rate")

T = TypeVar("T")

Row = SavingsRow | BriefRow
"""The sums of a group, of which a brief one tells a part."""

R = TypeVar("R", bound=Row, covariant=True)


class Summed(Protocol[R]):
    """The sums of a group that can be made into a row: `Sums` or `Brief`."""

    @property
    def requests(self) -> int:
        """How many."""
        ...

    @property
    def spent(self) -> int:
        """Nano-dollars."""
        ...

    def row(self, group: str) -> R:
        """For a reader."""
        ...


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
    """One column: its name in CSV (with the unit), its heading, and how a page shows its values: see `NONE`.

    `of` is what it says of a row of sums.
    """

    name: str
    title: str
    kind: Kind = "text"
    of: Callable[[Any], Any] = field(default=attrgetter("group"), compare=False)

    @property
    def numeric(self) -> bool:
        """True when its values are to stand right-aligned."""
        return self.kind == "money" or self.kind in NUMBERS


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
        # Column by column: of thousands of rows, asking each value what it is takes longer than writing it.
        columns = zip(self.columns, zip(*self.rows, strict=True), strict=True) if self.rows else ()
        writer.writerows(zip(*(_cells(values, column.kind) for column, values in columns), strict=True))
        return out.getvalue()


def _cells(values: Sequence[Any], kind: Kind) -> Sequence[Any]:
    """As a writer of CSV takes them: it leaves None out, and writes numbers as Python does."""
    if kind == "money":
        return [value.plain if isinstance(value, Money) else value for value in values]
    if kind == "moment":
        return [None if value is None else instant(value) for value in values]
    if kind in NUMBERS:
        return values
    return [harmless(value) if isinstance(value, str) else value for value in values]


def instant(at: float) -> str:
    """A moment in UTC, to the millisecond."""
    return f"{datetime.fromtimestamp(at, UTC).isoformat(timespec='milliseconds')[:-6]}Z"


def saved_share(row: Row) -> float | None:
    """What part of the baseline was saved; None when nothing can be compared. Negative: it cost more."""
    return None if row.share is None else 1 - row.share


def made(row: SavingsRow) -> int:
    """The measurements that were made, whatever came of them."""
    return sum(row.shadows.values()) - row.shadows.get("skipped", 0)


def _of_stage(stage: str) -> Callable[[SavingsRow], Money]:
    return lambda row: row.spent_by_stage.get(stage, Money.ZERO)


SUMS = (
    Column("requests", "Requests", "count", attrgetter("requests")),
    Column("spent_usd", "Spent", "money", attrgetter("spent")),
    *(Column(f"{stage}_usd", stage.capitalize(), "money", _of_stage(stage)) for stage in STAGES),
    Column("compared", "Compared", "count", attrgetter("compared")),
    Column("compared_spent_usd", "Spent, compared", "money", attrgetter("compared_spent")),
    Column("teacher_alone_usd", "Teacher alone", "money", attrgetter("baseline")),
    Column("teacher_alone_low_usd", "Low", "money", attrgetter("baseline_low")),
    Column("teacher_alone_high_usd", "High", "money", attrgetter("baseline_high")),
    Column("saved_usd", "Saved", "money", attrgetter("saved")),
    Column("saved_share", "Saved, %", "percent", saved_share),
    Column("saved_after_measurement_usd", "Saved, after measurement", "money", attrgetter("saved_after_measurement")),
    Column("output_token_share", "Paper’s share", "percent", attrgetter("output_token_share")),
    Column("wasted", "Wasted", "count", attrgetter("wasted")),
    Column("wasted_usd", "Wasted", "money", attrgetter("wasted_spent")),
    Column("unpriced", "Unpriced", "count", attrgetter("unpriced")),
    Column("notional_usd", "Notional", "money", attrgetter("notional")),
    Column("at_bound_usd", "At bound", "money", attrgetter("bound")),
    Column("corrected_usd", "Corrections", "money", attrgetter("corrected")),
    Column("shadows", "Measurements", "count", made),
    Column("shadows_unpriced", "Measurements, unpriced", "count", attrgetter("shadows_unpriced")),
    Column("shadows_missed", "Measurements, skipped or failed", "count", lambda row: sum(row.missed.values())),
)
"""All that a row of savings says."""

BRIEF = ("requests", "spent_usd", "teacher_alone_usd", "saved_usd", "saved_share", "unpriced")
"""What of it a page has room for."""

BRIEF_SUMS = tuple(column for column in SUMS if column.name in BRIEF)
"""What a brief row says."""


def sums(row: Row, columns: Sequence[Column] = SUMS) -> list[Any]:
    """What the columns say of a row."""
    return [column.of(row) for column in columns]


def dearest(groups: Iterable[tuple[str, Summed[R]]]) -> Sequence[R]:
    """The rows of groups by what was spent, the most first; made when somebody looks at them."""
    ordered = sorted(groups, key=lambda each: (-each[1].spent, -each[1].requests, each[0]))
    return Later(ordered, lambda each: each[1].row(each[0]))


def by_group(
    name: str,
    caption: str,
    rows: Sequence[Row],
    column: Column,
    links: Sequence[str] = (),
    columns: Sequence[Column] = SUMS,
) -> Table:
    """One row a group with its sums, the group in `column`; `columns`: as many as the rows tell."""
    return Table(name, caption, (column, *columns), Later(rows, lambda row: [row.group, *sums(row, columns)]), links)


def brief(table: Table, wanted: Sequence[str] = BRIEF) -> Table:
    """The same table as a page shows it: the group, the columns that are `wanted`, and the first rows."""
    keep = [0, *(index for index, column in enumerate(table.columns) if column.name in wanted)]
    rows = Later(table.rows, lambda row: [row[index] for index in keep])
    return Table(table.id, table.caption, [table.columns[i] for i in keep], rows, table.links, table.shown)
