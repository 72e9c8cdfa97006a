"""What budgets promise of processes that die, and of a memory that was lost: they agree with the ledger again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from gateway.allowance import MOST, Allowance
from gateway.chat import Call, Seat
from gateway.errors import Busy
from gateway.ledger import rows
from gateway.ledger.entry import Entry
from gateway.ledger.schema import reservations
from gateway.ledger.store import Store
from gateway.shared import recount
from gateway.shared.budget import Budget, Origin, Reservation
from gateway.shared.memory import MemoryBudget
from gateway.shared.redis_budget import RedisBudget
from gateway.shared.sql_budget import SqlBudget
from pricing.bill import Line
from pricing.money import Money
from pricing.usage import Usage
from tests.contracts.places import PATIENT, linked

pytestmark = pytest.mark.anyio

NOW = time.time()
ALICE = "alice"
BUDGETS = [Allowance(MOST, "day"), Allowance(MOST, "total")]


def call(request_id: str, seat: Seat = "teacher", bound: int | None = 900) -> Call:
    money = None if bound is None else Money(bound)
    made = Call(f"c-{seat}", request_id, "answer", seat, "openai", "gpt-6-sol", None, NOW, money)
    made.caller = ALICE
    return made


def entry(request_id: str, *calls: Call, nano: int = 10) -> Entry:
    for each in calls:
        each.line = Line(each.stage, each.model, Usage(), None, Money(nano))
    return Entry(request_id, NOW, "gpt-6-sol", "*", "teacher", "", ALICE, "ok", False, calls, None)


@dataclass
class Process:
    """A gateway, as far as the ledger and whoever keeps the budgets see one."""

    store: Store
    run: int
    budget: Budget

    async def reserve(self, request_id: str, amount: int = 1_000, *, own_key: bool = False) -> Reservation:
        origin = Origin(request_id, self.run, own_key)
        return await self.budget.reserve(ALICE, BUDGETS, Money(amount), NOW, origin)

    def intend(self, *calls: Call) -> None:
        self.store.write([rows.intent(each, self.run) for each in calls])

    def settle(self, *entries: Entry) -> None:
        self.store.write([rows.settlement(each, self.run, text=False) for each in entries])

    async def recover(self) -> None:
        """As it does from time to time, and again when another had the database for too long."""
        while True:
            try:
                await asyncio.to_thread(self.store.recover, self.run, NOW)
            except DBAPIError as error:
                if not self.store.transient(error):
                    raise
            else:
                break
        await self.budget.recover()

    async def used(self) -> int:
        """The same in both periods."""
        day, total = await self.budget.used(ALICE, BUDGETS, NOW)
        assert day == total
        return day.nano

    def booked(self) -> int:
        with self.store.transaction() as connection:
            day, total = recount.spent(connection, ALICE, BUDGETS, NOW)
        assert day == total
        return day


@pytest.fixture(params=["redis", "sqlite", "postgresql"])
async def processes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sequence[Process]]:
    """Three on one ledger, whose budgets are there or in Redis."""
    url = request.getfixturevalue("postgres")() if request.param == "postgresql" else f"sqlite:///{tmp_path}/ledger.db"
    async with AsyncExitStack() as stack:
        link = prefix = None
        if request.param == "redis":
            link, prefix = await stack.enter_async_context(linked(request.getfixturevalue("redis_url")))
        made: list[Process] = []
        for _ in range(3):
            store = Store.open(url)
            stack.callback(store.close)
            if link is not None and prefix is not None:
                budget: Budget = RedisBudget(link, local=False, prefix=prefix, store=store)
            else:
                kept = SqlBudget(store, patience=PATIENT)
                stack.push_async_callback(kept.aclose)
                budget = kept
            made.append(Process(store, store.join(NOW), budget))
        yield made


async def test_what_a_dead_process_left_is_settled_to_what_the_ledger_has(processes: Sequence[Process]) -> None:
    dead, mine, other = processes
    for name in ("open", "booked", "unasked", "own", "unpriced"):
        await dead.reserve(name, own_key=name == "own")
    dead.intend(call("open"), call("own"), call("own", "student", 70), call("unpriced", bound=None))
    dead.settle(entry("booked", call("booked")))
    await mine.reserve("mine", 5)
    mine.intend(call("mine"))
    await mine.recover()
    assert await mine.used() == 5_005, "it lives"
    dead.store.leave(dead.run, NOW)
    await asyncio.gather(mine.recover(), other.recover())
    # At its bound, as booked, nothing, without what its caller pays, and what nobody knows as it was put aside.
    expected = 900 + 10 + 0 + 70 + 1_000
    assert await mine.used() == expected + 5
    await asyncio.gather(mine.recover(), other.recover())
    assert await other.used() == expected + 5


async def test_a_process_that_was_only_thought_dead_has_the_last_word(processes: Sequence[Process]) -> None:
    late, mine, _ = processes
    reservation = await late.reserve("slow")
    late.intend(call("slow"))
    late.store.leave(late.run, NOW)
    await mine.recover()
    assert await mine.used() == mine.booked() == 900
    late.store.beat(late.run, NOW)
    late.settle(entry("slow", call("slow")))
    await late.budget.settle(reservation, Money(10))
    assert await mine.used() == mine.booked() == 10
    await mine.recover()
    assert await mine.used() == 10


async def test_rows_that_come_late_from_a_dead_process_are_charged(processes: Sequence[Process]) -> None:
    """Its disk was not at hand when its run was settled; see `replay`."""
    dead, mine, _ = processes
    if isinstance(mine.budget, RedisBudget):
        pytest.skip("of what comes later, Redis is told nothing: recount")
    await dead.reserve("late")
    dead.store.leave(dead.run, NOW)
    await mine.recover()
    assert await mine.used() == 0
    mine.settle(entry("late", call("late")))
    mine.store.charge(["late"], NOW)
    mine.store.charge(["late"], NOW)
    assert await mine.used() == mine.booked() == 10


async def test_a_recount_is_what_the_ledger_has_beside_what_is_under_way(processes: Sequence[Process]) -> None:
    mine, _, other = processes
    mine.settle(*(entry(f"r{n}", call(f"r{n}")) for n in range(7)))
    for budgets in (BUDGETS, BUDGETS[:1]):  # nobody will ever settle these
        await mine.budget.reserve(ALICE, budgets, Money(333), NOW)
    waiting, entered = await mine.reserve("waiting", 100), await mine.reserve("entered", 200)
    mine.settle(entry("entered", call("entered")))
    await other.budget.recount(ALICE, BUDGETS, NOW)
    assert mine.booked() == 80
    assert await mine.used() == 70 + 100 + 200
    await mine.budget.settle(entered, Money(10))
    assert await mine.used() == 80 + 100
    await mine.budget.settle(waiting, Money.ZERO)
    assert await mine.used() == 80
    assert await mine.budget.used("bob", BUDGETS, NOW) == [Money.ZERO] * 2


async def test_recounts_under_load_lose_nothing(processes: Sequence[Process]) -> None:
    *workers, counter = processes
    await counter.budget.reserve(ALICE, BUDGETS, Money(12_345), NOW)
    chance = random.Random(11)
    stop = asyncio.Event()

    async def client(process: Process, name: int) -> None:
        number = 0
        while not stop.is_set():
            request_id = f"{process.run}-{name}-{number}"
            number += 1
            reservation = await process.reserve(request_id, 50)
            await asyncio.sleep(chance.uniform(0, 0.05))
            await asyncio.to_thread(process.settle, entry(request_id, call(request_id)))
            await asyncio.sleep(chance.uniform(0, 0.05))
            await process.budget.settle(reservation, Money(10))
            await asyncio.sleep(chance.uniform(0, 0.3))

    clients = [asyncio.create_task(client(process, name)) for process in workers for name in range(3)]
    counted = 0
    for _ in range(12):
        await asyncio.sleep(0.1)
        with suppress(Busy):
            await counter.budget.recount(ALICE, BUDGETS, NOW)
            counted += 1
    stop.set()
    await asyncio.gather(*clients)
    assert counted > 0
    assert await counter.used() == counter.booked() > 0


async def test_reservations_leave_nothing_behind(processes: Sequence[Process]) -> None:
    mine, *_ = processes
    await mine.budget.settle(await mine.reserve("r"), Money(10))
    if isinstance(mine.budget, RedisBudget):
        assert await mine.budget._link._client.hgetall(mine.budget._aside(ALICE)) == {}
        return
    with mine.store.transaction() as connection:
        assert connection.scalar(select(func.count()).select_from(reservations)) == 0


async def test_memory_dies_with_its_process() -> None:
    budget = MemoryBudget()
    await budget.reserve(ALICE, BUDGETS, Money(5), NOW, Origin("r", 1))
    assert await budget.recover() == 0
    with pytest.raises(Busy):
        await budget.recount(ALICE, BUDGETS, NOW)
    assert await budget.used(ALICE, BUDGETS, NOW) == [Money(5)] * 2
