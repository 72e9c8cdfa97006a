"""What every `Limiter` promises: in memory, and in a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil

import pytest
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.allowance import Limits
from gateway.errors import RateLimited
from gateway.shared.limits import Limiter, Taken
from gateway.shared.memory import MemoryLimiter
from gateway.shared.redis import RedisLimiter
from tests.contracts.places import EXAMPLES, SUBJECTS, linked

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[Limiter]:
    """New and empty: in memory without a `url`, in Redis under a prefix of its own."""
    if url is None:
        yield MemoryLimiter()
        return
    async with linked(url) as (link, prefix):
        yield RedisLimiter(link, local=None, prefix=prefix)


@pytest.fixture(params=["memory", "redis"])
def place(request: pytest.FixtureRequest) -> str | None:
    """Where limits are kept; None: in memory."""
    return None if request.param == "memory" else str(request.getfixturevalue("redis_url"))


@pytest.fixture
async def limiter(place: str | None) -> AsyncIterator[Limiter]:
    async with opened(place) as found:
        yield found


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


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_any_subject_has_limits(limiter: Limiter, subject: str) -> None:
    limits = Limits(concurrent=1)
    taken = await limiter.take(subject, limits, 0)
    with pytest.raises(RateLimited):
        await limiter.take(subject, limits, 0)
    await limiter.give(taken, None)
    await limiter.give(await limiter.take(subject, limits, 0), None)


class LimiterMachine(RuleBasedStateMachine):
    """Against plain sums. The time of a run refills less than one unit, which cannot matter to whole numbers."""

    url: str | None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.context = opened(self.url)
        self.limiter = self.runner.run(self.context.__aenter__())
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


def test_limits_hold_whatever_happens(place: str | None) -> None:
    run_state_machine_as_test(type("Placed", (LimiterMachine,), {"url": place}), settings=EXAMPLES)
