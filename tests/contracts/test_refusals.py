"""What holds of the count of refusals, whatever database keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert, select

from gateway.ledger.schema import refusals
from gateway.ledger.store import Store
from gateway.shared import refusals as module
from gateway.shared.refusals import HOUR, KEPT_HOURS, Refusals

pytestmark = pytest.mark.anyio

NOON = 500_000 * HOUR + 1_800.0


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    made = Store.open(url)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.05)


async def test_replicas_count_together_and_a_restart_forgets_nothing(store: Store) -> None:
    one, two = Refusals(store, Clock()), Refusals(store, Clock())
    for _ in range(3):
        one.add("a", "budget")
        two.add("a", "budget")
    two.add("b", "tokens")
    await asyncio.gather(one.aclose(), two.aclose())
    later = Refusals(store, Clock())
    assert await later.counts() == {("a", "budget"): 6, ("b", "tokens"): 1}
    later.add("a", "budget")
    assert await later.counts() == {("a", "budget"): 7, ("b", "tokens"): 1}, "what is not written down yet too"
    await later.aclose()
    assert await later.counts() == {("a", "budget"): 7, ("b", "tokens"): 1}


async def test_they_are_written_down_in_the_background(store: Store) -> None:
    counted = Refusals(store, Clock())
    for number in range(500):
        counted.add(f"key-{number % 7}", "requests")
    async with asyncio.timeout(10):
        while sum((await Refusals(store).counts()).values()) < 500:  # noqa: ASYNC110 - a thread sets no event here
            await asyncio.sleep(0.02)
    assert sum((await counted.counts()).values()) == 500, "none twice"
    await counted.aclose()


async def test_a_range_is_of_whole_hours(store: Store) -> None:
    clock = Clock()
    counted = Refusals(store, clock)
    for hour in range(3):
        clock.now = NOON + hour * HOUR
        counted.add("a", "tokens")
    await counted.aclose()
    assert await counted.counts(since=NOON) == {("a", "tokens"): 3}, "the hour that it begins in is in it"
    assert await counted.counts(since=NOON + HOUR) == {("a", "tokens"): 2}
    assert await counted.counts(until=NOON + 2 * HOUR - 1_800) == {("a", "tokens"): 2}
    assert await counted.counts(since=NOON + HOUR, until=NOON + HOUR + 1_800) == {("a", "tokens"): 1}


async def test_old_ones_are_forgotten(store: Store) -> None:
    old = [{"hour": 500_000 - KEPT_HOURS - days, "caller": "a", "reason": "tokens", "count": 5} for days in (0, 1)]
    with store.transaction(write=True) as connection:
        connection.execute(insert(refusals), old)
    counted = Refusals(store, Clock())
    counted.add("b", "tokens")
    await counted.aclose()
    with store.transaction() as connection:
        assert sorted(connection.scalars(select(refusals.c.caller))) == ["a", "b"]


async def test_a_database_that_is_away_loses_none_and_holds_nobody_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Refusals(store, Clock())
    tried = asyncio.Event()
    loop = asyncio.get_running_loop()
    add = module._add

    def fails(*_: Any) -> None:
        loop.call_soon_threadsafe(tried.set)
        raise ConnectionError

    monkeypatch.setattr(module, "_add", fails)
    counted.add("a", "tokens")
    async with asyncio.timeout(10):
        await tried.wait()
    counted.add("a", "tokens")
    monkeypatch.setattr(module, "_add", add)
    await counted.aclose()
    assert await Refusals(store).counts() == {("a", "tokens"): 2}


async def test_without_a_database_it_counts_for_itself() -> None:
    counted = Refusals(clock=Clock())
    counted.add("a", "tokens")
    assert await counted.counts(since=NOON) == {("a", "tokens"): 1}
    assert await counted.counts(until=NOON - HOUR) == {}
    await counted.aclose()
