"""Trade-off: what each strategy costs of the teacher alone, and what each route keeps of its accuracy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from gateway.dashboard import frontier
from gateway.dashboard.page import Page
from gateway.dashboard.period import Period, parse
from gateway.dashboard.requests import behind
from gateway.dashboard.tables import Column, Table, made
from gateway.ledger.entry import Query, SavingsRow
from gateway.ledger.telling import MOST
from gateway.pipeline import Gateway
from gateway.report import reports

COLUMNS = (
    Column("strategy", "Strategy"),
    Column("requests", "Requests", "count"),
    Column("compared", "Compared", "count"),
    Column("cost_share", "Cost, of the teacher’s", "percent"),
    Column("cost_share_low", "Least", "percent"),
    Column("cost_share_high", "Most", "percent"),
    Column("output_token_share", "Paper’s share", "percent"),
    Column("methods", "Baseline by"),
    Column("measured", "Measurements", "count"),
    Column("measurement_usd", "Measurement", "money"),
)


async def tradeoff(gateway: Gateway, said: Mapping[str, str]) -> Page:
    """The page of the trade-off between cost and accuracy."""
    period = parse(said, time.time())
    rows = await gateway.ledger.savings(Query(since=period.since, until=period.until, by="strategy"))
    found, more = await reports(gateway.ledger, gateway.config, since=period.since, until=period.until)
    told = [each for each in found if each.found.requests or (each.route and (each.route.holdout or each.route.shadow))]
    picture = await asyncio.to_thread(frontier.figure, told)
    context = {
        "period": period,
        "reports": told,
        "drifted": frontier.drifted,
        "chart": picture,
        "truncated": MOST if more else None,
        "notional": any(each.notional for each in told),
        "shown": frontier.SHOWN,
    }
    tables = {"arms": table(rows, period), "live": frontier.table(told), "frontier": frontier.points(told)}
    return Page("tradeoff.html", "Trade-off", context, tables)


def table(rows: Sequence[SavingsRow], period: Period) -> Table:
    """One row a strategy, the cheapest first, those that cannot be compared last.

    Shares are of sums, all-in: every stage's dollars over what the teacher alone would have cost. A dearer baseline
    makes a smaller share.
    """
    ordered = sorted(rows, key=lambda row: (row.share is None, row.share or 0.0, row.group))
    lines = [_line(row) for row in ordered]
    return Table("arms", "What each strategy costs", COLUMNS, lines, behind(ordered, "strategy", period))


def _line(row: SavingsRow) -> list[object]:
    spent = row.compared_spent.nano
    least, most = (spent / baseline.nano if baseline else None for baseline in (row.baseline_high, row.baseline_low))
    methods = ", ".join(row.baseline_by_method)
    shares = [row.share, least, most, row.output_token_share]
    measured = [made(row), row.spent_by_stage["measurement"]]
    return [row.group, row.requests, row.compared, *shares, methods, *measured]
