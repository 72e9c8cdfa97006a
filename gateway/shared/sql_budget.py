"""SQL, the budget that all processes on one ledger share, and that outlives them: rows of the ledger's database.

A request must not pay for a transaction of its own, and the event loop must not wait for a disk. One task gathers
what waits and has a thread do it as one transaction; whoever came first is served first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Literal

import structlog

from gateway.allowance import Allowance
from gateway.errors import Busy, OverBudget
from gateway.ledger.asking import asked
from gateway.ledger.store import Store
from gateway.shared import counters, recount
from gateway.shared.budget import Origin, Reservation, checked, span, tightest
from gateway.shared.counters import Debt, Wish
from pricing.money import Money

PATIENCE = 2.0
"""Seconds that a request waits for the database."""

LARGEST = 500
"""The most reservations, and the most settlements, of one transaction; a longer one keeps other processes waiting."""

RETRY = (0.05, 0.5)
"""Seconds between attempts on a database that fails: the first pause, doubled up to the last."""

ROOM = 100_000
"""So many settlements are kept for a database that is away. What has no room stays counted at its bound."""

Verdict = OverBudget | Literal["done", "again", "unsure", "never"]
"""Of one item: `again`, nothing has happened; `unsure`, perhaps it has; `never`, the database will not have it."""

log = structlog.get_logger("gateway.shared")


class SqlBudget:
    """A `Budget` in the ledger's database, for the tasks of one event loop; whoever opened `store` closes it, later.

    While the database is away or locked, nobody is admitted after `patience` seconds of waiting; what was spent is
    kept and told when it is back. Telling it twice does no harm: a settlement removes its reservation. Close it with
    `aclose`.
    """

    def __init__(self, store: Store, *, patience: float = PATIENCE) -> None:
        self._store = store
        self._patience = patience
        self._wishes: deque[tuple[Wish, asyncio.Future[None]]] = deque()
        self._debts: dict[str, tuple[Debt, asyncio.Future[None]]] = {}
        self._thread = ThreadPoolExecutor(1, "budgets")
        self._owner: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def untold(self) -> int:
        """How many settlements the database does not know yet."""
        return len(self._debts)

    async def reserve(
        self, subject: str, budgets: Sequence[Allowance], amount: Money, now: float, origin: Origin | None = None
    ) -> Reservation:
        limits = tightest(budgets, now)
        reservation = Reservation.of(subject, amount, list(limits), origin)
        if not limits:
            return reservation
        if self._closing:
            raise Busy("The gateway is closing.")
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wishes.append((Wish(reservation, limits, now), heard))
        self._wake()
        try:
            await asyncio.wait({heard}, timeout=self._patience)
        except asyncio.CancelledError:
            # One that is under way is settled when it is granted.
            if not heard.cancel() and heard.exception() is None:
                self._owe(Debt(reservation, Money.ZERO))
            raise
        if heard.cancel():
            raise _away()
        heard.result()
        return reservation

    async def settle(self, reservation: Reservation, spent: Money | None) -> None:
        truth = reservation.amount if spent is None else checked(spent)
        if reservation.over:
            return
        reservation.over = True
        if reservation.spans:
            # A wait that is cancelled takes nothing back.
            await asyncio.wait({self._owe(Debt(reservation, truth))}, timeout=self._patience)

    async def recover(self) -> int:
        return 0  # the ledger does it, in the transaction that settles the calls

    async def recount(self, subject: str, budgets: Sequence[Allowance], now: float) -> None:
        def count() -> None:
            with self._store.transaction(write=True) as connection:
                recount.in_database(connection, subject, list(tightest(budgets, now).values()), now)

        await asked(count)

    async def used(self, subject: str, budgets: Sequence[Allowance], now: float) -> Sequence[Money]:
        spans = [span(allowance.period, now) for allowance in budgets]
        if not spans:
            return []

        def read() -> list[int]:
            with self._store.transaction() as connection:
                return counters.read(connection, subject, spans)

        try:
            async with asyncio.timeout(self._patience):
                return [Money(nano) for nano in await asyncio.to_thread(read)]
        except Exception as error:
            log.warning("budgets cannot be read", error=_text(error))
            raise _away() from error

    async def aclose(self) -> None:
        """Tell the database what it does not know yet, once more, and say what it will never know."""
        self._closing = True
        if self._owner is not None and not self._owner.done():
            await asyncio.wait({self._owner}, timeout=2 * self._patience)
            self._owner.cancel()
        if self._debts:
            spent = Money.total(debt.spent for debt, _ in self._debts.values())
            log.error("the database was not told what was spent", settlements=len(self._debts), usd=spent.plain)
        self._thread.shutdown(wait=False)

    def _owe(self, debt: Debt) -> asyncio.Future[None]:
        """Keep `debt` until the database knows it; the future is done when it does, or when that takes longer."""
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if len(self._debts) >= ROOM or (self._closing and (self._owner is None or self._owner.done())):
            log.critical("a budget stays charged with a bound", reservation=debt.reservation.id, usd=debt.spent.plain)
            heard.set_result(None)
            return heard
        self._debts[debt.reservation.id] = (debt, heard)
        self._wake()
        return heard

    def _wake(self) -> None:
        if self._owner is None or self._owner.done():
            self._owner = asyncio.create_task(self._own())

    async def _own(self) -> None:
        """The one task that has the database asked; it lives while something waits."""
        pause = 0.0
        while self._wishes or self._debts:
            last = self._closing
            works = await self._round()
            if not works and last:
                return
            pause = 0.0 if works else min(pause * 2, RETRY[1]) or RETRY[0]
            if pause:
                await asyncio.sleep(pause)

    async def _round(self) -> bool:
        """Do a group of what waits; False when the database failed."""
        wishes = self._first_wishes()
        debts = [debt for debt, _ in islice(self._debts.values(), LARGEST)]
        if not wishes and not debts:
            return True
        asked = [wish for wish, _ in wishes]
        verdicts = await asyncio.get_running_loop().run_in_executor(self._thread, attempt, self._store, asked, debts)
        for debt, verdict in zip(debts, verdicts[len(wishes) :], strict=True):
            self._heard_of_debt(debt, verdict)
        again = [
            (wish, heard)
            for (wish, heard), verdict in zip(wishes, verdicts, strict=False)
            if not self._heard_of_wish(wish, heard, verdict)
        ]
        self._wishes.extendleft(reversed(again))
        return not {"again", "unsure"}.intersection(each for each in verdicts if isinstance(each, str))

    def _first_wishes(self) -> list[tuple[Wish, asyncio.Future[None]]]:
        """The oldest ones, without those whose callers have gone."""
        found: list[tuple[Wish, asyncio.Future[None]]] = []
        while self._wishes and len(found) < LARGEST:
            wish, heard = self._wishes.popleft()
            if not heard.done():
                found.append((wish, heard))
        return found

    def _heard_of_wish(self, wish: Wish, heard: asyncio.Future[None], verdict: Verdict) -> bool:
        """Tell its caller, or nobody when there is none any more; False: it is to be tried again."""
        if verdict == "again":
            return False
        gone = heard.done()
        if verdict == "unsure" or (verdict == "done" and gone):
            self._owe(Debt(wish.reservation, Money.ZERO, unsure=verdict == "unsure"))
        if gone:
            return True
        if verdict == "done":
            heard.set_result(None)
        else:
            heard.set_exception(verdict if isinstance(verdict, OverBudget) else _away())
        return True

    def _heard_of_debt(self, debt: Debt, verdict: Verdict) -> None:
        _, heard = self._debts[debt.reservation.id]
        if verdict in ("done", "never"):
            del self._debts[debt.reservation.id]
        if not heard.done():
            heard.set_result(None)


def attempt(store: Store, wishes: Sequence[Wish], debts: Sequence[Debt]) -> list[Verdict]:
    """Do a group in one transaction, blocking; a verdict for each wish and then for each debt. Never raises.

    When the database refuses a row, each item gets a transaction of its own: one must not hold up the others.
    """
    count = len(wishes) + len(debts)
    complete = False
    try:
        with store.transaction(write=True) as connection:
            refusals = counters.apply(connection, wishes, debts)
            complete = True
    except Exception as error:  # noqa: BLE001 - whatever it is, the callers must hear of it and the task live on
        if complete or store.transient(error):
            log.warning("budgets cannot be written, will be tried again", items=count, error=_text(error))
            return ["unsure" if complete else "again"] * count
        if count == 1:
            log.critical("the database refused a budget's row", error=_text(error))
            return ["never"]
        alone = [attempt(store, [wish], []) for wish in wishes] + [attempt(store, [], [debt]) for debt in debts]
        return [verdict for verdicts in alone for verdict in verdicts]
    settled: list[Verdict] = ["done"] * len(debts)
    return [refused or "done" for refused in refusals] + settled


def _away() -> Busy:
    return Busy("The gateway cannot reach the database that keeps its budgets; try again shortly.")


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
