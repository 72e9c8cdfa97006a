"""Budgets: what is used of the budgets and limits of those who have some, and how often they were refused."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from gateway.allowance import Allowance, Quota
from gateway.chat import Caller
from gateway.dashboard.period import Period
from gateway.dashboard.tables import NONE, Column, Table
from gateway.errors import Busy
from gateway.keys.key import Key
from gateway.pipeline import Gateway
from pricing.money import Money

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

LISTED = 200
"""Rows that the page shows; its CSV has all."""

ASKED_ABOUT = 100
"""Callers whose budgets the page looks up: each is a question to whoever counts them."""


async def budgets(
    gateway: Gateway, period: Period, held: Sequence[Key], asked: Iterable[str], now: float
) -> tuple[Table, int]:
    """One row a budget, and one for each other caller with limits: what is used now, and how often it was refused.

    Of the active keys among `held` and of whoever else `asked` in the period. With the number of callers who have some,
    too, and were not looked at, for there are too many.
    """
    refused: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (who, why), count in (await gateway.admission.refusals.counts(period.since, period.until)).items():
        refused[who][why] += count
    names = {key.id: key.name for key in held}
    quota = gateway.config.limits
    # Most keys of thousands have no limits: what these allow is reckoned for those alone that have.
    bounded: list[Key | str] = [
        key for key in held if key.status(now) == "active" and (_bounded(key, quota) or key.id in refused)
    ]
    bounded += [who for who in sorted(asked) if who not in names and (_speaks(quota) or who in refused)]
    lines: list[list[object]] = []
    away = False
    for each in bounded[:ASKED_ABOUT]:
        caller = Caller(each) if isinstance(each, str) else each.caller
        used, away = await _used(gateway, caller, away=away)
        limits = caller.limits | quota.limits
        hits = refused[caller.id]
        over = hits.pop("budget", 0)
        most = (limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent)
        allowed = [*(NONE if limit is None else limit for limit in most), hits.total(), over]
        first = [caller.id, names.get(caller.id)]
        for budget, amount in used:
            share: object = NONE if not budget.limit else None if amount is None else amount.nano / budget.limit.nano
            lines.append([*first, budget.limit, budget.period, amount, share, *allowed])
        if not used:
            lines.append([*first, NONE, NONE, NONE, NONE, *allowed])
    return Table("limits", "Budgets and limits", ALLOWED, lines, shown=LISTED), len(bounded[ASKED_ABOUT:])


async def _used(
    gateway: Gateway, caller: Caller, *, away: bool
) -> tuple[Sequence[tuple[Allowance, Money | None]], bool]:
    """What is used of the caller's budgets; None where nobody says, and whether whoever would say is `away`."""
    admission, quota = gateway.admission, gateway.config.limits
    if not away:  # it takes its time to say so: the others are not asked
        try:
            return await admission.used(caller, quota), False
        except Busy:
            pass
    return [(each, None) for each in admission.budgets(caller, quota)], True


def _bounded(key: Key, quota: Quota) -> bool:
    """Whether limits or budgets hold for it, its own or those of all."""
    own = _limited(key) or key.budgets
    return bool(own or _limited(quota) or (key.budgets is None and quota.budgets))


def _speaks(quota: Quota) -> bool:
    return bool(_limited(quota) or quota.budgets)


def _limited(by: Quota) -> bool:
    limits = (by.requests_per_minute, by.tokens_per_minute, by.concurrent)
    return any(limit is not None for limit in limits)
