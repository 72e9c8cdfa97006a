"""Period: the range of time that a page looks at, as its address says it. Days are days in UTC, as in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from urllib.parse import urlencode

from gateway.errors import BadRequest

Name = Literal["today", "7d", "30d", "all", "custom"]
Step = Literal["hour", "day"]

NAMES: Mapping[str, tuple[Name, str]] = {
    "today": ("today", "Today"),
    "7d": ("7d", "7 days"),
    "30d": ("30d", "30 days"),
    "all": ("all", "All"),
    "custom": ("custom", "Custom"),
}
USUAL: Name = "7d"
DAYS = {"today": 1, "7d": 7, "30d": 30}
YEARS = range(1970, 3000)
"""Of the days that a range may begin and end with: no ledger has an entry before, and no clock goes further."""

HOURLY = 3
"""Ranges of at most so many days are shown by the hour."""


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` (included) to `until` (excluded), seconds since the epoch; None: without end.

    `first` and `last` are the dates of a custom range as its form shows them, empty for an open end.
    """

    name: Name
    since: float | None = None
    until: float | None = None
    first: str = ""
    last: str = ""

    @property
    def step(self) -> Step:
        """What its charts are drawn by."""
        if self.since is None:
            return "day"
        end = self.until if self.until is not None else self.since + DAYS.get(self.name, HOURLY + 1) * 86_400
        return "hour" if end - self.since <= HOURLY * 86_400 else "day"

    @property
    def title(self) -> str:
        """How a heading names it."""
        if self.name == "custom":
            return f"{self.first or 'the beginning'} to {self.last or 'now'}, UTC"
        return {"today": "today, UTC", "7d": "the last 7 days, UTC", "30d": "the last 30 days, UTC"}.get(
            self.name, "all time"
        )

    @property
    def fields(self) -> dict[str, str]:
        """What an address says to get it."""
        custom = {"from": self.first, "to": self.last} if self.name == "custom" else {}
        return {"range": self.name, **{name: value for name, value in custom.items() if value}}


def parse(said: Mapping[str, str], now: float) -> Period:
    """The period that an address asks for. Raises `BadRequest` for one that there is not."""
    first, last = said.get("from", "").strip(), said.get("to", "").strip()
    name = said.get("range") or ("custom" if first or last else USUAL)
    if name not in NAMES:
        raise BadRequest(f"There is no range '{name[:40]}'.", param="range")
    today = datetime.fromtimestamp(now, UTC).date()
    if name in DAYS:
        return Period(NAMES[name][0], _begin(today - timedelta(days=DAYS[name] - 1)))
    if name == "all":
        return Period("all")
    begin, end = _date(first, "from"), _date(last, "to")
    if begin and end and begin > end:
        raise BadRequest("The range ends before it begins.", param="to")
    return Period(
        "custom",
        None if begin is None else _begin(begin),
        None if end is None else _begin(end + timedelta(days=1)),
        first,
        last,
    )


def address(path: str, *fields: Mapping[str, str | None]) -> str:
    """`path` with all that is said in the fields; later ones replace earlier ones, None and empty ones are left out."""
    merged: dict[str, str | None] = {}
    for each in fields:
        merged |= each
    said = {name: value for name, value in merged.items() if value}
    return f"{path}?{urlencode(said)}" if said else path


def buckets(step: Step, since: float, until: float, most: int | None = None) -> Iterable[str]:
    """The names of all, or of the last `most`, hours or days between two moments, as the ledger names its groups."""
    size = 3_600 if step == "hour" else 86_400
    shape = "%Y-%m-%dT%H:00Z" if step == "hour" else "%Y-%m-%d"
    begins = range(int(since // size) * size, int(-(-until // size)) * size, size)
    for begin in begins if most is None else begins[-most:]:
        yield datetime.fromtimestamp(begin, UTC).strftime(shape)


def moment(group: str) -> float:
    """When the hour or day of that name begins."""
    return datetime.fromisoformat(group).replace(tzinfo=UTC).timestamp()


def _date(text: str, param: str) -> date | None:
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"'{text[:40]}' is not a date such as 2026-11-24.", param=param) from None
    if day.year not in YEARS:
        raise BadRequest(f"'{text[:40]}' is not a date from {YEARS[0]} to {YEARS[-1]}.", param=param)
    return day


def _begin(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
