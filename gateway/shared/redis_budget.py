"""Redis, the budget that all replicas share: one counter a period, one record a reservation, one script a step.

Redis must keep what it is told: `appendonly yes` and `maxmemory-policy noeviction`. What it forgets can be spent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import structlog

from gateway.allowance import Allowance
from gateway.errors import Busy
from gateway.ledger.asking import asked
from gateway.ledger.store import Store
from gateway.shared import orphans, recount
from gateway.shared.budget import LATE_SECONDS, Origin, Reservation, Span, checked, over, span, tightest
from gateway.shared.link import Away, Link, Script
from gateway.shared.memory import MemoryBudget
from gateway.shared.redis import away
from pricing.money import Money

RESERVE, SETTLE, USED = Script.load("reserve"), Script.load("settle"), Script.load("used")
SUBJECTS, ASIDE, RECOUNT = Script.load("subjects"), Script.load("aside"), Script.load("recount")
KEEP_SECONDS = 86_400
"""How long a record is kept. A reservation that is settled later is counted at its bound and as spent: never less."""

Ask = Callable[[Script, Sequence[str], Sequence[str | int]], Awaitable[Any]]
"""`Link.run`, or `Link.ask` while Redis is thought to be away."""

log = structlog.get_logger("gateway.shared")


class RedisBudget:
    """A `Budget` for all replicas that share one Redis.

    What could not be told to Redis is kept and told when it is back; telling it twice does no harm. `local`: serve
    while Redis is away, each process on what it last knew, so that together they may overspend what was left once for
    each process; what they spent is told when Redis is back. Not `local`: nobody is admitted then.
    """

    def __init__(self, link: Link, *, local: bool, prefix: str = "gkt", store: Store | None = None) -> None:
        """`store` is the ledger's, whose truth it is what dead processes spent; None: that is never settled."""
        self._link = link
        self._prefix = prefix
        self._store = store
        self._known: set[str] = set()
        self._serve_locally = local
        self._untold: dict[str, tuple[Reservation, Money]] = {}
        self._seen: dict[str, Mapping[Span, int]] = {}
        self._local = MemoryBudget()
        self._local_open: dict[str, Reservation] = {}
        self._offered: dict[str, Reservation] = {}
        self._local_spent: dict[tuple[str, tuple[Span, ...]], int] = {}
        link.on_return(self._catch_up)

    async def reserve(
        self, subject: str, budgets: Sequence[Allowance], amount: Money, now: float, origin: Origin | None = None
    ) -> Reservation:
        limits = tightest(budgets, now)
        reservation = Reservation.of(subject, amount, list(limits), origin)
        if not limits:
            return reservation
        try:
            if origin is not None and subject not in self._known:
                await self._link.run(SUBJECTS, [self._subjects], [subject])
                self._known.add(subject)
            full, *used = await self._reserve(self._link.run, reservation, limits)
        except Away as error:
            if error.sent:
                self._untold[reservation.id] = (reservation, Money.ZERO)
            return await self._without(subject, budgets, amount, now)
        except asyncio.CancelledError:
            self._untold[reservation.id] = (reservation, Money.ZERO)
            self._link.spawn(self._tell_later())
            raise
        if full < 0:
            log.error("the clock of this gateway is days behind that of redis: its budgets cannot be counted")
            raise away()
        known = {when: int(nano) for when, nano in zip(limits, used, strict=True)}
        if full:
            when, allowance = list(limits.items())[full - 1]
            raise over(allowance, when, Money(known[when]), amount)
        self._seen[subject] = known
        return reservation

    async def settle(self, reservation: Reservation, spent: Money | None) -> None:
        truth = reservation.amount if spent is None else checked(spent)
        self._offered.pop(reservation.id, None)
        if self._local_open.pop(reservation.id, None):
            await self._local.settle(reservation, truth)
            if self._link.away:  # a sum says as much as every request, and stays small
                whose = (reservation.subject, reservation.spans)
                self._local_spent[whose] = self._local_spent.get(whose, 0) + truth.nano
                return
        elif reservation.over:
            return
        reservation.over = True
        if not reservation.spans:
            return
        self._untold[reservation.id] = (reservation, truth)
        try:
            await self._tell(self._link.run, reservation, truth)
        except Away:
            return
        except asyncio.CancelledError:
            self._link.spawn(self._tell_later())
            raise

    async def used(self, subject: str, budgets: Sequence[Allowance], now: float) -> Sequence[Money]:
        spans = [span(allowance.period, now) for allowance in budgets]
        if not spans:
            return []
        try:
            found = await self._link.run(USED, [self._counter(subject, when) for when in spans], [])
        except Away:
            if not self._serve_locally:
                raise away() from None
            self._local.seed(subject, self._seen.get(subject, {}))
            return await self._local.used(subject, budgets, now)
        return [Money(int(nano or 0)) for nano in found]

    async def recover(self) -> int:
        if self._store is None:
            return 0
        try:
            count = 0
            for subject in await self._link.run(SUBJECTS, [self._subjects], []):
                found, _ = await self._link.run(ASIDE, [self._aside(subject)], [])
                count += await self._settle_orphans(subject, orphans.parsed(found))
            return count
        except Away:
            raise away() from None

    async def recount(self, subject: str, budgets: Sequence[Allowance], now: float) -> None:
        allowances = list(tightest(budgets, now).values())
        spans = [span(allowance.period, now) for allowance in allowances]
        keys = [self._aside(subject), *(self._counter(subject, when) for when in spans)]
        store = self._store
        if store is None:
            raise Busy("There is no ledger that could tell what was spent.")

        def counted(aside: Sequence[recount.Aside]) -> list[int]:
            with store.transaction() as connection:
                return recount.counted(connection, subject, allowances, now, aside)

        try:
            for _ in range(recount.TRIES):
                found, used = await self._link.run(ASIDE, keys, [])
                notes = orphans.parsed(found)
                sums = await asked(counted, [note.aside for note in notes])
                args: list[str | int] = [len(notes)]
                for before, nano, when in zip(used, sums, spans, strict=True):
                    args += [before, nano, _forgotten(when)]
                if await self._link.run(RECOUNT, keys, [*args, *(note.record for note in notes)]):
                    self._seen.pop(subject, None)
                    return
        except Away:
            raise away() from None
        raise Busy("This caller has too many requests under way to count anew what it spent; try again.")

    async def _settle_orphans(self, subject: str, notes: Sequence[orphans.Note]) -> int:
        """Settle those of `notes` whose process has ended in the ledger, which has then booked their requests."""
        store = self._store
        if store is None or not notes:
            return 0

        def spent() -> list[tuple[orphans.Note, int]]:
            with store.transaction() as connection:
                return orphans.spent(connection, notes)

        count = 0
        for note, nano in await asked(spent):
            keys = [note.record, *(f"{self._base(subject)}:{period}" for period in note.periods), self._aside(subject)]
            ends = [note.periods[period] for period in note.periods]
            args = [nano, nano - note.amount, KEEP_SECONDS, *ends, "recovered"]
            count += await self._link.run(SETTLE, keys, args)
        return count

    async def aclose(self) -> None:
        """Tell Redis what it does not know yet, and say what it will never know. Before the link is closed."""
        self._sum_up()
        try:
            await self._tell_all(self._link.run)
        except Away:
            spent = Money.total(truth for _, truth in self._untold.values())
            log.error("redis was not told what was spent", settlements=len(self._untold), usd=spent.plain)

    async def _without(self, subject: str, budgets: Sequence[Allowance], amount: Money, now: float) -> Reservation:
        if not self._serve_locally:
            self._link.refused += 1
            raise away() from None
        self._local.seed(subject, self._seen.get(subject, {}))
        reservation = await self._local.reserve(subject, budgets, amount, now)
        self._local_open[reservation.id] = reservation
        self._link.local += 1
        return reservation

    async def _catch_up(self) -> None:
        """Redis is back: it learns what was spent without it, and what is still put aside."""
        self._sum_up()
        await self._tell_all(self._link.ask)
        # From here on they are Redis's, whether it hears the offer or not: a settlement is right either way.
        self._offered |= self._local_open
        self._local_open.clear()
        for reservation in list(self._offered.values()):
            await self._reserve(self._link.ask, reservation, dict.fromkeys(reservation.spans))
            self._offered.pop(reservation.id, None)
        self._local = MemoryBudget()
        self._seen.clear()
        self._known.clear()  # it may have forgotten

    def _sum_up(self) -> None:
        for (subject, spans), nano in self._local_spent.items():
            total = Reservation.of(subject, Money.ZERO, spans)
            self._untold[total.id] = (total, Money(nano))
        self._local_spent.clear()

    async def _tell_later(self) -> None:
        try:
            await self._tell_all(self._link.run)
        except Away:
            return  # `_catch_up` will

    async def _tell_all(self, ask: Ask) -> None:
        for reservation, truth in list(self._untold.values()):
            await self._tell(ask, reservation, truth)

    async def _tell(self, ask: Ask, reservation: Reservation, truth: Money) -> None:
        change = truth - reservation.amount
        ends = [_forgotten(when) for when in reservation.spans]
        await ask(SETTLE, self._keys(reservation), [truth.nano, change.nano, KEEP_SECONDS, *ends, "settled"])
        self._untold.pop(reservation.id, None)

    async def _reserve(self, ask: Ask, reservation: Reservation, limits: Mapping[Span, Allowance | None]) -> Any:
        args: list[str | int] = [reservation.amount.nano, KEEP_SECONDS]
        for when, allowance in limits.items():
            args += ["" if allowance is None else allowance.limit.nano, _forgotten(when)]
        return await ask(RESERVE, self._keys(reservation), [*args, orphans.note(reservation, _forgotten)])

    def _keys(self, reservation: Reservation) -> list[str]:
        counters = [self._counter(reservation.subject, when) for when in reservation.spans]
        record = f"{self._base(reservation.subject)}:reservation:{reservation.id}"
        return [record, *counters, self._aside(reservation.subject)]

    def _aside(self, subject: str) -> str:
        return f"{self._base(subject)}:aside"

    @property
    def _subjects(self) -> str:
        return f"{self._prefix}:budget:subjects"

    def _counter(self, subject: str, when: Span) -> str:
        return f"{self._base(subject)}:{when.key}"

    def _base(self, subject: str) -> str:
        # The braces keep what belongs to one subject together where Redis is many servers.
        return f"{self._prefix}:budget:{{{quote(subject, safe='')}}}"


def _forgotten(when: Span) -> str | int:
    """The second at which a counter may go: some days after its period, for what is settled late."""
    return "" if when.ends is None else when.ends + LATE_SECONDS
