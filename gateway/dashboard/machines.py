"""Machines: what an upstream with a price by the hour cost over a range of time, working and idle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.dashboard.period import Period
from gateway.dashboard.tables import Column
from gateway.ledger.entry import Ledger
from gateway.upstreams import Upstream
from pricing.machine import Machine
from pricing.money import Money
from pricing.price import Price

READ = 10_000
"""Calls that one page reads for all its machines together: more would take longer than a page may."""

COLUMNS = (
    Column("machine_from_utc", "Machine, from", "moment"),
    Column("machine_until_utc", "Until", "moment"),
    Column("elapsed_s", "Elapsed", "seconds"),
    Column("busy_s", "Busy", "seconds"),
    Column("utilisation", "Utilisation", "percent"),
    Column("machine_usd", "Machine", "money"),
    Column("working_usd", "Working", "money"),
    Column("idle_usd", "Idle", "money"),
    Column("booked_usd", "Booked", "money"),
)


@dataclass(frozen=True, slots=True)
class Use:
    """The account of one upstream's machine from `since` to `until`, from `calls` that began then.

    `since` is the begin of the range, or the first call on record where that is later: before it, nobody knows of one.
    `newest`: there were more calls in the range, and the account begins with the first of the newest ones.
    `unmeasured` calls are booked, and nobody knows how long they took.
    """

    machine: Machine
    since: float
    until: float
    calls: int
    unmeasured: int
    newest: bool

    @property
    def row(self) -> list[Any]:
        """In the order of `COLUMNS`."""
        told = self.machine
        times = [self.since, self.until, told.elapsed, told.busy, told.utilisation]
        return [*times, told.cost, told.working, told.idle, told.booked]


async def uses(
    ledger: Ledger, priced: Mapping[str, tuple[Upstream, Price | None]], period: Period, now: float
) -> dict[str, Use]:
    """The accounts of all machines at a price by the hour, by the upstream's name.

    A stand-in's seat has no machine; one that was not yet called when the range ends, or in a range that has not begun,
    has no account.
    """
    rented = {
        name: (upstream, price.per_hour)
        for name, (upstream, price) in priced.items()
        if price is not None and price.per_hour is not None and upstream.stand_in is None
    }
    made = {
        name: await _use(ledger, upstream, per_hour, period, now, READ // len(rented))
        for name, (upstream, per_hour) in rented.items()
    }
    return {name: use for name, use in made.items() if use is not None}


async def _use(
    ledger: Ledger, upstream: Upstream, per_hour: Money, period: Period, now: float, limit: int
) -> Use | None:
    until = now if period.until is None else min(period.until, now)
    if period.since is not None and until <= period.since:
        return None
    # A call from before the range may have run into it, but no longer than any call may take.
    first = None if period.since is None else period.since - upstream.max_seconds
    found = await ledger.timed(upstream.name, since=first, until=until, limit=limit + 1)
    newest = len(found) > limit
    calls = found[:limit]
    whole = period.since is not None and not newest
    if whole and await ledger.timed(upstream.name, until=period.since, limit=1):
        since = period.since or 0.0
    elif calls:
        since = calls[-1].started
    else:
        return None
    if until <= since:
        return None
    own = [call for call in calls if call.started >= since]
    spans = [(call.started, call.started + call.duration) for call in calls if call.duration is not None]
    booked = Money(sum(call.amount or 0 for call in own))
    machine = Machine.of(per_hour, spans, since, until, booked)
    return Use(machine, since, until, len(own), sum(call.duration is None for call in own), newest)
