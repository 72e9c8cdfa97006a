"""Keys: who asked, what that came to, and which keys nobody has used."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gateway.dashboard import PATH
from gateway.dashboard.figures import Figure, groups
from gateway.dashboard.page import Page
from gateway.dashboard.period import Period, address, parse
from gateway.dashboard.tables import SUMS, Column, Table, sums
from gateway.keys.key import Key
from gateway.ledger.entry import Query, SavingsRow
from gateway.ledger.savings import nothing
from gateway.pipeline import Gateway

COLUMNS = (
    Column("caller", "Key", "code"),
    Column("name", "Name"),
    Column("owner", "Owner"),
    Column("tags", "Tags"),
    Column("status", "State", "state"),
    Column("expires_utc", "Expires", "moment"),
    *SUMS,
)

ON_PAGE = ("name", "owner", "status", "requests", "spent_usd", "teacher_alone_usd", "saved_usd", "saved_share")
"""What of it the page of keys has room for."""

LISTED = 200
"""Keys that the page lists; its CSV has all."""

BESIDE = ("name", "requests", "spent_usd", "saved_usd", "saved_share")
"""What of it stands beside the chart of the overview."""


async def keys(gateway: Gateway, said: Mapping[str, str]) -> Page:
    """The page of keys."""
    now = time.time()
    period = parse(said, now)
    rows = await gateway.ledger.savings(Query(since=period.since, until=period.until, by="caller"))
    held = await gateway.keys.all()
    asked = {row.group for row in rows}
    unused = [nothing(key.id) for key in held if key.id not in asked]
    context = {
        "period": period,
        "chart": chart(rows, held),
        "open": gateway.auth.open,
        "asked": len(rows),
        "unused": len(unused),
        "shown": ON_PAGE,
    }
    whole = replace(table([*rows, *unused], held, period, now), shown=LISTED)
    return Page("keys.html", "Keys", context, {"keys": whole})


def table(rows: Sequence[SavingsRow], held: Sequence[Key], period: Period, now: float) -> Table:
    """One row a key, the dearest first; of keys from the environment nothing but their id is known."""
    known = {key.id: key for key in held}
    dearest = sorted(rows, key=lambda row: (-row.spent.nano, -row.requests, row.group))
    links = [address(f"{PATH}/requests", period.fields, {"caller": row.group}) for row in dearest]
    lines = [[row.group, *_told(known.get(row.group), now), *sums(row)] for row in dearest]
    return Table("keys", "Keys by what they spent", COLUMNS, lines, links)


def chart(rows: Sequence[SavingsRow], held: Sequence[Key]) -> Figure:
    """What each key spent, by its name where it has one."""
    return groups("keys", "By key", rows, {key.id: key.name for key in held})


def _told(key: Key | None, now: float) -> list[object]:
    if key is None:
        return [None] * 5
    return [key.name, key.owner, ", ".join(key.tags), key.status(now), key.expires_at]
