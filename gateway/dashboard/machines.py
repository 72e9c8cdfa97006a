"""Machines: what an upstream with a price by the hour cost over a range of time, working and idle.

A pool has no machine of its own: each member's account has what the pool asked of it, beside what it was asked itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.dashboard.period import Period
from gateway.dashboard.tables import Column
from gateway.ledger.entry import Ledger, Timed
from gateway.upstreams import Upstream
from pricing.machine import Machine, Stay
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
    `unmeasured` calls are booked, and nobody knows how long they took. `pools` are those that it is a member of.
    """

    machine: Machine
    since: float
    until: float
    calls: int
    unmeasured: int
    newest: bool
    pools: Sequence[str] = ()

    @property
    def over(self) -> bool:
        """Whether its calls paid clearly more than the busy time cost: not for rounding, or a call across an end."""
        return self.machine.booked.nano > self.machine.working.nano * 1.01

    @property
    def row(self) -> list[Any]:
        """In the order of `COLUMNS`."""
        told = self.machine
        times = [self.since, self.until, told.elapsed, told.busy, told.utilisation]
        return [*times, told.cost, told.working, told.idle, told.booked]


@dataclass(frozen=True, slots=True)
class Read:
    """The calls of one upstream, newest first, and whether there are more of them than were read."""

    calls: Sequence[Timed]
    more: bool

    @property
    def oldest(self) -> float:
        """When the first of them began."""
        return self.calls[-1].started


async def uses(
    ledger: Ledger, priced: Mapping[str, tuple[Upstream, Price | None]], period: Period, now: float
) -> tuple[dict[str, Use], dict[str, int]]:
    """The accounts of all machines at a price by the hour, by the upstream's name.

    With the calls of each pool of such machines, if it has some, of which nobody wrote down the member that answered.
    A stand-in's seat has no machine; one that was not yet called when the range ends, or in a range that has not begun,
    has no account.
    """
    until = now if period.until is None else min(period.until, now)
    if period.since is not None and until <= period.since:
        return {}, {}
    asked = {
        name: (upstream, price.per_hour)
        for name, (upstream, price) in priced.items()
        if price is not None and price.per_hour is not None and upstream.stand_in is None
    }
    read: dict[str, Read] = {}
    for name, (upstream, _) in asked.items():
        limit = READ // len(asked)
        # A call from before the range may have run into it, but no longer than any call may take.
        first = None if period.since is None else period.since - upstream.max_seconds
        found = await ledger.timed(name, since=first, until=until, limit=limit + 1)
        read[name] = Read(found[:limit], len(found) > limit)
    made: dict[str, Use] = {}
    for name, (upstream, per_hour) in asked.items():
        if upstream.members:
            continue
        pools = [other for other, (pool, _) in asked.items() if name in pool.members]
        use = await _use(ledger, name, per_hour, {each: read[each] for each in (name, *pools)}, period.since, until)
        if use is not None:
            made[name] = use
    lost = {
        name: sum(not call.stays and bool(call.amount) for call in read[name].calls)
        for name, (upstream, _) in asked.items()
        if upstream.members
    }
    return made, {name: count for name, count in lost.items() if count}


async def _use(
    ledger: Ledger, name: str, per_hour: Money, read: Mapping[str, Read], since: float | None, until: float
) -> Use | None:
    """The account of the upstream of that name, from the calls to it and to its pools."""
    newest = any(each.more for each in read.values())
    calls = [(call, _stays(call, name, own=by == name)) for by, each in read.items() for call in each.calls]
    ran = [(call, stays) for call, stays in calls if stays is not None]
    if newest:
        since = max(each.oldest for each in read.values() if each.more)
    elif since is None or not await _known(ledger, read, since):
        since = min((call.started for call, _ in ran), default=None)
    if since is None or until <= since:
        return None
    own = [(call, stays) for call, stays in ran if call.started >= since]
    booked = Money(sum(_part(call, name) for call, _ in own))
    machine = Machine.of(per_hour, [stay for _, stays in ran for stay in stays], since, until, booked)
    unmeasured = sum(not stays for _, stays in own)
    return Use(machine, since, until, len(own), unmeasured, newest, [by for by in read if by != name])


async def _known(ledger: Ledger, read: Mapping[str, Read], since: float) -> bool:
    """Whether any of these upstreams was called before."""
    for name in read:
        if await ledger.timed(name, until=since, limit=1):
            return True
    return False


def _stays(call: Timed, name: str, *, own: bool) -> list[Stay] | None:
    """When a call ran on the machine of `name`; empty: nobody knows when; None: elsewhere, or nobody knows where.

    Of a call to the upstream itself (`own`), where is known.
    """
    if call.stays:
        return [Stay(stay.began, stay.ended, stay.share) for stay in call.stays if stay.engine == name] or None
    if not own:
        return None
    if call.duration is None:
        return []
    return [Stay(call.started, call.started + call.duration, call.seconds)]


def _part(call: Timed, name: str) -> int:
    """What of a call's amount this machine gets, in nano-dollars: the parts of all of its machines add up to it."""
    whole = sum(stay.share for stay in call.stays)
    if not call.amount or not whole:
        return call.amount or 0 if not call.stays or call.stays[0].engine == name else 0
    passed, part = 0.0, 0
    for stay in call.stays:
        upto = passed + stay.share
        if stay.engine == name:
            part += round(call.amount * upto / whole) - round(call.amount * passed / whole)
        passed = upto
    return part
