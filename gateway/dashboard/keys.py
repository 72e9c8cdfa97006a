"""Keys: who asked, what that came to, what is left of their budgets, and which keys nobody has used."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from gateway.dashboard.budgets import budgets
from gateway.dashboard.figures import Figure, groups
from gateway.dashboard.page import Page
from gateway.dashboard.period import Period, parse
from gateway.dashboard.requests import behind
from gateway.dashboard.tables import BRIEF_SUMS, SUMS, Column, Later, Row, Table, dearest
from gateway.dashboard.tables import sums as told
from gateway.keys.key import Key
from gateway.ledger.entry import Query
from gateway.ledger.sums import NOTHING, Sums
from gateway.pipeline import Gateway

HOLDER = (
    Column("caller", "Key", "code"),
    Column("name", "Name"),
    Column("owner", "Owner"),
    Column("tags", "Tags"),
    Column("status", "State", "state"),
    Column("expires_utc", "Expires", "moment"),
)
"""Whose a key is; after it comes what was summed."""

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
    sums = await gateway.ledger.brief(_callers(period))
    held = await gateway.keys.all()
    unused = _unused(held, sums)
    rows = dearest([*sums.items(), *((name, NOTHING) for name in unused)])
    limits, left_out = await budgets(gateway, period, held, sums, now)
    context = {
        "period": period,
        "chart": chart(dearest(sums.items()) if unused else rows, held),
        "open": gateway.auth.open,
        "asked": len(sums),
        "unused": len(unused),
        "shown": ON_PAGE,
        "left_out": left_out,
    }
    whole = replace(table(rows, held, period, now, BRIEF_SUMS), shown=LISTED)
    return Page("keys.html", "Keys", context, {"keys": whole, "limits": limits})


async def listed(gateway: Gateway, said: Mapping[str, str]) -> Table:
    """All keys with all their sums."""
    now = time.time()
    period = parse(said, now)
    sums = await gateway.ledger.sums(_callers(period))
    held = await gateway.keys.all()
    rows = dearest([*sums.items(), *((name, Sums()) for name in _unused(held, sums))])
    return table(rows, held, period, now)


def table(
    rows: Sequence[Row], held: Sequence[Key], period: Period, now: float, columns: Sequence[Column] = SUMS
) -> Table:
    """One row a key, in the order of `rows`; of keys from the environment nothing but their id is known."""
    known = {key.id: key for key in held}
    lines = Later(rows, lambda row: [row.group, *_holder(known.get(row.group), now), *told(row, columns)])
    return Table("keys", "Keys by what they spent", (*HOLDER, *columns), lines, behind(rows, "caller", period))


def chart(rows: Sequence[Row], held: Sequence[Key]) -> Figure:
    """What each key spent, by its name where it has one; `rows` come the dearest first."""
    return groups("keys", "By key", rows, {key.id: key.name for key in held})


def _callers(period: Period) -> Query:
    return Query(since=period.since, until=period.until, by="caller")


def _unused(held: Sequence[Key], asked: Collection[str]) -> list[str]:
    return [key.id for key in held if key.id not in asked]


def _holder(key: Key | None, now: float) -> list[object]:
    if key is None:
        return [None] * 5
    return [key.name, key.owner, ", ".join(key.tags), key.status(now), key.expires_at]
