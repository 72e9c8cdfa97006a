"""What every `Budget` promises: in memory, in a real Redis, and in a real database."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis
from sqlalchemy import delete, func, select

from gateway.allowance import MOST, Allowance, PeriodName
from gateway.errors import OverBudget
from gateway.ledger.schema import reservations, spending
from gateway.ledger.store import Store
from gateway.shared.budget import Budget, Reservation, span
from gateway.shared.memory import MemoryBudget
from gateway.shared.redis_budget import RedisBudget
from gateway.shared.sql_budget import SqlBudget
from pricing.money import Money
from tests.conftest import Together
from tests.contracts.places import EXAMPLES, PATIENT, SUBJECTS, linked

pytestmark = pytest.mark.anyio

NOON = datetime(2036, 11, 25, 12, tzinfo=UTC).timestamp()  # to come: Redis forgets periods that are long over
DAY = 86_400


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[Budget]:
    """New and empty: in memory without a `url`, in Redis under a prefix of its own, in a database of its own."""
    if url is None:
        yield MemoryBudget()
    elif url.startswith("redis:"):
        async with linked(url) as (link, prefix):
            yield RedisBudget(link, local=False, prefix=prefix)
    else:
        store = Store.open(url)
        with store.transaction(write=True) as connection:
            for table in (spending, reservations):
                connection.execute(delete(table))
        budget = SqlBudget(store, patience=PATIENT)
        yield budget
        await budget.aclose()
        store.close()


@pytest.fixture(params=["memory", "redis", "sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Where budgets are kept; None: in memory."""
    if request.param == "memory":
        return None
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    return f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else request.getfixturevalue("postgres")()


@pytest.fixture
async def budget(place: str | None) -> AsyncIterator[Budget]:
    async with opened(place) as found:
        yield found


async def test_a_reservation_counts_until_it_is_settled(budget: Budget) -> None:
    budgets = [Allowance(Money.usd(1), "day")]
    first = await budget.reserve("key-1", budgets, Money.usd("0.6"), NOON)
    with pytest.raises(
        OverBudget, match=r"\$1 per day: \$0.6 is spent .* up to \$0.5\. .* 2036-11-26T00:00Z"
    ) as caught:
        await budget.reserve("key-1", budgets, Money.usd("0.5"), NOON)
    assert caught.value.headers == {"x-should-retry": "false"}
    assert (caught.value.http_status, caught.value.code) == (429, "insufficient_quota")
    await budget.settle(first, Money.usd("0.2"))
    await budget.settle(first, Money.usd("0.1"))
    assert await budget.used("key-1", budgets, NOON) == [Money.usd("0.2")]
    await budget.reserve("key-1", budgets, Money.usd("0.8"), NOON)
    assert await budget.used("key-1", budgets, NOON) == [Money.usd(1)]
    assert await budget.used("key-2", budgets, NOON) == [Money.ZERO]
    await budget.reserve("key-1", budgets, Money.ZERO, NOON)


async def test_all_periods_or_none(budget: Budget) -> None:
    day, month = Allowance(Money(100), "day"), Allowance(Money(150), "month")
    budgets = [day, month, Allowance(Money(400), "total")]
    await budget.reserve("key-1", budgets, Money(100), NOON)
    with pytest.raises(OverBudget, match="per month"):
        await budget.reserve("key-1", budgets, Money(60), NOON + DAY)
    assert await budget.used("key-1", budgets, NOON + DAY) == [Money.ZERO, Money(100), Money(100)]
    await budget.reserve("key-1", budgets, Money(50), NOON + DAY)
    assert await budget.used("key-1", [month, day], NOON + DAY) == [Money(150), Money(50)]


async def test_a_reservation_is_settled_in_the_periods_it_was_made_in(budget: Budget) -> None:
    budgets = [Allowance(Money(100), "day")]
    late = await budget.reserve("key-1", budgets, Money(100), NOON)
    await budget.reserve("key-1", budgets, Money(70), NOON + DAY)
    await budget.settle(late, Money(30))
    assert await budget.used("key-1", budgets, NOON) == [Money(30)]
    assert await budget.used("key-1", budgets, NOON + DAY) == [Money(70)]


async def test_more_than_was_reserved_is_counted_and_the_unknown_stays_at_its_bound(budget: Budget) -> None:
    budgets = [Allowance(Money(100), "total")]
    await budget.settle(await budget.reserve("key-1", budgets, Money(40), NOON), None)
    await budget.settle(await budget.reserve("key-1", budgets, Money(40), NOON), Money(90))
    assert await budget.used("key-1", budgets, NOON) == [Money(130)]
    with pytest.raises(OverBudget, match="in total"):
        await budget.reserve("key-1", budgets, Money.ZERO, NOON)


async def test_two_budgets_of_one_period_count_once(budget: Budget) -> None:
    budgets = [Allowance(Money(100), "day"), Allowance(Money(50), "day")]
    await budget.reserve("key-1", budgets, Money(30), NOON)
    assert await budget.used("key-1", budgets, NOON) == [Money(30), Money(30)]
    with pytest.raises(OverBudget, match=r"\$0.00000005 per day"):
        await budget.reserve("key-1", budgets, Money(30), NOON)


async def test_no_budget_and_odd_amounts(budget: Budget) -> None:
    free = await budget.reserve("key-1", [], Money.usd(10**9), NOON)
    await budget.settle(free, Money.usd(3))
    assert await budget.used("key-1", [], NOON) == []
    with pytest.raises(ValueError, match="negative"):
        await budget.reserve("key-1", [], Money(-1), NOON)
    reservation = await budget.reserve("key-1", [Allowance(MOST, "day")], Money(1), NOON)
    with pytest.raises(ValueError, match="between"):
        await budget.settle(reservation, Money(-1))
    await budget.settle(reservation, Money(2))


async def test_the_largest_amounts_are_exact(budget: Budget) -> None:
    budgets = [Allowance(MOST, "total")]
    await budget.reserve("key-1", budgets, MOST - Money(1), NOON)
    with pytest.raises(OverBudget):
        await budget.reserve("key-1", budgets, Money(2), NOON)
    with pytest.raises(OverBudget):
        await budget.reserve("key-1", budgets, MOST + MOST, NOON)
    last = await budget.reserve("key-1", budgets, Money(1), NOON)
    assert await budget.used("key-1", budgets, NOON) == [MOST]
    with pytest.raises(OverBudget):
        await budget.reserve("key-1", budgets, Money(1), NOON)
    await budget.settle(last, MOST)
    assert await budget.used("key-1", budgets, NOON) == [MOST + MOST - Money(1)]


async def test_500_at_once_on_a_budget_for_100(budget: Budget) -> None:
    budgets = [Allowance(Money.usd(100), "day"), Allowance(Money.usd(5000), "month")]

    async def one() -> bool:
        try:
            await budget.reserve("key-1", budgets, Money.usd(1), NOON)
        except OverBudget:
            return False
        return True

    assert sum(await asyncio.gather(*(one() for _ in range(500)))) == 100
    assert await budget.used("key-1", budgets, NOON) == [Money.usd(100), Money.usd(100)]


async def test_500_at_once_that_are_settled_for_less(budget: Budget) -> None:
    budgets = [Allowance(Money.usd(100), "day")]

    async def one() -> Money:
        try:
            reservation = await budget.reserve("key-1", budgets, Money.usd(1), NOON)
        except OverBudget:
            return Money.ZERO
        await asyncio.sleep(0)
        assert (await budget.used("key-1", budgets, NOON))[0] <= Money.usd(100)
        await budget.settle(reservation, Money.usd("0.4"))
        return Money.usd("0.4")

    spent = Money.total(await asyncio.gather(*(one() for _ in range(500))))
    assert await budget.used("key-1", budgets, NOON) == [spent]
    assert Money.usd(40) <= spent <= Money.usd(100)


RACER = f"""
import asyncio, json, sys, time
from gateway.allowance import Allowance
from gateway.errors import OverBudget
from gateway.ledger.store import Store
from gateway.shared.link import Link
from gateway.shared.redis_budget import RedisBudget
from gateway.shared.sql_budget import SqlBudget
from pricing.money import Money

async def main(url, prefix):
    if url.startswith("redis:"):
        link = Link(url, seconds={PATIENT})
        budget = RedisBudget(link, local=False, prefix=prefix)
        await link.look()
    else:
        budget = SqlBudget(Store.open(url), patience={PATIENT})
    budgets = [Allowance(Money.usd(100), "day"), Allowance(Money.usd(1000), "total")]
    async def one():
        try:
            await budget.reserve(prefix, budgets, Money.usd(1), {NOON})
        except OverBudget:
            return 0
        return 1
    await budget.used(prefix, budgets, {NOON})
    print("ready", flush=True)
    began = time.time() if sys.stdin.readline() else 0.0
    granted = sum(await asyncio.gather(*(one() for _ in range(125))))
    print(json.dumps([granted, began, time.time()]))
    await budget.aclose()
    if url.startswith("redis:"):
        await link.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


def raced(racers: list[subprocess.Popen[str]]) -> None:
    """They ran at the same time, and were granted what the budget has and no more."""
    outcomes = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(granted for granted, _, _ in outcomes) == 100
    assert max(began for _, began, _ in outcomes) < max(ended for _, _, ended in outcomes)


def test_500_at_once_in_four_processes(redis_url: str, together: Together) -> None:
    prefix = f"race-{uuid4().hex}"
    raced(together(4, RACER, redis_url, prefix))
    with Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.get(f"{prefix}:budget:{{{prefix}}}:total") == str(Money.usd(100).nano)


async def test_500_at_once_in_four_processes_on_a_database(database: str, together: Together) -> None:
    Store.open(database).close()
    raced(together(4, RACER, database, "key-1"))
    store = Store.open(database)
    budget = SqlBudget(store, patience=PATIENT)
    budgets = [Allowance(Money.usd(100), "day"), Allowance(Money.usd(1000), "total")]
    assert await budget.used("key-1", budgets, NOON) == [Money.usd(100), Money.usd(100)]
    with store.transaction() as connection:
        assert connection.execute(select(func.count()).select_from(reservations)).scalar() == 100
    with pytest.raises(OverBudget):
        await budget.reserve("key-1", budgets, Money(1), NOON)
    await budget.aclose()
    store.close()


PERIODS: tuple[PeriodName, ...] = ("day", "week", "month", "total")


async def test_any_subject_has_a_budget(budget: Budget) -> None:
    for subject in SUBJECTS:
        reservation = await budget.reserve(subject, [Allowance(Money(5), "total")], Money(5), NOON)
        assert await budget.used(subject, [Allowance(Money(5), "total")], NOON) == [Money(5)]
        await budget.settle(reservation, Money(4))
    for subject in SUBJECTS:
        assert await budget.used(subject, [Allowance(Money(5), "total")], NOON) == [Money(4)]


class BudgetMachine(RuleBasedStateMachine):
    """Against plain sums, over days, weeks and months."""

    url: str | None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.context = opened(self.url)
        self.budget = self.runner.run(self.context.__aenter__())
        self.now = NOON
        self.open: list[Reservation] = []
        self.sums: dict[str, int] = {}

    @initialize(limits=st.dictionaries(st.sampled_from(PERIODS), st.integers(0, 100), min_size=1))
    def budgets_of_the_key(self, limits: dict[PeriodName, int]) -> None:
        self.budgets = [Allowance(Money(limit), period) for period, limit in limits.items()]

    def key(self, allowance: Allowance) -> str:
        return span(allowance.period, self.now).key

    @rule(hours=st.integers(1, 400))
    def time_goes_on(self, hours: int) -> None:
        self.now += hours * 3600

    @rule(amount=st.integers(0, 60))
    def reserve(self, amount: int) -> None:
        fits = all(self.sums.get(self.key(each), 0) + amount <= each.limit.nano for each in self.budgets)
        try:
            reservation = self.runner.run(self.budget.reserve("key", self.budgets, Money(amount), self.now))
        except OverBudget:
            assert not fits
            return
        assert fits
        self.open.append(reservation)
        for each in self.budgets:
            self.sums[self.key(each)] = self.sums.get(self.key(each), 0) + amount

    @precondition(lambda self: self.open)
    @rule(data=st.data(), known=st.booleans(), twice=st.booleans())
    def settle(self, data: st.DataObject, known: bool, twice: bool) -> None:
        reservation = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        spent = Money(data.draw(st.integers(0, reservation.amount.nano))) if known else None
        for _ in range(1 + twice):
            self.runner.run(self.budget.settle(reservation, spent))
        if spent is not None:
            for each in reservation.spans:
                self.sums[each.key] += spent.nano - reservation.amount.nano

    @invariant()
    def never_over(self) -> None:
        used = self.runner.run(self.budget.used("key", self.budgets, self.now))
        assert [each.nano for each in used] == [self.sums.get(self.key(each), 0) for each in self.budgets]
        assert all(each <= allowance.limit for each, allowance in zip(used, self.budgets, strict=True))

    def teardown(self) -> None:
        self.runner.run(self.context.__aexit__(None, None, None))
        self.runner.close()


def test_budgets_hold_whatever_happens(place: str | None) -> None:
    run_state_machine_as_test(type("Placed", (BudgetMachine,), {"url": place}), settings=EXAMPLES)
