"""Admission: callers stay under their limits and budgets, whatever becomes of their requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from structlog.typing import EventDict

from gateway.admission import ANSWER_TOKENS, estimated
from gateway.allowance import Allowance, Limits
from gateway.chat import Caller, Chat, Exchange
from gateway.errors import Busy, Forbidden, OverBudget, RateLimited, UpstreamFailed
from gateway.ledger.entry import Query
from gateway.upstreams import Upstream, dearest, worst_case
from pricing.book import PriceBook
from pricing.money import Money
from pricing.usage import Usage
from students.engine import Delta, Message, Sampling
from students.errors import Unavailable
from students.scripted import Scripted
from tests.gateway.shared.server import RedisServer, redis_server

if TYPE_CHECKING:
    from tests.gateway.conftest import House, Opened

pytestmark = pytest.mark.anyio

PRICES = {"gpt-6-sol": {"input": 2, "output": 10}, "smollm2-135m-instruct": {"input": 0.01, "output": 0.08}}
ANSWER = "one two three four five six seven eight."


class Desk:
    """A gateway whose callers have what a test gives them."""

    def __init__(self, house: House) -> None:
        self.gateway = house.gateway
        self._number = 0

    def open(self, caller: Caller, **more: Any) -> Exchange:
        self._number += 1
        fields: dict[str, Any] = {"max_tokens": 20, "size": 400, **more}
        model = fields.pop("model", "gkt")
        messages = [{"role": "user", "content": "Why is the sky blue?"}]
        return self.gateway.open(Chat(f"chatcmpl-{self._number}", model, messages, Sampling(), **fields), caller)

    async def ask(self, caller: Caller, **more: Any) -> Exchange:
        exchange = self.open(caller, **more)
        async with aclosing(self.gateway.answer(exchange)) as events:
            async for _ in events:
                pass
        return exchange

    def worst(self, caller: Caller, **more: Any) -> Money:
        exchange, rules = self.open(caller, **more), self.gateway._rules
        most = worst_case(exchange, self.gateway.upstreams, rules.book, rules.prompts)
        assert most is not None
        return most

    async def used(self, caller: Caller) -> Sequence[Money]:
        return [amount for _, amount in await self.gateway.admission.used(caller, self.gateway.config.limits)]

    async def booked(self, caller: Caller) -> Money:
        (row,) = await self.gateway.ledger.savings(Query(caller=caller.id))
        return row.spent

    async def requests(self) -> int:
        (row,) = await self.gateway.ledger.savings()
        return row.requests


def caller(name: str = "key-1", *, usd: Money | None = None, per: Any = "day", **limits: int) -> Caller:
    return Caller(name, limits=Limits(**limits), budgets=None if usd is None else (Allowance(usd, per),))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=["memory", "redis"])
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The `shared` section of a configuration."""
    if request.param == "memory":
        return {}
    redis: RedisServer = request.getfixturevalue("server")
    with redis.client() as client:
        client.flushall()
    return {"redis_url_env": "GKT_TEST_REDIS", "_url": redis.url}


@pytest.fixture
def desk(house: Opened, shared: dict[str, Any]) -> Any:
    """`async with desk(teacher=..., limits=...)`."""
    url = shared.pop("_url", None)

    @asynccontextmanager
    async def opened(**config: Any) -> AsyncIterator[Desk]:
        config.setdefault("teacher", Scripted("teacher", ANSWER))
        config.setdefault("student", Scripted("student", ANSWER))
        config.setdefault("route", {"guidance_tokens": 3})
        environ = {} if url is None else {"GKT_TEST_REDIS": url}
        config.setdefault("prices", PRICES)
        async with house(shared=shared, environ=environ, **config) as home:
            yield Desk(home)

    return opened


async def test_nobody_without_limits_asks_for_any(desk: Any) -> None:
    async with desk() as at:
        exchange = await at.ask(caller())
        assert exchange.admitted
        assert exchange.headers == {}
        assert await at.used(caller()) == []


async def test_a_budget_reserves_the_worst_case_and_settles_the_truth(desk: Any) -> None:
    async with desk() as at:
        who = caller(usd=Money.usd(1))
        exchange = at.open(who)
        events = at.gateway.answer(exchange)
        assert isinstance(await anext(events), Delta)
        assert await at.used(who) == [at.worst(who)]
        async for _ in events:
            pass
        (used,) = await at.used(who)
        assert used == await at.booked(who)
        assert Money.ZERO < used < at.worst(who)


async def test_a_race_ends_within_the_budget(desk: Any) -> None:
    async with desk(server={"max_in_flight": 1000}) as at:
        worst = at.worst(caller())
        who = caller(usd=Money(worst.nano * 100), per="total")

        async def one() -> bool:
            try:
                await at.ask(who)
            except OverBudget:
                return False
            return True

        answered = sum(await asyncio.gather(*(one() for _ in range(500))))
        (used,) = await at.used(who)
        assert used == await at.booked(who) <= Money(worst.nano * 100)
        assert 100 <= answered == await at.requests()
        assert (await at.gateway.admission.refusals.counts())[who.id, "budget"] == 500 - answered


async def test_a_race_of_dear_requests_spends_the_budget_and_no_more(desk: Any) -> None:
    # Every answer costs exactly its worst case here: nothing is given back, so that exactly 100 fit.
    async with desk(
        route={"strategy": "student"},
        prices={**PRICES, "smollm2-135m-instruct": {"input": 0, "output": 1}},
        student=Scripted("student", ANSWER),
    ) as at:
        worst = at.worst(caller(), max_tokens=4)
        assert worst == Money.usd("0.000004")
        who = caller(usd=Money(worst.nano * 100))

        async def one() -> bool:
            try:
                await at.ask(who, max_tokens=4)
            except OverBudget:
                return False
            return True

        assert sum(await asyncio.gather(*(one() for _ in range(500)))) == 100
        assert await at.used(who) == [await at.booked(who)] == [Money(worst.nano * 100)]


async def test_what_is_refused_leaves_no_entry_and_asks_nobody(desk: Any) -> None:
    teacher = Scripted("teacher", ANSWER)
    async with desk(teacher=teacher) as at:
        who = caller(usd=Money(1))
        exchange = at.open(who)
        with pytest.raises(OverBudget, match="per day") as caught:
            await anext(at.gateway.answer(exchange))
        assert caught.value.headers["x-should-retry"] == "false"
        assert not exchange.admitted
        assert (await at.requests(), teacher.prompts, await at.used(who)) == (0, [], [Money.ZERO])
        assert at.gateway.in_flight == 0


async def test_a_refused_budget_gives_the_rate_back(desk: Any) -> None:
    async with desk() as at:
        for _ in range(3):
            with pytest.raises(OverBudget):
                await at.ask(caller(usd=Money(1), concurrent=1))
        await at.ask(caller(concurrent=1))


async def test_places_are_free_when_answers_are_over_and_headers_are_told(desk: Any) -> None:
    async with desk() as at:
        who = caller(concurrent=1, requests_per_minute=60, tokens_per_minute=6000)
        events = at.gateway.answer(first := at.open(who))
        await anext(events)
        assert first.headers["x-ratelimit-limit-requests"] == "60"
        assert int(first.headers["x-ratelimit-remaining-tokens"]) == pytest.approx(6000 - estimated(first.chat), abs=60)
        with pytest.raises(RateLimited, match="1 requests at once") as caught:
            await at.ask(who)
        assert caught.value.retry_after is not None
        await events.aclose()  # its client leaves
        await at.ask(who)
        assert await at.gateway.admission.refusals.counts() == {(who.id, "concurrent"): 1}


async def test_failed_and_abandoned_requests_cost_what_they_cost(desk: Any) -> None:
    student = Scripted("student", ANSWER, error=Unavailable("gone"), fail_after=2)
    async with desk(student=student, route={"on_student_failure": "error", "guidance_tokens": 3}) as at:
        who = caller(usd=Money.usd(1), concurrent=1)
        with pytest.raises(UpstreamFailed):
            await at.ask(who)
        events = at.gateway.answer(at.open(who))
        await anext(events)
        await events.aclose()
        assert [await at.booked(who)] == await at.used(who)
        assert await at.booked(who)


@pytest.mark.parametrize("strategy", ["cut-off", "concise", "hint"])
@pytest.mark.parametrize("fails", [True, False])
async def test_no_request_costs_more_than_its_worst_case(desk: Any, strategy: str, fails: bool) -> None:
    """Every model talks as long as it may, and the teacher takes over where the student fails."""
    endless = Scripted("teacher", " ".join(["word"] * 200))
    student = Scripted("student", endless._says, error=Unavailable("gone") if fails else None)
    async with desk(teacher=endless, student=student, route={"strategy": strategy, "guidance_tokens": 30}) as at:
        for n in (1, 3):
            who = caller(f"{strategy}-{n}", usd=Money.usd(5))
            exchange = await at.ask(who, n=n, max_tokens=100)
            assert ("fallback" in {call.stage for call in exchange.calls}) is fails
            assert await at.booked(who) <= at.worst(who, n=n, max_tokens=100)
            for call in exchange.calls:
                assert call.bound is not None
            # The bounds that are on record while the calls are under way fit into what was put aside.
            bounds = Money.total(call.bound for call in exchange.calls if call.bound is not None)
            if not fails or n == 1:
                assert bounds <= at.worst(who, n=n, max_tokens=100)


def test_what_a_model_reads_before_every_chat_is_in_its_bound() -> None:
    """The worked examples of a base model: no request shows them, and each call pays for them."""
    book = PriceBook.from_config({"m": {"input": 1, "output": 1}})
    plain = Upstream("m", Scripted("m", model="m"), "m", 100, 60.0)
    more = [dearest(book, each, "m", {}, 50, 10) for each in (plain, replace(plain, preamble=3_000))]
    assert None not in more
    assert (more[1] or Money.ZERO) - (more[0] or Money.ZERO) == Money.usd("0.003")


async def test_a_tier_that_nobody_asked_for_is_in_the_worst_case(desk: Any) -> None:
    rows = [{"input": 2, "output": 10}, {"input": 20, "output": 1000, "tier": "priority"}]
    async with desk(prices={**PRICES, "gpt-6-sol": rows}, route={"strategy": "teacher"}) as at:
        assert at.worst(caller(), teacher_options={"service_tier": "default"}) < Money.usd("0.002")
        for open_ in ({}, {"service_tier": "auto"}, {"service_tier": "priority"}):
            assert at.worst(caller(), teacher_options=open_) > Money.usd(20 * 1000 / 1e6)


async def test_prices_that_rise_meanwhile_are_in_the_worst_case(desk: Any) -> None:
    tomorrow = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    rows = [{"input": 2, "output": 10}, {"input": 2, "output": 1000, "from": f"{tomorrow:%Y-%m-%d}"}]
    async with desk(prices={**PRICES, "gpt-6-sol": rows}, route={"strategy": "teacher"}) as at:
        for seconds, dear in ((-30, True), (30, True), (-86_000, False)):
            exchange, rules = at.open(caller()), at.gateway._rules
            exchange.started = tomorrow.timestamp() + seconds
            most = worst_case(exchange, at.gateway.upstreams, rules.book, rules.prompts)
            assert most is not None
            assert (most > Money.usd(20 * 1000 / 1e6)) is dear


async def test_what_a_search_reads_nobody_knows(desk: Any) -> None:
    async with desk(route={"strategy": "teacher"}) as at:
        with pytest.raises(Forbidden, match="at most"):
            await at.ask(caller(usd=Money.usd(1)), needs=frozenset({"web_search"}))


async def test_a_usage_that_no_budget_can_count_is_told_and_fills_it(desk: Any, logs: list[EventDict]) -> None:
    teacher = Scripted("teacher", ANSWER, usage=Usage(2**40, 2**40))
    async with desk(teacher=teacher, route={"strategy": "teacher"}) as at:
        who = caller(usd=Money.usd(1), concurrent=1)
        await at.ask(who)
        assert [each["event"] for each in logs if each["log_level"] == "error"] == [
            "more was spent than a budget can count"
        ]
        with pytest.raises(OverBudget):  # and no RateLimited: its place is free
            await at.ask(who)


async def test_a_budget_that_takes_no_settlement_keeps_no_place(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk() as at:
        who = caller(usd=Money.usd(1), concurrent=1)
        with monkeypatch.context() as patch:
            patch.setattr(type(at.gateway.admission.shared.budget), "settle", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await at.ask(who)
        await at.ask(who)


async def test_a_crash_of_the_books_keeps_the_worst_case(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk() as at:
        who = caller(usd=Money.usd(1), concurrent=1)
        with monkeypatch.context() as patch:
            patch.setattr("gateway.bookkeeper.Bookkeeper.entry", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await at.ask(who)
        assert await at.used(who) == [at.worst(who)]
        await at.ask(who)  # its place is free


async def test_a_budget_cannot_be_kept_where_nobody_knows_the_cost(desk: Any) -> None:
    async with desk(route={"teacher_model": "nobody-knows-this"}) as at:
        with pytest.raises(Forbidden, match="at most") as caught:
            await at.ask(caller(usd=Money.usd(1)))
        assert caught.value.code == "unbounded_cost"
        await at.ask(caller())


async def test_the_configuration_speaks_for_keys_that_say_nothing(desk: Any) -> None:
    async with desk(limits={"requests_per_minute": 1, "budgets": [{"usd": "0.00001", "per": "total"}]}) as at:
        with pytest.raises(OverBudget):
            await at.ask(caller("a"))
        await at.ask(Caller("b", budgets=()))
        with pytest.raises(RateLimited):
            await at.ask(Caller("b", budgets=()))
        await at.ask(Caller("c", limits=Limits(requests_per_minute=50), budgets=(Allowance(Money.usd(1), "day"),)))


async def test_tokens_are_corrected_by_what_was_used(desk: Any) -> None:
    async with desk() as at:
        who = caller(tokens_per_minute=ANSWER_TOKENS + 60)
        for _ in range(3):  # the estimate alone would admit one a minute
            await at.ask(who, max_tokens=None)
        with pytest.raises(RateLimited, match="too large") as caught:
            await at.ask(who, max_tokens=5000)
        assert caught.value.headers["x-should-retry"] == "false"


async def test_a_cancelled_request_gives_everything_back(desk: Any) -> None:
    async with desk(student=Scripted("student", ANSWER, hang_after=1)) as at:
        who = caller(usd=Money.usd(1), concurrent=1)
        for _ in range(5):
            task = asyncio.create_task(at.ask(who))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await at.gateway.admission.aclose()
        assert [await at.booked(who)] == await at.used(who)


@pytest.mark.parametrize("when_away", ["refuse", "local"])
async def test_redis_away_is_as_configured_and_nobody_hangs(house: Opened, tmp_path: Any, when_away: str) -> None:
    with redis_server(tmp_path) as redis:
        section = {"redis_url_env": "GKT_TEST_REDIS", "when_away": when_away}
        engines = {"teacher": Scripted("teacher", ANSWER), "student": Scripted("student", ANSWER)}
        environ = {"GKT_TEST_REDIS": redis.url}
        async with house(prices=PRICES, shared=section, environ=environ, route={}, **engines) as home:
            at, who = Desk(home), caller(usd=Money.usd(1), requests_per_minute=100)
            await at.ask(who)
            redis.kill()
            async with asyncio.timeout(5):
                if when_away == "local":
                    await at.ask(who)
                else:
                    with pytest.raises(Busy):
                        await at.ask(who)
                    assert (await at.gateway.admission.refusals.counts())[who.id, "away"] == 1
                await at.ask(caller("unlimited"))
            await at.gateway.glance()
            told = at.gateway.metrics.text()[0].decode()
            assert "gkt_redis_away 1.0" in told
            assert "gkt_redis_outages_total 1.0" in told
            # In local mode the limit and the budget were each asked for without Redis.
            assert ("gkt_redis_local_total 2.0" if when_away == "local" else "gkt_redis_refused_total 1.0") in told


def test_an_estimate_counts_words_and_the_answer_asked_for() -> None:
    parts = [{"type": "text", "text": "x" * 40}, {"type": "image_url", "image_url": {"url": "data:" + "y" * 9000}}]
    messages: list[Message] = [{"role": "system", "content": "z" * 10}, {"role": "user", "content": parts}]
    assert estimated(Chat("1", "m", messages, Sampling(), max_tokens=7, n=3)) == 13 + 21
    assert estimated(Chat("1", "m", [{"role": "assistant", "content": None}], Sampling())) == ANSWER_TOKENS
