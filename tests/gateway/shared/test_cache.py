"""The cache of one process, by its clock; and the one in Redis, when that is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.shared.build import open_shared
from gateway.shared.cache import OVERHEAD, MemoryCache
from tests.gateway.shared.server import RedisServer, redis_server

pytestmark = pytest.mark.anyio


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_it_ends_at_its_second() -> None:
    clock = Clock()
    cache = MemoryCache(clock=clock)
    await cache.put("a", b"1", 60)
    clock.now += 59.9
    assert await cache.get("a") == b"1"
    clock.now += 0.1
    assert await cache.get("a") is None


async def test_what_is_too_old_goes_whoever_is_asked_for() -> None:
    clock = Clock()
    cache = MemoryCache(clock=clock)
    for number in range(10):
        await cache.put(f"key-{number}", b"secret words", 60)
    clock.now += 61
    assert await cache.get("something else") is None
    assert cache.size == 0


async def test_the_longest_not_asked_for_goes_first() -> None:
    cache = MemoryCache(3 * (OVERHEAD + 2))
    for key in "abc":
        await cache.put(key, b"1", 60)
    await cache.get("a")
    await cache.put("d", b"1", 60)
    assert [await cache.get(key) for key in "abcd"] == [b"1", None, b"1", b"1"]


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.integers(0, 900), st.integers(1, 9), st.integers(0, 3)), max_size=150
    )
)
async def test_it_is_never_larger_than_it_may_and_never_older(steps: list[tuple[str, int, int, int]]) -> None:
    clock, limit = Clock(), 3000
    cache = MemoryCache(limit, clock)
    put: dict[str, tuple[bytes, float]] = {}
    for number, (key, size, seconds, passes) in enumerate(steps):
        clock.now += passes
        value = f"{number}".encode() + b"x" * size
        assert await cache.put(key, value, seconds)
        put[key] = value, clock.now + seconds
        assert cache.size <= limit
        assert await cache.get(key) == value
        for other, (known, ends) in put.items():
            assert await cache.get(other) in ((known, None) if clock.now < ends else (None,))
    clock.now += 10
    assert await cache.get("a") is None
    assert cache.size == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as started:
        yield started


@pytest.mark.alone
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_redis_nothing_is_found_and_nobody_waits(server: RedisServer, how: str) -> None:
    async with open_shared(server.url) as shared:
        assert shared.link is not None
        cache, link = shared.cache, shared.link
        assert await cache.put("a", b"1", 60)
        server.kill() if how == "killed" else server.freeze()
        began = time.monotonic()
        assert await cache.get("a") is None
        assert not await cache.put("a", b"2", 60)
        assert time.monotonic() - began < 2.5, "one wait for the link, not two"
        assert (link.away, link.outages) == (True, 1)
        began = time.monotonic()
        for _ in range(100):
            assert await cache.get("a") is None
            assert not await cache.put("b", b"2", 60)
        assert time.monotonic() - began < 1, "known to be away: nobody tries"
        assert (link.local, link.refused) == (0, 0), "no request was let in without it"
        await asyncio.to_thread(server.start if how == "killed" else server.thaw)
        async with asyncio.timeout(10):
            while await cache.get("a") is None:
                await cache.put("a", b"3", 60)
                await asyncio.sleep(0.05)
