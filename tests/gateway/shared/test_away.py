"""Redis away: killed, frozen, full. No request hangs, the configured choice holds, the sums are right afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.typing import EventDict

from gateway.allowance import Allowance, Limits
from gateway.errors import Busy, ConfigError, OverBudget, RateLimited
from gateway.shared.budget import Reservation, tightest
from gateway.shared.build import Shared, open_shared
from gateway.shared.limits import Taken
from gateway.shared.link import Link
from gateway.shared.memory import MemoryBudget, MemoryLimiter
from gateway.shared.redis import RedisLimiter
from gateway.shared.redis_budget import RedisBudget
from pricing.money import Money
from tests.gateway.shared.server import RedisServer, redis_server

pytestmark = pytest.mark.anyio

NOW = time.time()  # Redis forgets the periods of a moment that is many days past
SECOND = 2.0
"""No call may take longer, whatever Redis does; what the machine itself is late by comes on top."""
WORKERS = 100
"""More than there are connections, so that some wait when the way closes."""
TOTAL = [Allowance(Money(1000), "total")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as started:
        yield started


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  # what is waited for happens in a server
            await asyncio.sleep(0.02)


def link_of(shared: Shared) -> Link:
    assert shared.link is not None
    return shared.link


@asynccontextmanager
async def local_budget(server: RedisServer) -> AsyncIterator[tuple[Link, RedisBudget]]:
    async with open_shared(server.url, when_away="local") as shared:
        assert isinstance(shared.budget, RedisBudget)
        yield link_of(shared), shared.budget


async def lateness(stop: asyncio.Event) -> float:
    """How late the event loop was at worst."""
    worst = 0.0
    while not stop.is_set():
        began = time.monotonic()
        await asyncio.sleep(0.01)
        worst = max(worst, time.monotonic() - began - 0.01)
    return worst


async def load(shared: Shared, stop: asyncio.Event) -> tuple[float, list[Exception], int]:
    """Requests, one after the other; the longest call, what was raised, and how many were admitted."""
    longest, raised, admitted = 0.0, list[Exception](), 0
    budgets = [Allowance(Money.usd(1000), "day")]
    while not stop.is_set():
        began = time.monotonic()
        try:
            taken = await shared.limiter.take("key", Limits(10**9, 10**9, 10**6), 10)
            longest, began = max(longest, time.monotonic() - began), time.monotonic()
            try:
                reservation = await shared.budget.reserve("key", budgets, Money(10), NOW)
                longest, began = max(longest, time.monotonic() - began), time.monotonic()
                await shared.budget.settle(reservation, Money(3))
                admitted += 1
            finally:
                longest, began = max(longest, time.monotonic() - began), time.monotonic()
                await shared.limiter.give(taken, 7)
        except Exception as error:  # noqa: BLE001  # it is what the test looks at
            raised.append(error)
        longest = max(longest, time.monotonic() - began)
        await asyncio.sleep(0.02)
    return longest, raised, admitted


@pytest.mark.alone
@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize("when_away", ["local", "refuse"])
async def test_under_load(server: RedisServer, how: str, when_away: str) -> None:
    async with open_shared(server.url, when_away="local" if when_away == "local" else "refuse") as shared:
        link, stop = link_of(shared), asyncio.Event()
        late = asyncio.create_task(lateness(stop))
        workers = [asyncio.create_task(load(shared, stop)) for _ in range(WORKERS)]
        await asyncio.sleep(0.5)
        await until(lambda: not link.away)
        server.kill() if how == "killed" else server.freeze()
        await until(lambda: link.away)
        before = link.outages
        await asyncio.sleep(1.5)
        assert link.away
        assert link.outages == before, "a state is told once"
        await asyncio.to_thread(server.start if how == "killed" else server.thaw)
        back = time.monotonic()
        await until(lambda: not link.away)
        assert time.monotonic() - back < 4, "it looks every second"
        await asyncio.sleep(0.3)
        stop.set()
        outcomes = await asyncio.gather(*workers)
        await until(lambda: not link.away)  # a slow moment of this machine looks the same, and passes at once
    assert max(longest for longest, _, _ in outcomes) < SECOND + await late
    errors = {type(error) for _, raised, _ in outcomes for error in raised}
    assert errors == (set() if when_away == "local" else {Busy})
    assert link.local > 100 if when_away == "local" else link.refused > 100
    admitted = sum(admitted for _, _, admitted in outcomes)
    with server.client() as client:
        day = next(key for key in client.scan_iter("gkt:budget:*:day:*"))
        assert client.get(day) == str(3 * admitted), "every settlement, once, and no reservation that nobody has"
        left = client.zcard("gkt:limit:{key}:places")
        assert left == 0 or how == "frozen", "a frozen server may be asked for a place after it was given back"


@pytest.mark.alone
async def test_away_from_the_start(server: RedisServer) -> None:
    server.kill()
    async with open_shared(server.url, when_away="refuse") as shared:
        began = time.monotonic()
        with pytest.raises(Busy, match="replicas share") as caught:
            await shared.limiter.take("key", Limits(concurrent=1), 0)
        assert caught.value.http_status == 503
        with pytest.raises(Busy):
            await shared.budget.reserve("key", TOTAL, Money(1), NOW)
        with pytest.raises(Busy):
            await shared.budget.used("key", TOTAL, NOW)
        assert time.monotonic() - began < 0.1, "known to be away: nobody tries"
        await shared.limiter.give(await shared.limiter.take("key", Limits(), 5), 5)
        await shared.budget.settle(await shared.budget.reserve("key", [], Money(1), NOW), Money(1))
        assert (link_of(shared).refused, link_of(shared).outages) == (2, 1)
        await asyncio.to_thread(server.start)
        await until(lambda: not link_of(shared).away)
        await shared.limiter.take("key", Limits(concurrent=1), 0)


async def test_local_limits_hold_for_the_process(server: RedisServer) -> None:
    async with open_shared(server.url, when_away="local") as shared:
        limits = Limits(concurrent=2)
        before = await shared.limiter.take("key", limits, 0)
        server.kill()
        first, second = [await shared.limiter.take("key", limits, 0) for _ in range(2)]
        with pytest.raises(RateLimited):
            await shared.limiter.take("key", limits, 0)
        await shared.limiter.give(before, None)
        await shared.limiter.give(first, None)
        third = await shared.limiter.take("key", limits, 0)
        await asyncio.to_thread(server.start)
        await until(lambda: not link_of(shared).away)
        for taken in (second, third, third):
            await shared.limiter.give(taken, None)
        with server.client() as client:
            assert not client.exists("gkt:limit:{key}:places"), "also what was given back while nobody could be told"


async def test_a_budget_goes_on_from_what_was_last_known(server: RedisServer) -> None:
    async with local_budget(server) as (link, budget):
        told_late = await budget.reserve("key", TOTAL, Money(600), NOW)
        server.kill()
        with pytest.raises(OverBudget):
            await budget.reserve("key", TOTAL, Money(401), NOW)
        spent = await budget.reserve("key", TOTAL, Money(300), NOW)
        under_way = await budget.reserve("key", TOTAL, Money(100), NOW)
        with pytest.raises(OverBudget):
            await budget.reserve("key", TOTAL, Money(1), NOW)
        for _ in range(2):
            await budget.settle(spent, Money(30))
            await budget.settle(told_late, Money(60))
        assert (await budget.used("key", TOTAL, NOW))[0] >= Money(130)
        await asyncio.to_thread(server.start)
        await until(lambda: not link.away)
        assert await budget.used("key", TOTAL, NOW) == [Money(60 + 30 + 100)]
        await budget.settle(under_way, Money(1))
        await budget.settle(under_way, Money(50))
        assert await budget.used("key", TOTAL, NOW) == [Money(60 + 30 + 1)]


async def test_a_reservation_that_was_given_up_is_taken_back(server: RedisServer) -> None:
    """The client left, or the answer was late, while the frozen server had the request in its buffer."""
    async with open_shared(server.url, when_away="refuse") as shared:
        budget = shared.budget
        await budget.reserve("key", TOTAL, Money(1), NOW)
        server.freeze()
        left = asyncio.create_task(budget.reserve("key", TOTAL, Money(300), NOW))
        late = asyncio.create_task(budget.reserve("key", TOTAL, Money(500), NOW))
        await asyncio.sleep(0.05)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        with pytest.raises(Busy):
            await late
        server.thaw()
        await until(lambda: not link_of(shared).away)
        await asyncio.sleep(0.1)
        assert await budget.used("key", TOTAL, NOW) == [Money(1)]


async def test_answers_belong_to_their_questions_and_the_cancelled_are_taken_back(server: RedisServer) -> None:
    link = Link(server.url, seconds=10)
    budget, limiter, granted = RedisBudget(link, local=False), RedisLimiter(link, local=None), [0] * 20
    try:
        for round_ in range(20):
            tasks = [asyncio.create_task(budget.reserve(f"key-{n}", TOTAL, Money(n + 1), NOW)) for n in range(20)]
            places = [asyncio.create_task(limiter.take(f"key-{n}", Limits(concurrent=99), 0)) for n in range(20)]
            await asyncio.sleep(0.001 * (round_ % 5))
            for task in [*tasks[::2], *places]:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            granted = [count + isinstance(each, Reservation) for count, each in zip(granted, outcomes, strict=True)]
            for place in await asyncio.gather(*places, return_exceptions=True):
                if isinstance(place, Taken):
                    await limiter.give(place, None)
        assert granted[1::2] == [20] * 10
        true = [count * (n + 1) for n, count in enumerate(granted)]
        async with asyncio.timeout(5):
            sums: list[int] = []
            while sums != true:
                sums = [(await budget.used(f"key-{n}", TOTAL, NOW))[0].nano for n in range(20)]
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        with server.client() as client:
            assert not list(client.scan_iter("gkt:limit:*:places"))
        assert not link.outages
    finally:
        await budget.aclose()
        await link.aclose()


@pytest.mark.alone
async def test_a_loop_that_was_busy_does_not_take_redis_for_away(server: RedisServer) -> None:
    """Whose answers have come in long ago, unread."""
    link = Link(server.url, seconds=0.2)
    budget = RedisBudget(link, local=False)
    for _ in range(3):
        asked = [asyncio.create_task(budget.reserve("key", TOTAL, Money(1), NOW)) for _ in range(50)]
        for _ in range(4):
            await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251 - what this is about
        await asyncio.gather(*asked)
    assert not link.outages
    assert await budget.used("key", TOTAL, NOW) == [Money(150)]
    await budget.aclose()
    await link.aclose()


async def test_what_was_cancelled_before_it_arrived_is_not_reserved(server: RedisServer) -> None:
    """Over two connections the settlement may be the first."""
    link = Link(server.url)
    budget = RedisBudget(link, local=False)
    limits = tightest(TOTAL, NOW)
    reservation = Reservation.of("key", Money(300), list(limits))
    await budget.settle(reservation, Money.ZERO)
    await budget._reserve(link.run, reservation, limits)
    assert await budget.used("key", TOTAL, NOW) == [Money.ZERO]
    await link.aclose()


async def test_a_script_whose_answer_is_lost_is_not_sent_again(server: RedisServer) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what the client says; of the answers nothing after a script."""
        there, back = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":")[-1].split("/")[0]))
        while said := await reader.read(65536):
            back.write(said)
            answer = await there.read(65536)
            if b"EVAL" in said and b"NOSCRIPT" not in answer:
                break
            writer.write(answer)
        back.close()
        writer.close()

    limits = Limits(requests_per_minute=10)
    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as proxy:
        link = Link(f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0")
        with pytest.raises(Busy):
            await RedisLimiter(link, local=None).take("key", limits, 0)
        await link.aclose()
    async with open_shared(server.url) as shared:
        headers = (await shared.limiter.take("key", limits, 0)).headers
    assert headers["x-ratelimit-remaining-requests"] == "8"


async def test_a_full_redis_is_away_until_it_has_room(server: RedisServer) -> None:
    async with open_shared(server.url, when_away="local") as shared:
        limits = Limits(requests_per_minute=5)
        await shared.limiter.take("key", limits, 0)
        with server.client() as client:
            client.config_set("maxmemory", 1)
            assert (await shared.limiter.take("key", limits, 0)).local
            await asyncio.sleep(0.2)
            assert link_of(shared).away
            client.config_set("maxmemory", 0)
        await until(lambda: not link_of(shared).away)
        assert not (await shared.limiter.take("key", limits, 0)).local


async def test_scripts_are_sent_again_to_a_server_that_lost_them(server: RedisServer) -> None:
    async with open_shared(server.url) as shared:
        for _ in range(2):
            with server.client() as client:
                client.script_flush()
            await shared.limiter.take("key", Limits(requests_per_minute=9), 0)
        assert not link_of(shared).outages


@pytest.mark.alone
async def test_places_of_the_dead_expire_and_those_of_the_living_do_not(server: RedisServer) -> None:
    limits = Limits(concurrent=2)
    dead, living, other = Link(server.url), Link(server.url), Link(server.url)
    await RedisLimiter(dead, local=None, lease=1.0).take("key", limits, 0)
    await dead.aclose()  # and nobody gives its place back
    lively, third = RedisLimiter(living, local=None, lease=1.0), RedisLimiter(other, local=None, lease=1.0)
    held = await lively.take("key", limits, 0)
    with pytest.raises(RateLimited):
        await third.take("key", limits, 0)
    await asyncio.sleep(2.2)
    got = await third.take("key", limits, 0)
    with pytest.raises(RateLimited):
        await third.take("key", limits, 0)
    await lively.give(held, None)
    await third.give(await third.take("key", limits, 0), None)
    await third.give(got, None)
    await asyncio.sleep(0.5)
    with server.client() as client:
        assert not client.exists("gkt:limit:{key}:places"), "renewal brings nothing back that was given"
    await living.aclose()
    await other.aclose()


async def test_what_a_dead_process_reserved_is_spent_and_a_late_settlement_corrects_it(server: RedisServer) -> None:
    dead, living = Link(server.url), Link(server.url)
    lost = await RedisBudget(dead, local=False).reserve("key", TOTAL, Money(700), NOW)
    await dead.aclose()
    budget = RedisBudget(living, local=False)
    with pytest.raises(OverBudget):
        await budget.reserve("key", TOTAL, Money(301), NOW)
    await budget.settle(lost, Money(200))
    assert await budget.used("key", TOTAL, NOW) == [Money(200)]
    await living.aclose()


async def test_no_key_stays_for_ever_but_totals(server: RedisServer) -> None:
    async with open_shared(server.url, prefix="mine") as shared:
        budgets = [Allowance(Money(9), "day"), Allowance(Money(9), "week"), Allowance(Money(9), "month"), *TOTAL]
        now = time.time()
        await shared.budget.settle(await shared.budget.reserve("key", budgets, Money(2), now), Money(1))
        await shared.limiter.take("key", Limits(5, 50, 5), 5)
    with server.client() as client:
        ttl = {str(key): client.ttl(key) for key in client.scan_iter()}
    assert {key for key, seconds in ttl.items() if seconds == -1} == {"mine:budget:{key}:total"}
    assert all(key.startswith("mine:") for key in ttl)
    assert "mine:probe" in ttl, "a Redis that lets us write under our prefix alone is looked at there, too"


@pytest.mark.parametrize(
    "url", ["nonsense", "http://:hush@host", "redis://:hush@host:port", "", "redis://:hush@host/0?no_such_option=hush"]
)
async def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with open_shared(url):
            pass
    assert "hush" not in f"{caught.value!r} {caught.value.__cause__!r}"


async def test_no_redis_is_memory() -> None:
    async with open_shared() as shared:
        assert (type(shared.limiter), type(shared.budget)) == (MemoryLimiter, MemoryBudget)
        assert shared.link is None


@pytest.mark.alone
async def test_closing_does_not_wait_for_a_frozen_redis(server: RedisServer) -> None:
    for round_ in range(5):
        stop = asyncio.Event()
        async with open_shared(server.url, when_away="local") as shared:
            workers = [asyncio.create_task(load(shared, stop)) for _ in range(WORKERS)]
            await asyncio.sleep(0.2)
            server.freeze()
            await asyncio.sleep(0.1 * round_)
            began = time.monotonic()
        assert time.monotonic() - began < 3
        for worker in workers:
            worker.cancel()
        _, deaf = await asyncio.wait(workers, timeout=3)
        stop.set()
        server.thaw()
        assert not deaf, "a cancellation is never lost"


async def test_a_cancellation_that_the_client_drops_is_not_lost(server: RedisServer) -> None:
    async def deaf() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return "as if nothing had been said"
        return "never"

    link = Link(server.url)
    task = asyncio.create_task(link._in_time(deaf()))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await link.aclose()


async def test_a_clock_that_is_days_behind_admits_nobody(server: RedisServer, logs: list[EventDict]) -> None:
    """Its counters would be forgotten as they are made, and their budget spent without end."""
    async with open_shared(server.url) as shared:
        day = [Allowance(Money(5), "day")]
        with pytest.raises(Busy):
            await shared.budget.reserve("key", day, Money(1), time.time() - 30 * 86_400)
        assert any("days behind" in each["event"] for each in logs)
        await shared.budget.reserve("key", day, Money(1), time.time())


@pytest.mark.alone
@pytest.mark.parametrize("when_away", ["local", "refuse"])
async def test_breakers_go_on_by_what_each_process_knows(server: RedisServer, when_away: str) -> None:
    async with open_shared(server.url, when_away="local" if when_away == "local" else "refuse") as shared:
        link, switches = link_of(shared), shared.switches
        switches.position("known")
        switches.open("known", 600)
        await until(lambda: stands(server, "known"))
        server.kill()
        began = time.monotonic()
        assert not await switches.claim("known", 1.0)
        assert await switches.claim("another", 1.0)
        assert time.monotonic() - began < SECOND
        assert link.away
        switches.open("another", 600)
        assert switches.position("another").state == switches.position("known").state == "open"
        switches.close("known")
        assert await switches.claim("known", 1.0)
        assert link.refused == 0, "a breaker turns nobody away for want of Redis"
        server.start()
        switches.position("another")
        await until(lambda: not link.away)
        await until(lambda: stands(server, "another"))
        assert switches.position("another").state == "open"


def stands(server: RedisServer, name: str) -> bool:
    with server.client() as client:
        return bool(client.exists(f"gkt:breaker:{{{name}}}"))
