"""Keys: who asked, what that came to, what is left of their budgets, and which keys nobody has used."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gateway.allowance import Allowance
from gateway.chat import Caller
from gateway.dashboard.figures import Figure, groups
from gateway.dashboard.page import Page
from gateway.dashboard.period import Period, parse
from gateway.dashboard.requests import behind
from gateway.dashboard.tables import NONE, SUMS, Column, Later, Table, dearest
from gateway.dashboard.tables import sums as told
from gateway.errors import Busy
from gateway.keys.key import Key
from gateway.ledger.entry import Query, SavingsRow
from gateway.ledger.sums import Sums
from gateway.pipeline import Gateway
from pricing.money import Money

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

ALLOWED = (
    Column("caller", "Key", "code"),
    Column("name", "Name"),
    Column("budget_usd", "Budget", "money"),
    Column("per", "Per"),
    Column("used_usd", "Used", "money"),
    Column("used_share", "Used of it", "percent"),
    Column("requests_per_minute", "Requests a minute", "count"),
    Column("tokens_per_minute", "Tokens a minute", "count"),
    Column("concurrent", "At once", "count"),
    Column("limits_hit", "Limits hit", "count"),
    Column("budget_hit", "Budget hit", "count"),
)

ASKED_ABOUT = 100
"""Callers whose budgets the page looks up: each is a question to whoever counts them."""

LISTED = 200
"""Keys that the page lists; its CSV has all."""

BESIDE = ("name", "requests", "spent_usd", "saved_usd", "saved_share")
"""What of it stands beside the chart of the overview."""


async def keys(gateway: Gateway, said: Mapping[str, str]) -> Page:
    """The page of keys."""
    now = time.time()
    period = parse(said, now)
    sums = await gateway.ledger.sums(Query(since=period.since, until=period.until, by="caller"))
    held = await gateway.keys.all()
    unused = [(key.id, Sums()) for key in held if key.id not in sums]
    context = {
        "period": period,
        "chart": chart(dearest(sums.items()), held),
        "open": gateway.auth.open,
        "asked": len(sums),
        "unused": len(unused),
        "shown": ON_PAGE,
    }
    whole = replace(table(dearest([*sums.items(), *unused]), held, period, now), shown=LISTED)
    names = {key.id: key.name for key in held}
    callers = [key.caller for key in held if key.status(now) == "active"]
    callers += [Caller(caller) for caller in sums if caller not in names]
    refused = await gateway.admission.refusals.counts(period.since, period.until)
    allowed, left_out = await allowances(gateway, callers, names, refused)
    context["left_out"] = left_out
    return Page("keys.html", "Keys", context, {"keys": whole, "limits": allowed})


async def allowances(
    gateway: Gateway, callers: Sequence[Caller], names: Mapping[str, str], refusals: Mapping[tuple[str, str], int]
) -> tuple[Table, int]:
    """One row a budget, and one for each other caller with limits: what is used now, and how often it was refused.

    With the number of callers who have some, too, and were not looked at, for there are too many.
    """
    admission, quota = gateway.admission, gateway.config.limits
    lines: list[list[object]] = []
    away = False
    refused: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (who, why), count in refusals.items():
        refused[who][why] += count
    bounded = [
        caller
        for caller in callers
        if caller.limits | quota.limits or admission.budgets(caller, quota) or refused.get(caller.id)
    ]
    for caller in bounded[:ASKED_ABOUT]:
        limits = caller.limits | quota.limits
        hits = refused[caller.id]
        over = hits.pop("budget", 0)
        held = (limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent)
        allowed = [*(NONE if limit is None else limit for limit in held), hits.total(), over]
        first = [caller.id, names.get(caller.id)]
        budgets: Sequence[tuple[Allowance, Money | None]]
        try:
            budgets = [] if away else await admission.used(caller, quota)
        except Busy:
            away = True  # it takes its time to say so: the others are not asked
        if away:
            budgets = [(each, None) for each in admission.budgets(caller, quota)]
        for budget, used in budgets:
            share: object = NONE if not budget.limit else None if used is None else used.nano / budget.limit.nano
            lines.append([*first, budget.limit, budget.period, used, share, *allowed])
        if not budgets:
            lines.append([*first, NONE, NONE, NONE, NONE, *allowed])
    table = Table("limits", "Budgets and limits", ALLOWED, lines, shown=LISTED)
    return table, len(bounded) - len(bounded[:ASKED_ABOUT])


def table(rows: Sequence[SavingsRow], held: Sequence[Key], period: Period, now: float) -> Table:
    """One row a key, in the order of `rows`; of keys from the environment nothing but their id is known."""
    known = {key.id: key for key in held}
    lines = Later(rows, lambda row: [row.group, *_told(known.get(row.group), now), *told(row)])
    return Table("keys", "Keys by what they spent", COLUMNS, lines, behind(rows, "caller", period))


def chart(rows: Sequence[SavingsRow], held: Sequence[Key]) -> Figure:
    """What each key spent, by its name where it has one; `rows` come the dearest first."""
    return groups("keys", "By key", rows, {key.id: key.name for key in held})


def _told(key: Key | None, now: float) -> list[object]:
    if key is None:
        return [None] * 5
    return [key.name, key.owner, ", ".join(key.tags), key.status(now), key.expires_at]
