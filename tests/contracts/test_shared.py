"""What every `Limiter` and every `Budget` promises: in memory, in a real Redis, and budgets in a real database."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, assume, settings
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

from gateway.allowance import MOST, Allowance, Limits, PeriodName
from gateway.errors import OverBudget, RateLimited
from gateway.ledger.schema import reservations, spending
from gateway.ledger.store import Store
from gateway.shared.budget import Budget, Reservation, span
from gateway.shared.limits import Limiter, Taken
from gateway.shared.link import Link
from gateway.shared.memory import MemoryBudget, MemoryLimiter
from gateway.shared.redis import RedisLimiter
from gateway.shared.redis_budget import RedisBudget
from gateway.shared.sql_budget import SqlBudget
from pricing.money import Money
from tests.conftest import Postgres
from tests.gateway.shared.server import redis_server

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
DAY = 86_400
PATIENT = 5.0
"""Seconds for a command: here a busy machine is not a Redis or a database that is away."""


@dataclass(frozen=True)
class Both:
    limiter: Limiter
    budget: Budget


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[Both]:
    """New and empty: in memory without a `url`, in Redis under a prefix of its own, in a database of its own."""
    if url is None:
        yield Both(MemoryLimiter(), MemoryBudget())
        return
    if not url.startswith("redis:"):
        store = Store.open(url)
        with store.transaction(write=True) as connection:
            for table in (spending, reservations):
                connection.execute(delete(table))
        budget = SqlBudget(store, patience=PATIENT)
        yield Both(MemoryLimiter(), budget)
        await budget.aclose()
        store.close()
        return
    link, prefix = Link(url, connect=PATIENT, command=PATIENT), f"test-{uuid4().hex}"
    try:
        yield Both(RedisLimiter(link, local=None, prefix=prefix), RedisBudget(link, local=False, prefix=prefix))
        assert not link.outages, "nothing here was answered without Redis"
    finally:
        await link.aclose()


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where limits are kept; None: in memory."""
    return None if request.param == "memory" else str(request.getfixturevalue("redis_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> str:
    """A ledger that budgets are kept in."""
    made = f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else postgres()
    Store.open(made).close()
    return made


@pytest.fixture(params=["memory", "redis", "sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Where budgets are kept; None: in memory."""
    if request.param == "memory":
        return None
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    return f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else request.getfixturevalue("postgres")()


@pytest.fixture
async def limiter(url: str | None) -> AsyncIterator[Limiter]:
    async with opened(url) as found:
        yield found.limiter


@pytest.fixture
async def budget(place: str | None) -> AsyncIterator[Budget]:
    async with opened(place) as found:
        yield found.budget


# Limits


async def test_without_limits_everybody_is_admitted(limiter: Limiter) -> None:
    for _ in range(50):
        taken = await limiter.take("key-1", Limits(), 10**9)
        assert dict(taken.headers) == {}
    await limiter.give(taken, None)


async def test_requests_per_minute(limiter: Limiter) -> None:
    limits = Limits(requests_per_minute=5)
    left = [(await limiter.take("key-1", limits, 0)).headers for _ in range(5)]
    assert [each["x-ratelimit-remaining-requests"] for each in left] == ["4", "3", "2", "1", "0"]
    assert left[0]["x-ratelimit-limit-requests"] == "5"
    assert left[0]["x-ratelimit-reset-requests"] == "12s"
    assert not any("tokens" in name for each in left for name in each)
    with pytest.raises(RateLimited, match="5 requests per minute") as caught:
        await limiter.take("key-1", limits, 0)
    assert caught.value.retry_after == pytest.approx(12, abs=3)
    assert caught.value.headers["retry-after"] == str(ceil(caught.value.retry_after or 0))
    assert caught.value.headers["x-ratelimit-remaining-requests"] == "0"
    await limiter.take("key-2", limits, 0)


async def test_tokens_are_taken_by_the_estimate_and_counted_as_they_were(limiter: Limiter) -> None:
    limits = Limits(tokens_per_minute=100)
    taken = await limiter.take("key-1", limits, 90)
    assert taken.headers["x-ratelimit-remaining-tokens"] == "10"
    with pytest.raises(RateLimited, match="100 tokens per minute"):
        await limiter.take("key-1", limits, 50)
    await limiter.give(taken, 20)
    again = await limiter.take("key-1", limits, 80)
    assert int(again.headers["x-ratelimit-remaining-tokens"]) in range(5), "20 + 80, and what refilled"
    await limiter.give(again, 180)  # more than was thought: the next ones wait for it
    with pytest.raises(RateLimited) as caught:
        await limiter.take("key-1", limits, 1)
    assert caught.value.retry_after == pytest.approx(60, abs=3)


async def test_unknown_tokens_stay_as_estimated(limiter: Limiter) -> None:
    limits = Limits(tokens_per_minute=100)
    await limiter.give(await limiter.take("key-1", limits, 90), None)
    with pytest.raises(RateLimited):
        await limiter.take("key-1", limits, 50)


async def test_large_numbers_are_exact(limiter: Limiter) -> None:
    limits = Limits(tokens_per_minute=100_000_000)
    first = await limiter.take("key-1", limits, 12_345_679)
    assert int(first.headers["x-ratelimit-remaining-tokens"]) == 100_000_000 - 12_345_679
    assert await limiter.take("key-2", limits, 100_000_000)
    for tokens in (149, 1):
        await limiter.take("key-3", Limits(tokens_per_minute=150), tokens)


async def test_what_was_not_used_makes_no_bucket_more_than_full(limiter: Limiter) -> None:
    limits = Limits(tokens_per_minute=60_000)  # 1000 a second
    taken = await limiter.take("key-1", limits, 30_000)
    await asyncio.sleep(0.5)
    await limiter.give(taken, 0)
    await limiter.take("key-1", limits, 60_000)
    with pytest.raises(RateLimited):
        await limiter.take("key-1", limits, 400)


async def test_a_refusal_takes_nothing(limiter: Limiter) -> None:
    limits = Limits(requests_per_minute=3, tokens_per_minute=100, concurrent=2)
    first = await limiter.take("key-1", limits, 60)
    for _ in range(5):
        with pytest.raises(RateLimited, match="tokens"):
            await limiter.take("key-1", limits, 60)
    second = await limiter.take("key-1", limits, 30)
    assert second.headers["x-ratelimit-remaining-requests"] == "1"
    for _ in range(5):
        with pytest.raises(RateLimited, match="2 requests at once"):
            await limiter.take("key-1", limits, 1)
    await limiter.give(first, 60)
    assert (await limiter.take("key-1", limits, 1)).headers["x-ratelimit-remaining-requests"] == "0"


async def test_places_are_freed_once(limiter: Limiter) -> None:
    limits = Limits(concurrent=2, tokens_per_minute=1000)
    first, second = [await limiter.take("key-1", limits, 100) for _ in range(2)]
    for _ in range(3):
        await limiter.give(first, 50)
    third = await limiter.take("key-1", limits, 0)
    with pytest.raises(RateLimited) as caught:
        await limiter.take("key-1", limits, 0)
    assert caught.value.headers["retry-after"] == "1"
    assert int(caught.value.headers["x-ratelimit-remaining-tokens"]) in range(850, 870), "counted once"
    for taken in (second, third):
        await limiter.give(taken, None)


async def test_a_request_that_can_never_be_admitted(limiter: Limiter) -> None:
    with pytest.raises(RateLimited, match="too large") as caught:
        await limiter.take("key-1", Limits(tokens_per_minute=100), 101)
    assert caught.value.headers["x-should-retry"] == "false"
    assert "retry-after" not in caught.value.headers
    with pytest.raises(ValueError, match="fewer"):
        await limiter.take("key-1", Limits(), -1)


async def test_the_wait_that_is_told_is_enough_and_not_too_much(limiter: Limiter) -> None:
    limits = Limits(tokens_per_minute=60_000)  # 1000 a second
    await limiter.take("key-1", limits, 60_000)
    with pytest.raises(RateLimited) as caught:
        await limiter.take("key-1", limits, 400)
    wait = caught.value.retry_after or 0.0
    assert 0.2 < wait <= 0.4
    with pytest.raises(RateLimited):
        await limiter.take("key-1", limits, 400)
    await asyncio.sleep(wait)
    await limiter.take("key-1", limits, 400)


async def test_many_at_the_same_moment(limiter: Limiter) -> None:
    limits = Limits(requests_per_minute=30, concurrent=10)
    got = await asyncio.gather(*(limiter.take("key-1", limits, 0) for _ in range(100)), return_exceptions=True)
    assert sum(isinstance(each, Taken) for each in got) == 10
    assert {type(each) for each in got} == {Taken, RateLimited}


SUBJECTS = ["key:1", "käse", "a}b{c", "", "x" * 300]


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_any_subject_has_limits(limiter: Limiter, subject: str) -> None:
    limits = Limits(concurrent=1)
    taken = await limiter.take(subject, limits, 0)
    with pytest.raises(RateLimited):
        await limiter.take(subject, limits, 0)
    await limiter.give(taken, None)
    await limiter.give(await limiter.take(subject, limits, 0), None)


async def test_any_subject_has_a_budget(budget: Budget) -> None:
    for subject in SUBJECTS:
        reservation = await budget.reserve(subject, [Allowance(Money(5), "total")], Money(5), NOON)
        assert await budget.used(subject, [Allowance(Money(5), "total")], NOON) == [Money(5)]
        await budget.settle(reservation, Money(4))
    for subject in SUBJECTS:
        assert await budget.used(subject, [Allowance(Money(5), "total")], NOON) == [Money(4)]


class LimiterMachine(RuleBasedStateMachine):
    """Against plain sums. The time of a run refills less than one unit, which cannot matter to whole numbers."""

    url: str | None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.context = opened(self.url)
        self.limiter = self.runner.run(self.context.__aenter__()).limiter
        self.began = time.monotonic()
        self.open: list[Taken] = []
        self.requests = self.tokens = 0

    @initialize(
        requests=st.none() | st.integers(1, 10),
        tokens=st.none() | st.integers(1, 12),
        places=st.none() | st.integers(1, 4),
    )
    def limits_of_the_key(self, requests: int | None, tokens: int | None, places: int | None) -> None:
        self.limits = Limits(requests, tokens, places)

    @rule(tokens=st.integers(0, 6))
    def take(self, tokens: int) -> None:
        few, small, places = self.limits.requests_per_minute, self.limits.tokens_per_minute, self.limits.concurrent
        fits = (
            (few is None or self.requests + 1 <= few)
            and (small is None or self.tokens + tokens <= small)
            and (places is None or len(self.open) < places)
        )
        try:
            taken = self.runner.run(self.limiter.take("key", self.limits, tokens))
        except RateLimited:
            self.in_time()
            assert not fits
            return
        self.in_time()
        assert fits
        self.open.append(taken)
        self.requests += 1
        self.tokens += tokens

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=st.none() | st.integers(0, 8), twice=st.booleans())
    def give(self, data: st.DataObject, tokens: int | None, twice: bool) -> None:
        taken = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        for _ in range(1 + twice):
            self.runner.run(self.limiter.give(taken, tokens))
        if tokens is not None:
            self.tokens = max(0, self.tokens + tokens - taken.tokens)

    def in_time(self) -> None:
        assume(time.monotonic() - self.began < 4)

    def teardown(self) -> None:
        self.runner.run(self.context.__aexit__(None, None, None))
        self.runner.close()


def test_limits_hold_whatever_happens(url: str | None) -> None:
    run_state_machine_as_test(type("Placed", (LimiterMachine,), {"url": url}), settings=EXAMPLES)


# Budgets


async def test_a_reservation_counts_until_it_is_settled(budget: Budget) -> None:
    budgets = [Allowance(Money.usd(1), "day")]
    first = await budget.reserve("key-1", budgets, Money.usd("0.6"), NOON)
    with pytest.raises(
        OverBudget, match=r"\$1 per day: \$0.6 is spent .* up to \$0.5\. .* 2026-11-25T00:00Z"
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
        link = Link(url, connect={PATIENT}, command={PATIENT})
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


def race(url: str, prefix: str) -> None:
    """Four processes with 125 requests each, all ready before the first begins."""
    command = [sys.executable, "-c", RACER, url, prefix]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outcomes = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(granted for granted, _, _ in outcomes) == 100
    assert max(began for _, began, _ in outcomes) < max(ended for _, _, ended in outcomes)


def test_500_at_once_in_four_processes(redis_url: str) -> None:
    prefix = f"race-{uuid4().hex}"
    race(redis_url, prefix)
    with Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.get(f"{prefix}:budget:{{{prefix}}}:total") == str(Money.usd(100).nano)


async def test_500_at_once_in_four_processes_on_a_database(database: str) -> None:
    await asyncio.to_thread(race, database, "key-1")
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


class BudgetMachine(RuleBasedStateMachine):
    """Against plain sums, over days, weeks and months."""

    url: str | None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.context = opened(self.url)
        self.budget = self.runner.run(self.context.__aenter__()).budget
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


EXAMPLES = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
