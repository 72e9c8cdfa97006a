"""Overview: spent, the teacher alone, saved; over time, by strategy, model, key and tag; and what is left out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from gateway.dashboard import figures, keys, tables, tags
from gateway.dashboard.page import Page
from gateway.dashboard.period import Period, buckets, local_day, moment, parse, shifted
from gateway.dashboard.requests import behind
from gateway.dashboard.tables import Column, Table, by_group, dearest
from gateway.ledger.entry import Query, SavingsRow
from gateway.ledger.sums import Sums
from gateway.pipeline import Gateway
from pricing.money import Money

LONGEST = 1_500
"""Days that a chart over all time can show; earlier ones are in the table's CSV."""

LATEST = 62
"""Days or hours that the table below the chart shows; its CSV has all."""


async def overview(gateway: Gateway, said: Mapping[str, str]) -> Page:
    """The first page."""
    now = time.time()
    period = parse(said, now)
    asked = Query(since=period.since, until=period.until)
    ask = gateway.ledger.sums
    days = period.days(now)
    fine = "hour" if days != "UTC" else period.step
    by_time, *groups = await asyncio.gather(
        *(ask(replace(asked, by=name)) for name in (fine, "strategy", "model", "caller"))
    )
    if fine != period.step:
        by_time = _by_day(by_time, days)
    times = [sums.row(name) for name, sums in by_time.items()]
    by_strategy, by_model, by_caller = (dearest(sums.items()) for sums in groups)
    whole = Sums.total(by_time.values()).row()
    held = await gateway.keys.all()
    tagged = any(key.tags for key in held)
    by_tag = tags.by_tag(groups[-1], held)
    ever = whole.requests > 0 or bool(await gateway.ledger.entries(limit=1))
    shown = {
        "time": replace(
            by_group("time", f"Sums by {period.step}, newest first", times[::-1], _column(period, days)), shown=LATEST
        ),
        "strategies": by_group(
            "strategies",
            "By strategy",
            by_strategy,
            Column("strategy", "Strategy"),
            behind(by_strategy, "strategy", period),
        ),
        "models": by_group(
            "models",
            "By the model that was asked for",
            by_model,
            Column("model", "Model", "code"),
            behind(by_model, "model", period),
        ),
        "keys": keys.table(by_caller, held, period, now),
        "tags": tags.table(by_tag),
        "split": split(whole),
        "sums": Table("sums", "All sums", tables.SUMS, [tables.sums(whole)]),
        "methods": methods(whole),
    }
    charts = {
        "time": figures.over_time(times, _names(times, period, days, now), period.step, days),
        "strategies": figures.strategies(by_strategy),
        "split": figures.split(whole),
        "models": figures.groups("models", "By the model that was asked for", by_model),
        "keys": keys.chart(by_caller, held),
        **({"tags": figures.groups("tags", "By tag of the key", by_tag)} if tagged else {}),
    }
    context = {
        "period": period,
        "row": whole,
        "saved_share": tables.saved_share(whole),
        "saved_range": saved_range(whole),
        "charts": charts,
        "beside": keys.BESIDE,
        "tags_beside": tags.BESIDE,
        "ever": ever,
        "stand_ins": [upstream for upstream in gateway.upstreams.values() if upstream.stand_in is not None],
        "models": gateway.planner.models(),
        "needs_key": not gateway.auth.open,
    }
    return Page("overview.html", "Overview", context, shown)


def saved_range(row: SavingsRow) -> tuple[Money, Money] | None:
    """The least and the most that may have been saved, from the baseline's range; None where that is unknown."""
    if row.baseline_low is None or row.baseline_high is None:
        return None
    return row.baseline_low - row.compared_spent, row.baseline_high - row.compared_spent


def split(row: SavingsRow) -> Table:
    """Spending by stage, and what of it was wasted."""
    parts = [*row.spent_by_stage.items(), ("guidance that was wasted (part of guidance)", row.wasted_spent)]
    total = row.spent.nano
    return Table(
        "split",
        "Where the money went",
        (Column("stage", "Stage"), Column("spent_usd", "Spent", "money"), Column("share", "Share", "percent")),
        [[name, amount, amount.nano / total if total else None] for name, amount in parts],
    )


def methods(row: SavingsRow) -> Table:
    """How the baselines of the compared requests were found."""
    total = row.baseline.nano if row.baseline else 0
    return Table(
        "methods",
        "How the teacher alone was reckoned",
        (
            Column("method", "Method"),
            Column("teacher_alone_usd", "Teacher alone", "money"),
            Column("share", "Share", "percent"),
        ),
        [[name, amount, amount.nano / total if total else None] for name, amount in row.baseline_by_method.items()],
    )


def _by_day(hours: Mapping[str, Sums], zone: str) -> dict[str, Sums]:
    """Sums by hour as sums by the days of a zone, in which each hour lies whole."""
    days = groupby(hours.items(), key=lambda hour: local_day(hour[0], zone))
    return {day: Sums.total(sums for _, sums in parts) for day, parts in days}


def _column(period: Period, days: str) -> Column:
    if period.step == "hour":
        return Column("hour_utc", "Hour", "hour")
    return Column("day_utc" if days == "UTC" else "day", f"Day ({days})")


def _names(rows: Sequence[SavingsRow], period: Period, days: str, now: float) -> list[str]:
    """All hours or days of the period that are over or have begun, or since the first request."""
    begin = period.since if period.since is not None else moment(rows[0].group) if rows else now
    end = min(now, period.until) if period.until is not None else now
    if period.step == "day" and days != "UTC":
        begin, end = shifted(begin, days), shifted(end, days)
    if rows:
        end = max(end, moment(rows[-1].group) + 1)
    return list(buckets(period.step, begin, end, LONGEST))
