"""Memory: buckets refill with the clock, and what is idle is forgotten."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.allowance import Allowance, Limits
from gateway.errors import RateLimited
from gateway.shared import memory
from gateway.shared.memory import MemoryBudget, MemoryLimiter
from pricing.money import Money

pytestmark = pytest.mark.anyio


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_buckets_refill_at_the_pace_of_the_limit() -> None:
    clock = Clock()
    limiter, limits = MemoryLimiter(clock), Limits(requests_per_minute=6)
    for _ in range(6):
        await limiter.take("key", limits, 0)
    clock.now += 9.9
    with pytest.raises(RateLimited) as caught:
        await limiter.take("key", limits, 0)
    assert caught.value.retry_after == pytest.approx(0.1)
    clock.now += caught.value.retry_after or 0
    await limiter.take("key", limits, 0)
    clock.now += 3600
    assert (await limiter.take("key", limits, 0)).headers["x-ratelimit-remaining-requests"] == "5", (
        "never more than full"
    )


@given(limit=st.integers(1, 1000), pauses=st.lists(st.floats(0, 20), max_size=60))
def test_no_span_of_time_sees_more_than_the_bucket_and_its_refill(limit: int, pauses: list[float]) -> None:
    clock = Clock()
    limiter, limits = MemoryLimiter(clock), Limits(tokens_per_minute=limit)
    granted: list[tuple[float, int]] = []

    async def run() -> None:
        for pause in pauses:
            clock.now += pause
            for size in (limit, max(1, limit // 3), 1):
                try:
                    await limiter.take("key", limits, size)
                except RateLimited:
                    continue
                granted.append((clock.now, size))

    asyncio.run(run())
    for first, (began, _) in enumerate(granted):
        total = 0
        for moment, size in granted[first:]:
            total += size
            assert total <= limit + (moment - began) * limit / 60 + 1e-3


async def test_what_is_idle_is_forgotten_and_what_is_under_way_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ROOM", 10)
    clock = Clock()
    limiter, limits = MemoryLimiter(clock), Limits(concurrent=1)
    held = await limiter.take("busy", limits, 0)
    for number in range(9):
        await limiter.give(await limiter.take(f"idle-{number}", limits, 0), None)
    clock.now += memory.IDLE_SECONDS + 1
    await limiter.take("new", limits, 0)
    assert limiter._subjects.keys() == {"busy", "new"}
    with pytest.raises(RateLimited):
        await limiter.take("busy", limits, 0)
    await limiter.give(held, None)


async def test_periods_that_are_long_over_are_forgotten() -> None:
    budget, budgets = MemoryBudget(), [Allowance(Money(10), "day"), Allowance(Money(1000), "total")]
    old = await budget.reserve("key", budgets, Money(10), 0.0)
    for day in range(1, 12):
        await budget.reserve("key", budgets, Money(10), day * 86_400.0)
    assert len(budget._used["key"]) <= 12
    assert await budget.used("key", budgets, 0.0) == [Money.ZERO, Money(120)]
    await budget.settle(old, Money(4))
    assert await budget.used("key", budgets, 0.0) == [Money.ZERO, Money(114)]
