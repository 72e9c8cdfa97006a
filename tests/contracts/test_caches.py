"""What every `Cache` promises: in memory, and in a real Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from gateway.shared.cache import LARGEST, OVERHEAD, Cache, MemoryCache
from gateway.shared.link import Link
from gateway.shared.redis_cache import RedisCache
from tests.contracts.places import linked

pytestmark = pytest.mark.anyio

LONG = 3600.0
ROOM = 100_000
"""Bytes of a small cache."""


@asynccontextmanager
async def opened(url: str | None, limit: int = 2**24) -> AsyncIterator[Cache]:
    """New and empty: in memory without a `url`, in Redis under a prefix of its own."""
    if url is None:
        yield MemoryCache(limit)
        return
    async with linked(url) as (link, prefix):
        yield RedisCache(link, limit=limit, prefix=prefix)


@pytest.fixture(params=["memory", "redis"])
def place(request: pytest.FixtureRequest) -> str | None:
    """Where values are kept; None: in memory."""
    return None if request.param == "memory" else str(request.getfixturevalue("redis_url"))


@pytest.fixture
async def cache(place: str | None) -> AsyncIterator[Cache]:
    async with opened(place) as found:
        yield found


async def until_gone(cache: Cache, key: str) -> None:
    async with asyncio.timeout(10):
        while await cache.get(key) is not None:  # noqa: ASYNC110  # only asking tells
            await asyncio.sleep(0.02)


async def test_what_is_put_is_found(cache: Cache) -> None:
    assert await cache.get("a") is None
    assert await cache.put("a", b"one", LONG)
    assert await cache.get("a") == b"one"
    assert await cache.get("b") is None
    assert await cache.put("a", b"another", LONG)
    assert await cache.get("a") == b"another"
    assert await cache.get("A") is None


async def test_it_is_forgotten_in_time_and_not_before(cache: Cache) -> None:
    assert await cache.put("short", b"1", 0.3)
    assert await cache.put("long", b"2", LONG)
    assert await cache.put("longer now", b"3", 0.3)
    assert await cache.put("longer now", b"4", LONG)
    assert await cache.put("shorter now", b"5", LONG)
    assert await cache.put("shorter now", b"6", 0.3)
    await until_gone(cache, "short")
    await until_gone(cache, "shorter now")
    assert [await cache.get(key) for key in ("long", "longer now")] == [b"2", b"4"]


async def test_asking_for_it_makes_nothing_last_longer(cache: Cache) -> None:
    assert await cache.put("a", b"1", 0.3)
    await until_gone(cache, "a")  # by asking all the while


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
async def test_a_time_must_be_one(cache: Cache, seconds: float) -> None:
    with pytest.raises(ValueError, match="some seconds"):
        await cache.put("a", b"1", seconds)


@given(values=st.dictionaries(st.text(max_size=40), st.binary(max_size=200), max_size=5))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_bytes_under_any_name(cache: Cache, values: dict[str, bytes]) -> None:
    for key, value in values.items():
        assert await cache.put(f"{key}/{len(values)}", value, LONG)
    for key, value in values.items():
        assert await cache.get(f"{key}/{len(values)}") == value


async def test_all_bytes_there_are(cache: Cache) -> None:
    value = bytes(range(256)) * 16
    assert await cache.put("a", value, LONG)
    assert await cache.get("a") == value


async def test_what_is_too_large_is_not_kept_and_neither_is_what_it_replaces(cache: Cache, place: str | None) -> None:
    assert await cache.put("a", b"x" * LARGEST, LONG)
    assert await cache.get("a") == b"x" * LARGEST
    assert not await cache.put("a", b"x" * (LARGEST + 1), LONG)
    assert await cache.get("a") is None
    async with opened(place, limit=OVERHEAD) as tiny:
        assert not await tiny.put("a", b"", LONG)
        assert await tiny.get("a") is None


@pytest.mark.parametrize("byte", [b"x", b"\xff"])
async def test_all_together_stay_within_the_bound(place: str | None, byte: bytes) -> None:
    async with opened(place, limit=ROOM) as cache:
        count, value = 300, byte * 1000
        for number in range(count):
            assert await cache.put(f"key-{number}", value, LONG + number)
            assert await cache.get(f"key-{number}") == value, "the newest is there"
        left = [number for number in range(count) if await cache.get(f"key-{number}") is not None]
        assert len(left) * (1000 + OVERHEAD) <= ROOM
        assert len(left) >= ROOM // (2000 + 2 * OVERHEAD), "room is used"
        assert left == list(range(count - len(left), count)), "the oldest went"


async def test_replacing_and_forgetting_gives_room_back(place: str | None) -> None:
    async with opened(place, limit=ROOM) as cache:
        assert await cache.put("stays", b"s", LONG)
        for number in range(300):
            assert await cache.put("again", b"x" * (1000 + number), LONG)
        assert await cache.get("stays") == b"s", "one value needs the room of one"
        for number in range(40):
            assert await cache.put(f"brief-{number}", b"x" * 1000, 0.2)
        for number in range(40):
            await until_gone(cache, f"brief-{number}")
        for number in range(40):
            assert await cache.put(f"late-{number}", b"x" * 1000, LONG)
        assert all([await cache.get(f"late-{number}") is not None for number in range(40)])
        assert await cache.get("stays") == b"s"


async def test_many_at_the_same_moment(cache: Cache) -> None:
    async def one(number: int) -> bytes | None:
        key = f"key-{number % 10}"
        if number % 3:
            assert await cache.put(key, f"{key} by {number}".encode(), LONG)
        return await cache.get(key)

    found = await asyncio.gather(*(one(number) for number in range(200)))
    for number, value in enumerate(found):
        assert value is None or value.startswith(f"key-{number % 10} by ".encode())
    assert Counter(value is None for value in found)[False] > 100


async def test_two_links_share_one(redis_url: str) -> None:
    async with linked(redis_url) as (link, prefix):
        other = Link(redis_url, seconds=10)
        try:
            here, there = RedisCache(link, prefix=prefix), RedisCache(other, prefix=prefix)
            assert await here.put("a", b"\x00\xff", LONG)
            assert await there.get("a") == b"\x00\xff"
            assert await there.put("a", b"2", LONG)
            assert await here.get("a") == b"2"
            assert await RedisCache(other, prefix=f"{prefix}-else").get("a") is None
        finally:
            await other.aclose()


async def test_nothing_of_it_is_left_in_redis_for_ever(redis_url: str) -> None:
    async with linked(redis_url) as (link, prefix):
        cache = RedisCache(link, prefix=prefix, limit=ROOM)
        for number in range(200):
            await cache.put(f"key-{number % 90}", b"x" * number * 10, 5 + number % 7)
        with Redis.from_url(redis_url, decode_responses=True) as client:
            keys = list(client.scan_iter(f"{prefix}:*"))
            assert len(keys) > 10
            assert all(0 < int(str(client.pttl(key))) <= 13_000 for key in keys)
            index = [str(member) for member in client.zrange(f"{prefix}:{{cache}}:index", 0, -1)]
            weights = [int(member.split(":", 1)[0]) for member in index]
            assert int(str(client.get(f"{prefix}:{{cache}}:size"))) == sum(weights) <= ROOM
            kept = {key: int(str(client.strlen(key))) + len(key) + OVERHEAD for key in keys if ":value:" in key}
            assert {member.split(":", 1)[1]: int(member.split(":", 1)[0]) for member in index} == kept


async def test_what_others_wrote_there_is_no_value(redis_url: str) -> None:
    async with linked(redis_url) as (link, prefix):
        cache = RedisCache(link, prefix=prefix)
        with Redis.from_url(redis_url) as client:
            client.set(f"{prefix}:{{cache}}:value:a", "snowman ☃", ex=60)
        assert await cache.get("a") is None
        assert await cache.put("a", b"1", LONG)
        assert await cache.get("a") == b"1"
