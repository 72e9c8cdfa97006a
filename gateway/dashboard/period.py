"""Period: the range of time that a page looks at, as its address says it, in days of the viewer's zone.

The ledger sums by hours and by days of UTC. Days of another zone are sums of hours, where they are whole hours; of long
ranges, and in zones that are some minutes off, the days of a chart are UTC's, and are said to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

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


BY_HOURS = 35
"""Days of at most so many are summed up from hours: more would be read for a page than it can wait for."""

LONGEST_NAME = 64
"""Of a zone."""


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` (included) to `until` (excluded), seconds since the epoch; None: without end.

    `first` and `last` are the dates of a custom range as its form shows them, empty for an open end. `zone` is the name
    of the one whose days it begins and ends with.
    """

    name: Name
    since: float | None = None
    until: float | None = None
    first: str = ""
    last: str = ""
    zone: str = "UTC"

    def _lasts(self, now: float | None = None) -> float | None:
        """Seconds; None: without a begin, or nobody knows to when."""
        if self.since is None:
            return None
        if self.until is None and self.name in DAYS:
            return DAYS[self.name] * 86_400.0
        end = self.until if self.until is not None else now
        return None if end is None else end - self.since

    @property
    def step(self) -> Step:
        """What its charts are drawn by."""
        lasts = self._lasts()
        # A day on which a clock was changed has an hour more.
        return "hour" if lasts is not None and lasts <= HOURLY * 86_400 + 3_600 else "day"

    def days(self, now: float) -> str:
        """The name of the zone whose days its charts have: its own, if they can be summed up from hours; else UTC."""
        lasts = self._lasts(now)
        if self.zone == "UTC" or self.since is None or lasts is None or lasts > BY_HOURS * 86_400 + 3_600:
            return "UTC"
        zone = ZoneInfo(self.zone)
        noons = range(int(self.since), int(self.since + lasts) + 86_400, 43_200)
        offsets = (datetime.fromtimestamp(at, zone).utcoffset() for at in noons)
        return self.zone if all(off is not None and not off.total_seconds() % 3_600 for off in offsets) else "UTC"

    def ahead(self, now: float) -> tuple[tuple[int, int], ...]:
        """From which hour since the epoch on the zone is how many hours ahead of UTC; where `days` is not UTC."""
        if self.since is None:
            return ()
        zone, first = ZoneInfo(self.zone), int(self.since // 3_600)
        found: list[tuple[int, int]] = []
        for hour in range(first, first + int((self._lasts(now) or 0) // 3_600) + 1):
            offset = datetime.fromtimestamp(hour * 3_600, zone).utcoffset() or timedelta()
            hours = int(offset.total_seconds() // 3_600)
            if not found or found[-1][1] != hours:
                found.append((hour, hours))
        return tuple(found)

    @property
    def title(self) -> str:
        """How a heading names it."""
        if self.name == "custom":
            return f"{self.first or 'the beginning'} to {self.last or 'now'}, {self.zone}"
        told = {"today": "today", "7d": "the last 7 days", "30d": "the last 30 days"}
        return f"{told[self.name]}, {self.zone}" if self.name in told else "all time"

    @property
    def fields(self) -> dict[str, str]:
        """What an address says to get it."""
        custom = {"from": self.first, "to": self.last} if self.name == "custom" else {}
        return {"range": self.name, **{name: value for name, value in custom.items() if value}}


def parse(said: Mapping[str, str], now: float) -> Period:
    """The period that an address asks for, in the zone that `said` names. Raises `BadRequest` for one there is not."""
    zone = known(said.get("zone", ""))
    first, last = said.get("from", "").strip(), said.get("to", "").strip()
    name = said.get("range") or ("custom" if first or last else USUAL)
    if name not in NAMES:
        raise BadRequest(f"There is no range '{name[:40]}'.", param="range")
    today = datetime.fromtimestamp(now, zone).date()
    if name in DAYS:
        return Period(NAMES[name][0], _begin(today - timedelta(days=DAYS[name] - 1), zone), zone=zone.key)
    if name == "all":
        return Period("all", zone=zone.key)
    begin, end = _date(first, "from"), _date(last, "to")
    if begin and end and begin > end:
        raise BadRequest("The range ends before it begins.", param="to")
    return Period(
        "custom",
        None if begin is None else _begin(begin, zone),
        None if end is None else _begin(end + timedelta(days=1), zone),
        first,
        last,
        zone.key,
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


def shifted(at: float, zone: str) -> float:
    """The moment at which clocks in UTC say what those in a zone say `at` that moment: days are named by that."""
    return datetime.fromtimestamp(at, ZoneInfo(zone)).replace(tzinfo=UTC).timestamp()


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


def _begin(day: date, zone: ZoneInfo) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


@lru_cache(maxsize=512)
def known(name: str) -> ZoneInfo:
    """The zone of that name; UTC for one that this machine does not know, or that is none."""
    if 0 < len(name) <= LONGEST_NAME:
        try:
            return ZoneInfo(name)
        except (LookupError, ValueError, OSError):  # whatever a cookie says
            pass
    return ZoneInfo("UTC")
