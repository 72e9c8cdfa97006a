"""Overview: spent, the teacher alone, saved; over time, by strategy, model, key and tag; and what is left out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.dashboard import figures, keys, tables, tags
from gateway.dashboard.page import Page, Said
from gateway.dashboard.period import Period, buckets, moment, parse, shifted
from gateway.dashboard.requests import behind
from gateway.dashboard.tables import BRIEF_SUMS, SUMS, Column, Later, Row, Table, by_group, dearest
from gateway.ledger.entry import Query, SavingsRow
from gateway.ledger.sums import Brief, Sums
from gateway.pipeline import Gateway
from pricing.money import Money

LONGEST = 1_500
"""Days that a chart over all time can show; earlier ones are in the table's CSV."""

LATEST = 62
"""Days or hours that the table below the chart shows; its CSV has all."""


async def overview(gateway: Gateway, said: Said) -> Page:
    """The first page."""
    asked = _Asked.by(said)
    period = asked.period
    brief = gateway.ledger.brief
    times, by_strategy, by_model, by_caller = await asyncio.gather(
        asked.times(gateway), brief(asked.query("strategy")), brief(asked.query("model")), brief(asked.query("caller"))
    )
    strategies, models, callers = (dearest(sums.items()) for sums in (by_strategy, by_model, by_caller))
    whole = Sums.total(times.values()).row()
    held = await gateway.keys.all()
    # Where no key has a tag, there is nothing to tell apart.
    by_tag = tags.by_tag(by_caller, held, Brief.total) if any(key.tags for key in held) else ()
    ever = whole.requests > 0 or bool(await gateway.ledger.entries(limit=1))
    over_time = asked.over_time(times)
    shown = {
        "time": over_time,
        "strategies": _strategies(strategies, period, BRIEF_SUMS),
        "models": _models(models, period, BRIEF_SUMS),
        "keys": keys.table(callers, held, period, asked.now, BRIEF_SUMS),
        "tags": tags.table(by_tag, BRIEF_SUMS),
    }
    rows = [sums.row(name) for name, sums in times.items()]
    charts = {
        "time": figures.over_time(rows, asked.names(rows), period.step, asked.days),
        "strategies": figures.strategies(strategies),
        "split": figures.split(whole),
        "models": figures.groups("models", "By the model that was asked for", models),
        "keys": keys.chart(callers, held),
        **({"tags": figures.groups("tags", "By tag of the key", by_tag)} if by_tag else {}),
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


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an address asks for, and when."""

    period: Period
    now: float

    @classmethod
    def by(cls, said: Said) -> _Asked:
        now = time.time()
        return cls(parse(said, now), now)

    def query(self, by: str | None = None) -> Query:
        return Query(since=self.period.since, until=self.period.until, by=by)

    @property
    def days(self) -> str:
        """The zone whose days they are."""
        return self.period.days(self.now)

    async def times(self, gateway: Gateway) -> Mapping[str, Sums]:
        """The sums of each hour or day, by the days of `days`."""
        asked = self.query(self.period.step)
        if self.period.step == "day" and self.days != "UTC":
            asked = replace(asked, ahead=self.period.ahead(self.now))
        return await gateway.ledger.sums(asked)

    def over_time(self, times: Mapping[str, Sums]) -> Table:
        """As a table, whose rows are made when they are looked at."""
        step, days = self.period.step, self.days
        column = Column("hour_utc", "Hour", "hour")
        if step == "day":
            column = Column("day_utc" if days == "UTC" else "day", f"Day ({days})")
        rows = Later([*times.items()][::-1], lambda each: each[1].row(each[0]))
        return replace(by_group("time", f"Sums by {step}, newest first", rows, column), shown=LATEST)

    def names(self, rows: Sequence[SavingsRow]) -> list[str]:
        """All hours or days of the period that are over or have begun, or since the first request."""
        period, now = self.period, self.now
        begin = period.since if period.since is not None else moment(rows[0].group) if rows else now
        end = min(now, period.until) if period.until is not None else now
        if period.step == "day" and self.days != "UTC":
            begin, end = shifted(begin, self.days), shifted(end, self.days)
        if rows:
            end = max(end, moment(rows[-1].group) + 1)
        return list(buckets(period.step, begin, end, LONGEST))


async def _time_alone(gateway: Gateway, said: Said) -> Table:
    asked = _Asked.by(said)
    return asked.over_time(await asked.times(gateway))


async def _strategies_alone(gateway: Gateway, said: Said) -> Table:
    asked = _Asked.by(said)
    sums = await gateway.ledger.sums(asked.query("strategy"))
    return _strategies(dearest(sums.items()), asked.period)


async def _models_alone(gateway: Gateway, said: Said) -> Table:
    asked = _Asked.by(said)
    return _models(dearest((await gateway.ledger.sums(asked.query("model"))).items()), asked.period)


async def _keys_alone(gateway: Gateway, said: Said) -> Table:
    asked = _Asked.by(said)
    sums = await gateway.ledger.sums(asked.query("caller"))
    return keys.table(dearest(sums.items()), await gateway.keys.all(), asked.period, asked.now)


async def _tags_alone(gateway: Gateway, said: Said) -> Table:
    sums = await gateway.ledger.sums(_Asked.by(said).query("caller"))
    return tags.table(tags.by_tag(sums, await gateway.keys.all(), Sums.total))


def _of_whole(table: Callable[[SavingsRow], Table]) -> Callable[[Gateway, Said], Awaitable[Table]]:
    async def alone(gateway: Gateway, said: Said) -> Table:
        (row,) = await gateway.ledger.savings(_Asked.by(said).query())
        return table(row)

    return alone


def _strategies(rows: Sequence[Row], period: Period, columns: Sequence[Column] = SUMS) -> Table:
    links = behind(rows, "strategy", period)
    return by_group("strategies", "By strategy", rows, Column("strategy", "Strategy"), links, columns)


def _models(rows: Sequence[Row], period: Period, columns: Sequence[Column] = SUMS) -> Table:
    links = behind(rows, "model", period)
    title = "By the model that was asked for"
    return by_group("models", title, rows, Column("model", "Model", "code"), links, columns)


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


TABLES = {
    "time": _time_alone,
    "strategies": _strategies_alone,
    "models": _models_alone,
    "keys": _keys_alone,
    "tags": _tags_alone,
    "split": _of_whole(split),
    "sums": _of_whole(lambda row: Table("sums", "All sums", SUMS, [tables.sums(row)])),
    "methods": _of_whole(methods),
}
"""What the CSV of the page gives, each made alone."""
