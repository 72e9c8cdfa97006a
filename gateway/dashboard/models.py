"""Models: every upstream with its price, what it proved to be able to do, and how fast it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from gateway.dashboard import machines, prices
from gateway.dashboard.machines import Use
from gateway.dashboard.page import Page
from gateway.dashboard.period import parse
from gateway.dashboard.tables import Column, Table
from gateway.ledger.entry import Made, Query
from gateway.pipeline import Gateway
from gateway.upstreams import Upstream
from pricing.book import Price
from pricing.money import Money

SAMPLE = 1_000
"""Speeds are those of the calls of so many newest requests: a page must not read a whole year of them."""

COLUMNS = (
    Column("upstream", "Upstream", "code"),
    Column("model", "Model", "code"),
    Column("state", "State", "state"),
    Column("stand_in", "Stand-in", "code"),
    Column("abilities", "Proven abilities"),
    Column("calls", "Calls", "count"),
    Column("failed", "Failed", "count"),
    Column("cut", "Cut short", "count"),
    Column("output_tokens", "Tokens out", "count"),
    Column("spent_usd", "Spent", "money"),
    Column("tokens_per_second", "Speed", "rate"),
    Column("first_token_median_s", "First word, median", "seconds"),
    Column("first_token_p95_s", "First word, 95 %", "seconds"),
    *prices.COLUMNS,
    *machines.COLUMNS,
)


@dataclass(frozen=True, slots=True)
class Speed:
    """What the calls to one upstream came to. None: no call tells.

    `rate` is output tokens a second over the whole time of the calls, waiting included. `spent` sums the priced ones.
    """

    calls: int
    failed: int
    cut: int
    output: int
    spent: Money
    rate: float | None
    first_median: float | None
    first_p95: float | None


@dataclass(frozen=True, slots=True)
class Card:
    """One upstream as the page shows it. `price` is None when nobody knows one, `use` when it has none by the hour.

    `lost`: calls of a pool of such machines of which nobody knows the member.
    """

    upstream: Upstream
    state: str
    error: str | None
    abilities: Sequence[str]
    price: Price | None
    speed: Speed
    use: Use | None
    lost: int = 0

    @property
    def row(self) -> list[Any]:
        """In the order of `COLUMNS`."""
        at, speed = self.upstream, self.speed
        counts = [speed.calls, speed.failed, speed.cut, speed.output, speed.spent]
        times = [speed.rate, speed.first_median, speed.first_p95]
        names = [at.name, at.model, self.state, at.stand_in, ", ".join(self.abilities)]
        machine = self.use.row if self.use else [None] * len(machines.COLUMNS)
        return [*names, *counts, *times, *prices.cells(self.price), *machine]


def _state(state: Mapping[str, Any]) -> str:
    breaker = state.get("breaker", "closed")
    ready = "ready" if state["ready"] else "not ready"
    return ready if breaker == "closed" else f"{ready}, breaker {breaker}"


async def models(gateway: Gateway, said: Mapping[str, str]) -> Page:
    """The page of models."""
    now = time.time()
    period = parse(said, now)
    states = (await gateway.readiness())["upstreams"]
    priced = {
        name: (upstream, gateway.book.price(upstream.model, provider=upstream.seller, moment=now))
        for name, upstream in gateway.upstreams.items()
    }
    calls, (used, lost) = await asyncio.gather(
        gateway.ledger.calls(Query(since=period.since, until=period.until), limit=SAMPLE),
        machines.uses(gateway.ledger, priced, period, now),
    )
    by_upstream: dict[str, list[Made]] = {}
    for call in calls:
        by_upstream.setdefault(call.upstream, []).append(call)
    cards = [
        Card(
            upstream,
            _state(states[name]),
            states[name].get("error"),
            states[name].get("abilities", ()),
            price,
            speed(by_upstream.pop(name, ())),
            used.get(name),
            lost.get(name, 0),
        )
        for name, (upstream, price) in priced.items()
    ]
    table = Table("models", "Upstreams", COLUMNS, [card.row for card in cards])
    context = {
        "period": period,
        "cards": cards,
        "sample": SAMPLE,
        "calls": len(calls),
        "gone": sorted((name, len(made)) for name, made in by_upstream.items()),
    }
    return Page("models.html", "Models", context, {"models": table})


def speed(calls: Sequence[Made]) -> Speed:
    """How fast these calls were."""
    timed = [(call.output, call.duration) for call in calls if call.output and call.duration]
    firsts = [call.first_token for call in calls if call.first_token is not None]
    took = sum(duration for _, duration in timed)
    return Speed(
        calls=len(calls),
        failed=sum(call.error is not None for call in calls),
        cut=sum(call.cut for call in calls),
        output=sum(call.output or 0 for call in calls),
        spent=Money(sum(call.amount or 0 for call in calls)),
        rate=sum(output for output, _ in timed) / took if took else None,
        first_median=median(firsts) if firsts else None,
        first_p95=quantiles(firsts, n=20, method="inclusive")[-1] if len(firsts) > 1 else None,
    )
