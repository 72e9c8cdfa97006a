"""The guard: tries, the time they may take, and what the breaker is told; over the HTTP engine where that matters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from students.breaker import OPEN
from students.build import build
from students.engine import Ability, Delta, Event, Finish, Prompt
from students.errors import BadReply, EngineError, Overloaded, PromptTooLong, Refused, TimedOut, Unavailable
from students.guard import LONGEST_PAUSE, Guard
from students.scripted import Scripted
from students.spec import BreakerSpec, Deadlines, OpenAISpec, ScriptedSpec
from tests.students.test_openai_api import END, word

if TYPE_CHECKING:
    from tests.fakes import Fake, Json
    from tests.students.conftest import Serve

pytestmark = pytest.mark.anyio

ASK = Prompt(({"role": "user", "content": "Hi"},))


async def told(engine: Guard, prompt: Prompt = ASK) -> str:
    async with aclosing(engine.stream(prompt)) as events:
        return "".join([event.text async for event in events if isinstance(event, Delta)])


async def fails(engine: Guard, prompt: Prompt = ASK) -> EngineError:
    with pytest.raises(EngineError) as raised:
        await told(engine, prompt)
    assert raised.value.engine == "upstream"
    return raised.value


async def until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    pytest.fail("waited in vain")


def over(fake: Fake, **spec: Any) -> Guard:
    return build("upstream", OpenAISpec(model="m", base_url=fake.url, **spec), environ={})


def failing(times: int, status: int = 500, **headers: str) -> Any:
    left = [times]

    async def answer(request: web.Request, body: Json) -> web.StreamResponse:
        if left[0]:
            left[0] -= 1
            assert request.transport is not None
            if status:
                return web.Response(status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})
            request.transport.abort()
        return web.Response(body=word("late") + END, content_type="text/event-stream")

    return answer


class TestTries:
    @pytest.mark.parametrize("status", [500, 503, 0])
    async def test_what_answered_nothing_is_asked_again(
        self, serve: Serve, status: int, logs: list[dict[str, Any]]
    ) -> None:
        fake = await serve(failing(2, status))
        engine = over(fake, retries=2)
        assert await told(engine) == "late"
        assert len(fake.asked) == 3
        assert engine.retries == 2
        assert [(entry["engine"], entry["attempt"], entry["error"]) for entry in logs] == [
            ("upstream", 1, "Unavailable"),
            ("upstream", 2, "Unavailable"),
        ]
        await engine.aclose()

    async def test_no_more_than_it_was_told(self, serve: Serve) -> None:
        fake = await serve(failing(9))
        engine = over(fake, retries=1)
        assert type(await fails(engine)) is Unavailable
        assert len(fake.asked) == 2
        await engine.aclose()

    async def test_a_short_retry_after_is_kept(self, serve: Serve) -> None:
        engine = over(await serve(failing(1, 429, retry_after_ms="200")), retries=1)
        start = monotonic()
        assert await told(engine) == "late"
        assert monotonic() - start >= 0.2
        await engine.aclose()

    @pytest.mark.parametrize(
        ("status", "headers"),
        [(429, {}), (429, {"retry_after": "9"}), (400, {}), (401, {}), (408, {}), (504, {}), (524, {})],
    )
    async def test_what_another_try_will_not_help_or_would_pay_twice(
        self, serve: Serve, status: int, headers: dict[str, str]
    ) -> None:
        fake = await serve(failing(9, status, **headers))
        engine = over(fake, retries=3)
        await fails(engine)
        assert len(fake.asked) == 1
        await engine.aclose()

    async def test_a_first_token_that_never_came_may_have_been_billed(self, serve: Serve) -> None:
        fake = await serve([5.0])
        engine = over(fake, retries=3, deadlines=Deadlines(first_token=0.2))
        assert type(await fails(engine)) is TimedOut
        assert len(fake.asked) == 1
        await engine.aclose()

    async def test_after_the_first_word_nothing_is_tried_again(self) -> None:
        inner = Scripted("upstream", "One two", error=Unavailable("gone"), fail_after=1)
        engine = Guard(inner, ScriptedSpec(retries=3))
        assert type(await fails(engine)) is Unavailable
        assert len(inner.prompts) == 1

    async def test_a_quota_that_is_used_up_is_not_there_in_a_second(self) -> None:
        inner = Scripted("upstream", error=Overloaded("no money", code="insufficient_quota", retry_after=0.0))
        assert type(await fails(Guard(inner, ScriptedSpec(retries=3)))) is Overloaded
        assert len(inner.prompts) == 1

    async def test_a_caller_that_leaves_ends_the_tries(self) -> None:
        inner = Scripted("upstream", error=Overloaded("full", retry_after=LONGEST_PAUSE))
        task = asyncio.create_task(told(Guard(inner, ScriptedSpec(retries=5))))
        await until(lambda: bool(inner.prompts))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 1)
        assert len(inner.prompts) == 1

    async def test_closing_ends_a_pause(self) -> None:
        inner = Scripted("upstream", error=Overloaded("full", retry_after=LONGEST_PAUSE))
        engine = Guard(inner, ScriptedSpec(retries=5))
        task = asyncio.create_task(fails(engine))
        await until(lambda: bool(inner.prompts))
        start = monotonic()
        await engine.aclose()
        await task
        assert monotonic() - start < LONGEST_PAUSE


class TestTotal:
    async def test_an_engine_without_deadlines_is_given_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ScriptedSpec, "max_seconds", 0.1)
        for inner in (Scripted("upstream", "One two", hang_after=1), Scripted("upstream", hang_after=0)):
            error = await fails(Guard(inner, ScriptedSpec()))
            assert isinstance(error, TimedOut)
            assert error.deadline == "total"
            assert inner.closed_early == 1

    async def test_tries_and_pauses_are_in_it(self) -> None:
        inner = Scripted("upstream", error=Overloaded("full", retry_after=1.0))
        engine = Guard(inner, OpenAISpec(model="m", retries=5, deadlines=Deadlines(total=0.5)))
        assert type(await fails(engine)) is Overloaded
        assert len(inner.prompts) == 1, "the pause would end after the total"

    async def test_a_second_try_has_what_the_first_left(self, serve: Serve) -> None:
        late = [0.6]

        async def answer(request: web.Request, body: Json) -> web.StreamResponse:
            if late:
                await asyncio.sleep(late.pop())
                return web.Response(status=500)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(word("a"))
            await asyncio.sleep(5)
            return response

        engine = over(await serve(answer), retries=1, deadlines=Deadlines(total=1.5))
        start = monotonic()
        error = await fails(engine)
        assert isinstance(error, TimedOut)
        assert error.deadline == "total"
        assert monotonic() - start < 2.0, "not 0.6 s and a total of its own"
        await engine.aclose()


QUICK = BreakerSpec(failures=2, open_seconds=0.2)


class TestBreaker:
    @pytest.mark.parametrize(
        "error",
        [Unavailable("x"), BadReply("x"), *(TimedOut("x", deadline=which) for which in ("connect", "idle", "total"))],
    )
    async def test_faults_of_the_upstream_open_it(self, error: EngineError) -> None:
        inner = Scripted("upstream", error=error)
        engine = Guard(inner, ScriptedSpec(retries=0, breaker=BreakerSpec(failures=2)))
        for _ in range(2):
            assert (await fails(engine)).code is None
        refused = await fails(engine)
        assert isinstance(refused, Unavailable)
        assert refused.code == OPEN
        assert len(inner.prompts) == 2

    @pytest.mark.parametrize(
        "error", [Refused("x"), PromptTooLong("x"), Overloaded("x"), TimedOut("x", deadline="place")]
    )
    async def test_other_faults_do_not(self, error: EngineError) -> None:
        inner = Scripted("upstream", error=error)
        engine = Guard(inner, ScriptedSpec(breaker=BreakerSpec(failures=1)))
        for _ in range(5):
            assert (await fails(engine)).code is None
        assert len(inner.prompts) == 5

    async def test_one_that_dies_in_the_middle_each_time(self) -> None:
        inner = Scripted("upstream", "One two", error=Unavailable("gone"), fail_after=1)
        engine = Guard(inner, ScriptedSpec(breaker=BreakerSpec(failures=3)))
        for _ in range(3):
            await fails(engine)
        assert (await fails(engine)).code == OPEN

    async def test_callers_that_leave_do_not(self) -> None:
        inner = Scripted("upstream", "One two three", hang_after=1)
        engine = Guard(inner, ScriptedSpec(breaker=BreakerSpec(failures=1)))
        for _ in range(3):
            async with aclosing(engine.stream(ASK)) as events:
                assert isinstance(await anext(events), Delta)
        assert engine.breaker.position.state == "closed"
        assert inner.closed_early == 3

    async def test_it_opens_between_two_tries(self) -> None:
        inner = Scripted("upstream", error=Unavailable("x"))
        engine = Guard(inner, ScriptedSpec(retries=5, breaker=BreakerSpec(failures=2)))
        assert (await fails(engine)).code == OPEN
        assert len(inner.prompts) == 2

    async def test_the_first_word_closes_it(self) -> None:
        sick = [True]
        inner = Scripted("upstream", "One two", error=lambda _: Unavailable("x") if sick[0] else None)
        engine = Guard(inner, ScriptedSpec(retries=0, breaker=QUICK))
        for _ in range(2):
            await fails(engine)
        sick.clear()
        sick.append(False)
        await until(lambda: not engine.breaker.position.wait)
        async with aclosing(engine.stream(ASK)) as events:
            await anext(events)
            assert engine.breaker.position.state == "closed"

    async def test_a_trial_whose_caller_leaves_before_the_first_word_is_free_again(self) -> None:
        inner = Scripted("upstream", "One", error=Unavailable("x"))
        engine = Guard(inner, ScriptedSpec(retries=0, breaker=QUICK))
        for _ in range(2):
            await fails(engine)
        await until(lambda: not engine.breaker.position.wait)
        inner._error, inner._hang_after = None, 0
        task = asyncio.create_task(told(engine))
        await until(lambda: len(inner.prompts) == 3)
        assert (await fails(engine)).code == OPEN, "it is being tried"
        task.cancel()
        await asyncio.wait([task])
        assert engine.breaker.position.wait == 0
        inner._hang_after = None
        assert await told(engine) == "One"

    async def test_it_closes_no_breaker_by_being_closed(self) -> None:
        engine = Guard(Scripted("upstream"), ScriptedSpec(breaker=BreakerSpec(failures=1)))
        await engine.aclose()
        assert type(await fails(engine)) is Unavailable
        assert engine.breaker.position.state == "closed"


async def test_an_engine_that_says_nothing_at_all() -> None:
    class Mute(Scripted):
        async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
            self.prompts.append(prompt)
            if self.prompts:
                return
            yield Delta("")

    assert type(await fails(Guard(Mute("upstream"), ScriptedSpec()))) is BadReply


async def test_it_is_the_engine_it_guards() -> None:
    inner = Scripted("upstream", "A b", model="m", abilities=Ability.LOGPROBS)
    engine = Guard(inner, ScriptedSpec())
    assert (engine.name, engine.model, engine.abilities) == ("upstream", "m", Ability.LOGPROBS)
    assert await engine.ready() == Ability.LOGPROBS
    async with aclosing(engine.stream(ASK)) as events:
        *deltas, finish = [event async for event in events]
    assert [delta.text for delta in deltas if isinstance(delta, Delta)] == ["A", " b"]
    assert isinstance(finish, Finish)
