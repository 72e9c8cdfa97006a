"""Budgets in a real database that is shared, locked, torn away and killed: nothing is spent twice, nothing leaks."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Literal

import pytest
from alembic import command
from sqlalchemy import Connection, create_engine, event, func, inspect, select, update
from structlog.typing import EventDict

from gateway.allowance import MOST, Allowance
from gateway.errors import Busy, OverBudget
from gateway.ledger import migrate
from gateway.ledger.schema import keys, reservations, spending
from gateway.ledger.store import Store
from gateway.shared import counters, sql_budget
from gateway.shared.budget import LATE_SECONDS, Origin, Reservation, Span, tightest
from gateway.shared.build import open_shared
from gateway.shared.counters import Debt, Wish
from gateway.shared.memory import MemoryBudget, MemoryLimiter
from gateway.shared.sql_budget import SqlBudget, attempt
from pricing.money import Money
from tests.conftest import Postgres, Together

pytestmark = pytest.mark.anyio

NOW = 1_795_000_000.0
LONG_AGO = NOW - 60 * 86_400
"""So long that what is forgotten days later is past by the database's own clock too."""
DAY = 86_400
TOTAL = [Allowance(Money(1000), "total")]
PATIENT = 8.0
"""Seconds for the database where a busy machine is not meant to matter."""


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    made = Store.open(database)
    yield made
    made.close()


@pytest.fixture
async def budget(store: Store) -> AsyncIterator[SqlBudget]:
    made = SqlBudget(store, patience=PATIENT)
    yield made
    await made.aclose()


@contextmanager
def locked(database: str) -> Iterator[None]:
    """Another process has the tables for itself."""
    engine = create_engine(database)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.connection.cursor().execute("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("LOCK TABLE spending, reservations")
        yield
        connection.rollback()
    engine.dispose()


@contextmanager
def counted(store: Store) -> Iterator[list[Connection]]:
    """The transactions that `store` begins meanwhile."""
    begun: list[Connection] = []

    def begin(connection: Connection) -> None:
        begun.append(connection)

    event.listen(store._engine, "begin", begin)
    yield begun
    event.remove(store._engine, "begin", begin)


def left_open(store: Store) -> int:
    with store.transaction() as connection:
        return connection.scalar(select(func.count()).select_from(reservations)) or 0


def new(subject: str, amount: int, budgets: list[Allowance]) -> tuple[Reservation, Wish]:
    limits = tightest(budgets, NOW)
    reservation = Reservation.of(subject, Money(amount), list(limits))
    return reservation, Wish(reservation, limits, NOW)


async def total(budget: SqlBudget, subject: str = "key") -> int:
    return (await budget.used(subject, TOTAL, NOW))[0].nano


async def told(budget: SqlBudget) -> None:
    async with asyncio.timeout(10):
        while budget.untold or (budget._owner is not None and not budget._owner.done()):  # noqa: ASYNC110 - a thread's
            await asyncio.sleep(0.01)


async def test_a_budget_outlives_its_process(database: str) -> None:
    for n in range(1, 4):
        store = Store.open(database)
        budget = SqlBudget(store)
        await budget.settle(await budget.reserve("key", TOTAL, Money(300), NOW), Money(250))
        await budget.reserve("key", TOTAL, Money(50), NOW)  # never settled: its process ends
        assert await total(budget) == 300 * n
        await budget.aclose()
        store.close()
    again = SqlBudget(Store.open(database))
    with pytest.raises(OverBudget, match=r"\$0.0000009 is spent or put aside"):
        await again.reserve("key", TOTAL, Money(101), NOW)
    await again.aclose()


async def test_500_at_once_take_few_transactions(store: Store, budget: SqlBudget) -> None:
    with counted(store) as begun:
        made = await asyncio.gather(*(budget.reserve("key", TOTAL, Money(2), NOW) for _ in range(500)))
        assert 0 < len(begun) <= 5
        await asyncio.gather(*(budget.settle(each, Money(1)) for each in made))
        assert len(begun) <= 10
    assert await total(budget) == 500
    assert left_open(store) == 0


async def test_without_allowances_no_database_is_touched(store: Store, budget: SqlBudget) -> None:
    with counted(store) as begun:
        await budget.settle(await budget.reserve("key", [], Money(2), NOW), Money(1))
        assert await budget.used("key", [], NOW) == []
    assert begun == []


async def test_a_group_is_decided_in_the_order_of_arrival(budget: SqlBudget) -> None:
    asked = [("a", 600), ("a", 600), ("b", 900), ("a", 400), ("a", 1), ("b", 100), ("c", 1001), ("c", 1000)]
    got = await asyncio.gather(
        *(budget.reserve(subject, TOTAL, Money(amount), NOW) for subject, amount in asked), return_exceptions=True
    )
    assert [isinstance(each, Reservation) for each in got] == [True, False, True, True, False, True, False, True]
    assert [await total(budget, subject) for subject in "abc"] == [1000, 1000, 1000]


async def test_budgets_on_one_database_never_overspend_together(database: str) -> None:
    """Four stores, each with its own connections and thread, and subjects in every order: also no deadlock."""
    stores = [Store.open(database) for _ in range(4)]
    budgets = [SqlBudget(store, patience=PATIENT) for store in stores]
    subjects = [f"key-{n}" for n in range(6)]
    allowances = [Allowance(Money(100), "day"), Allowance(Money(120), "month"), Allowance(Money(110), "total")]
    spent = dict.fromkeys(subjects, 0)
    chance = random.Random(7)

    async def worker(budget: SqlBudget) -> None:
        for _ in range(25):
            subject = chance.choice(subjects)
            try:
                reservation = await budget.reserve(subject, allowances, Money(10), NOW)
            except OverBudget:
                continue
            await budget.settle(reservation, Money(3))
            spent[subject] += 3

    async with asyncio.timeout(30):
        await asyncio.gather(*(worker(budget) for budget in budgets for _ in range(20)))
    for subject in subjects:
        assert await budgets[0].used(subject, allowances, NOW) == [Money(spent[subject])] * 3
        assert 90 < spent[subject] <= 100
    assert left_open(stores[0]) == 0
    for budget, store in zip(budgets, stores, strict=True):
        await budget.aclose()
        store.close()


async def test_callers_that_went_away_leave_nothing_behind(store: Store, budget: SqlBudget) -> None:
    chance = random.Random(3)
    kept: list[Reservation] = []

    async def one() -> None:
        kept.append(await budget.reserve("key", [Allowance(Money(10**6), "total")], Money(7), NOW))

    for _ in range(15):
        tasks = [asyncio.create_task(one()) for _ in range(20)]
        await asyncio.sleep(chance.uniform(0.0, 0.01))
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait(tasks)
    await told(budget)
    assert 150 <= len(kept) < 300, "some were cancelled in time"
    assert await total(budget) == 7 * len(kept)
    assert left_open(store) == len(kept)


async def test_cancelled_in_the_moment_in_which_it_is_granted(store: Store, budget: SqlBudget) -> None:
    task = asyncio.create_task(budget.reserve("key", TOTAL, Money(7), NOW))
    await asyncio.sleep(0)
    [(_, heard)] = budget._wishes
    heard.add_done_callback(lambda _: task.cancel())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard.result() is None, "it was granted"
    await told(budget)
    assert await total(budget) == left_open(store) == 0


async def test_a_locked_database_keeps_nobody(database: str, store: Store) -> None:
    budget = SqlBudget(store)  # with the patience that the gateway has
    before = await budget.reserve("key", TOTAL, Money(100), NOW)
    with locked(database):
        began = time.monotonic()
        asked = [budget.reserve("key", TOTAL, Money(100), NOW) for _ in range(20)]
        settling = budget.settle(before, Money(40))
        *refused, none = await asyncio.gather(*asked, settling, return_exceptions=True)
        assert time.monotonic() - began < 3
        assert {type(each) for each in refused} == {Busy}
        assert none is None
        assert budget.untold == 1
    await told(budget)
    assert await total(budget) == 40
    assert left_open(store) == 0
    assert await budget.reserve("key", TOTAL, Money(960), NOW)
    await budget.aclose()


async def test_a_short_lock_is_waited_for(database: str, budget: SqlBudget) -> None:
    with locked(database):
        waiting = asyncio.create_task(budget.reserve("key", TOTAL, Money(100), NOW))
        await asyncio.sleep(1.3)  # longer than the database itself waits
    assert isinstance(await waiting, Reservation)


async def test_closing_says_what_was_not_told(database: str, store: Store, logs: list[EventDict]) -> None:
    budget = SqlBudget(store, patience=1.0)
    reservation = await budget.reserve("key", TOTAL, Money(100), NOW)
    late = await budget.reserve("key", TOTAL, Money(100), NOW)
    with locked(database):
        await budget.settle(reservation, Money(40))
        began = time.monotonic()
        await budget.aclose()
        assert time.monotonic() - began < 5
    [said] = [each for each in logs if each["log_level"] == "error"]
    assert (said["settlements"], said["usd"]) == (1, "0.00000004")
    await budget.settle(late, Money(40))
    assert [each["usd"] for each in logs if each["log_level"] == "critical"] == ["0.00000004"]
    with pytest.raises(Busy):
        await budget.reserve("key", TOTAL, Money(1), NOW)
    assert await total(SqlBudget(store)) == 200, "at their bounds"


async def test_closing_tells_what_it_can(store: Store) -> None:
    budget = SqlBudget(store)
    reservation = await budget.reserve("key", TOTAL, Money(100), NOW)
    settling = asyncio.create_task(budget.settle(reservation, Money(40)))
    await asyncio.sleep(0)
    await budget.aclose()
    await settling
    assert await total(SqlBudget(store)) == 40


async def test_what_has_no_room_stays_at_its_bound(
    database: str, store: Store, logs: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_budget, "ROOM", 2)
    budget = SqlBudget(store, patience=0.3)
    made = [await budget.reserve("key", TOTAL, Money(100), NOW) for _ in range(3)]
    with locked(database):
        await asyncio.gather(*(budget.settle(each, Money(1)) for each in made))
    await told(budget)
    assert await total(budget) == 102
    assert [each["reservation"] for each in logs if each["log_level"] == "critical"] == [made[2].id]
    await budget.aclose()


class Torn(Store):
    """Its connection breaks at the end of a transaction, once, before or after the database has done it."""

    when: Literal["before", "after"] | None = None

    @contextmanager
    def _torn(self, *, write: bool) -> Iterator[Connection]:
        when, self.when = (self.when, None) if write else (None, self.when)
        with super().transaction(write=write) as connection:
            yield connection
            if when == "before":
                connection.rollback()
        if when:
            raise ConnectionResetError("torn")

    def transaction(self, *, write: bool = False) -> AbstractContextManager[Connection]:
        return self._torn(write=write)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_commit_of_which_nothing_is_heard_counts_once(database: str, when: Literal["before", "after"]) -> None:
    store = Torn.open(database)
    assert isinstance(store, Torn)
    budget = SqlBudget(store, patience=PATIENT)
    first = await budget.reserve("key", TOTAL, Money(100), NOW)

    async def step() -> None:
        store.when = when
        with pytest.raises(Busy):
            await budget.reserve("key", TOTAL, Money(500), NOW)
        await told(budget)
        store.when = when
        await budget.settle(first, Money(30))
        await told(budget)

    await step()
    assert await total(budget) == 30
    assert left_open(store) == 0
    await budget.aclose()
    store.close()


async def test_a_commit_that_is_still_under_way_is_waited_for(postgres: Postgres) -> None:
    """PostgreSQL may commit a reservation after its client has given it up; also when it began its counter."""
    store = Store.open(postgres())
    reservation, wish = new("key", 100, TOTAL)
    with store.transaction(write=True) as connection:
        assert counters.apply(connection, [wish], []) == [None]
        debt = Debt(reservation, Money.ZERO, unsure=True)
        settling = asyncio.create_task(asyncio.to_thread(attempt, store, [], [debt]))
        await asyncio.sleep(0.3)
        assert not settling.done()
    assert await settling == ["done"]
    assert await total(SqlBudget(store)) == 0
    assert left_open(store) == 0
    store.close()


@asynccontextmanager
async def away(database: str) -> AsyncIterator[None]:
    """The PostgreSQL server tears all connections to this database, and takes no new ones."""
    name = database.rpartition("?")[0].rpartition("/")[2]
    engine = create_engine(database.replace(f"/{name}?", "/postgres?"), isolation_level="AUTOCOMMIT")

    def gone() -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            connection.exec_driver_sql(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            )

    def back() -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    await asyncio.to_thread(gone)
    yield
    await asyncio.to_thread(back)
    engine.dispose()


async def test_outages_under_load_count_nothing_twice_and_lose_nothing(postgres: Postgres) -> None:
    database = postgres()
    store = Store.open(database)
    budget = SqlBudget(store)
    allowances = [Allowance(MOST, "day"), Allowance(MOST, "total")]
    stop = asyncio.Event()
    spent = busy = 0
    slowest = 0.0

    async def worker() -> None:
        nonlocal spent, busy, slowest
        while not stop.is_set():
            began = time.monotonic()
            try:
                reservation = await budget.reserve("key", allowances, Money(10), NOW)
                await asyncio.sleep(0.001)
                await budget.settle(reservation, Money(3))
                spent += 3
            except Busy:
                busy += 1
            slowest = max(slowest, time.monotonic() - began)

    workers = [asyncio.create_task(worker()) for _ in range(30)]
    for seconds in (0.0, 0.0, 0.2, 0.0, 2.5):
        await asyncio.sleep(0.3)
        async with away(database):
            await asyncio.sleep(seconds)
    await asyncio.sleep(0.8)
    stop.set()
    await asyncio.gather(*workers)
    await told(budget)
    assert spent > 0
    assert busy >= 30
    assert slowest < 5, "nobody hung"
    assert await budget.used("key", allowances, NOW) == [Money(spent), Money(spent)]
    assert left_open(store) == 0
    await budget.aclose()
    store.close()


async def test_a_row_that_is_refused_holds_up_nobody(store: Store, budget: SqlBudget, logs: list[EventDict]) -> None:
    bad, *good = [await budget.reserve(subject, TOTAL, Money(100), NOW) for subject in ("bad", "a", "b")]
    with store.transaction(write=True) as connection:
        connection.execute(update(spending).where(spending.c.subject == "bad").values(used=2**63 - 1))
    settling = [budget.settle(each, Money(200)) for each in (good[0], bad, good[1])]
    await asyncio.gather(*settling, budget.reserve("c", TOTAL, Money(5), NOW))
    assert [await total(budget, subject) for subject in "abc"] == [200, 200, 5]
    assert budget.untold == 0
    assert [each["log_level"] for each in logs].count("critical") == 1


async def test_old_periods_are_forgotten(store: Store, budget: SqlBudget) -> None:
    day, both = [Allowance(Money(1000), "day")], [Allowance(Money(1000), "day"), *TOTAL]
    late = await budget.reserve("key", day, Money(10), LONG_AGO)
    dead = await budget.reserve("key", both, Money(20), LONG_AGO)
    await budget.reserve("key", both, Money(1), LONG_AGO + DAY)
    assert await budget.used("key", both, LONG_AGO) == [Money(30), Money(21)]
    await budget.reserve("key", both, Money(1), LONG_AGO + LATE_SECONDS + DAY)
    assert await budget.used("key", both, LONG_AGO) == [Money.ZERO, Money(22)]
    with store.transaction() as connection:
        kept = [str(period) for period in connection.scalars(select(spending.c.period).order_by(spending.c.period))]
        held = set(connection.scalars(select(reservations.c.id)))
    assert len(kept) == 3
    assert late.id not in held
    assert dead.id in held, "its total never ends"
    for each in (late, dead):
        await budget.settle(each, Money.ZERO)
    assert await budget.used("key", both, LONG_AGO) == [Money.ZERO, Money(2)]


async def test_a_clock_that_is_days_ahead_makes_nobody_forget(store: Store, budget: SqlBudget) -> None:
    now, day = time.time(), [Allowance(Money(10), "day")]
    await budget.settle(await budget.reserve("key", day, Money(10), now), Money(10))
    for days in (10, 400):
        await budget.reserve("other", day, Money(1), now + days * DAY)
    with pytest.raises(OverBudget):
        await budget.reserve("key", day, Money(1), now)


async def test_forgetting_waits_for_nobody(postgres: Postgres) -> None:
    store = Store.open(postgres())
    budget = SqlBudget(store, patience=PATIENT)
    day = [Allowance(Money(1000), "day")]
    for subject in ("held", "free"):
        await budget.reserve(subject, day, Money(10), LONG_AGO)
    with store.transaction(write=True) as connection:
        connection.execute(select(spending).where(spending.c.subject == "held").with_for_update())
        await budget.reserve("new", day, Money(1), LONG_AGO + LATE_SECONDS + 2 * DAY)
    with store.transaction() as connection:
        assert set(connection.scalars(select(spending.c.subject))) == {"held", "new"}
    await budget.aclose()
    store.close()


async def test_a_period_as_it_is_on_record(store: Store, budget: SqlBudget) -> None:
    origin = Origin("chatcmpl-1", 7, own_key=True)
    reservation = await budget.reserve("key", [Allowance(Money(9), "day"), *TOTAL], Money(5), NOW, origin)
    assert reservation.spans == (Span("day:2026-11-18", 1_795_046_400), Span("total", None))
    with store.transaction() as connection:
        rows = connection.execute(select(spending).order_by(spending.c.period)).all()
        [held] = connection.execute(select(reservations)).all()
    assert rows == [("key", "day:2026-11-18", 5, 1_795_046_400 + LATE_SECONDS), ("key", "total", 5, None)]
    assert held == (reservation.id, "key", '["day:2026-11-18","total"]', 5, None, "chatcmpl-1", 7, True)


async def test_open_shared_keeps_budgets_where_it_can(store: Store) -> None:
    async with open_shared(store=store) as shared:
        assert (type(shared.limiter), type(shared.budget), shared.link) == (MemoryLimiter, SqlBudget, None)
        reservation = await shared.budget.reserve("key", TOTAL, Money(5), NOW)
        settling = asyncio.create_task(shared.budget.settle(reservation, Money(3)))
        await asyncio.sleep(0)
    await settling
    async with open_shared(store=store) as shared:
        assert await shared.budget.used("key", TOTAL, NOW) == [Money(3)]
    async with open_shared() as shared:
        assert type(shared.budget) is MemoryBudget


async def test_an_older_ledger_gets_budgets(database: str) -> None:
    engine = create_engine(database)
    with engine.begin() as connection:
        command.upgrade(migrate.config(connection), "0003")
        assert not inspect(connection).has_table("spending")
        # In the words of that step: the table has got more columns since.
        of = "id, name, tags, created_at, version"
        connection.exec_driver_sql(f"INSERT INTO keys ({of}) VALUES ('old', 'old', '[]', 1.0, 1)")
    engine.dispose()
    store = Store.open(database)
    with store.transaction() as connection:
        assert migrate.current(connection) == migrate.HEAD
        assert list(connection.scalars(select(keys.c.id))) == ["old"]
    budget = SqlBudget(store)
    await budget.settle(await budget.reserve("old", TOTAL, Money(5), NOW), Money(3))
    assert await total(budget, "old") == 3
    await budget.aclose()
    store.close()


SPENDER = f"""
import asyncio, sys
from gateway.allowance import Allowance
from gateway.errors import Busy, OverBudget
from gateway.ledger.store import Store
from gateway.shared.sql_budget import SqlBudget
from pricing.money import Money

async def worker(budget):
    while True:
        try:
            reservation = await budget.reserve("key", [Allowance(Money(5_000), "total")], Money(10), {NOW})
        except OverBudget:
            return
        except Busy:
            continue
        await asyncio.sleep(0)
        await budget.settle(reservation, Money(7))
        print("settled")

async def main(database):
    store = Store.open(database)
    budget = SqlBudget(store, patience={PATIENT})
    print("ready")
    sys.stdin.readline()
    await asyncio.gather(*(worker(budget) for _ in range(10)))
    await budget.aclose()
    store.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_process_is_killed_in_the_middle(database: str, together: Together) -> None:
    Store.open(database).close()
    spenders = together(3, SPENDER, database)
    victim = spenders[0]
    assert victim.stdout is not None
    settled = sum(victim.stdout.readline() == "settled\n" for _ in range(25))
    assert settled == 25
    assert victim.poll() is None, "in the middle"
    victim.send_signal(signal.SIGKILL)
    settled += sum(each.communicate(timeout=60)[0].count("settled\n") for each in spenders)
    assert [each.returncode for each in spenders] == [-signal.SIGKILL, 0, 0]
    store = Store.open(database)
    with store.transaction() as connection:
        used = connection.scalar(select(spending.c.used)) or 0
        aside = connection.scalar(select(func.coalesce(func.sum(reservations.c.amount), 0))) or 0
    store.close()
    assert 7 * settled <= used <= 5_000
    assert used > 4_990, "the others went on until nothing was left"
    assert aside in range(0, 101, 10), "what the dead one had put aside stays, and nothing else"
    assert (used - aside) % 7 == 0
    assert (used - aside) // 7 - settled in range(11), "settled, and its process died before it could say so"
