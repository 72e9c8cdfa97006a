"""The pipeline: however an answer ends, it is booked once, before its end is told, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from gateway import pipeline
from gateway.chat import Caller, Exchange
from gateway.errors import BadRequest, Busy, GatewayError, NotFound, UpstreamFailed
from gateway.ledger.entry import Entry, Ledger, Query
from gateway.pipeline import Gateway
from gateway.strategies.base import Upstreams
from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Prompt
from students.errors import BadReply, EngineError, Overloaded, PromptTooLong, Refused, TimedOut, Unavailable
from students.scripted import Scripted

pytestmark = pytest.mark.anyio


class Watched:
    """A real ledger, and what it was given."""

    def __init__(self, behind: Ledger, *, hangs: bool = False) -> None:
        self._behind = behind
        self._hangs = hangs
        self.settled: list[Entry] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    async def settle(self, entry: Entry) -> None:
        self.settled.append(entry)
        await self._behind.settle(entry)
        if self._hangs:
            await asyncio.Event().wait()


def watched(home: Any, **how: Any) -> list[Entry]:
    home.gateway.ledger = ledger = Watched(home.gateway.ledger, **how)
    return ledger.settled


class Faulty:
    """A strategy that does something that no strategy should."""

    def __init__(self, *events: Event, error: Exception | None = None) -> None:
        self._events = events
        self._error = error

    async def run(self, exchange: Exchange, upstreams: Upstreams) -> AsyncGenerator[Event, None]:
        async with aclosing(upstreams.ask("student", "answer", Prompt(exchange.chat.messages))) as events:
            async for _ in events:
                pass
        for event in self._events:
            yield event
        if self._error is not None:
            raise self._error


def faulty(home: Any, strategy: Faulty) -> None:
    home.gateway._strategies = {"student": strategy}


async def drained(gateway: Gateway, exchange: Exchange) -> list[Event]:
    async with aclosing(gateway.answer(exchange)) as events:
        return [event async for event in events]


class TestAdmission:
    async def test_no_room(self, house: Any) -> None:
        async with house(student=Scripted(hang_after=0), server={"max_in_flight": 1}) as home:
            first = home.gateway.answer(home.open("student"))
            task = asyncio.create_task(anext(first))
            await asyncio.sleep(0.05)
            assert home.gateway.in_flight == 1
            with pytest.raises(Busy, match="already answers 1"):
                home.open("student", request_id="chatcmpl-2")
            task.cancel()
            await asyncio.wait([task])
            assert home.gateway.in_flight == 0
            home.open("student", request_id="chatcmpl-3")

    async def test_closing(self, house: Any) -> None:
        async with house(student=Scripted()) as home:
            gateway = home.gateway
            assert not gateway.closing
        assert gateway.closing
        with pytest.raises(Busy, match="shutting down"):
            home.open("student")

    async def test_closing_after_a_fault_too(self, house: Any) -> None:
        with pytest.raises(ZeroDivisionError):
            async with house(student=Scripted()) as home:
                raise ZeroDivisionError
        assert home.gateway.closing

    async def test_what_cannot_be_planned_asks_nobody_and_books_nothing(self, house: Any) -> None:
        async with house(student=Scripted(), route={"strategy": "student"}) as home:
            settled = watched(home)
            with pytest.raises(NotFound):
                home.open("unknown")
            assert (settled, home.gateway.in_flight) == ([], 0)

    async def test_models(self, house: Any) -> None:
        async with house(student=Scripted()) as home:
            assert "*" not in home.gateway.models(Caller())
            assert home.gateway.knows("anything", Caller())
        async with house(student=Scripted(), route={"strategy": "student"}) as home:
            assert home.gateway.models(Caller()) == ["gkt"]
            assert not home.gateway.knows("anything", Caller())

    async def test_a_receipt_of_what_is_not_over(self, house: Any) -> None:
        async with house(student=Scripted()) as home:
            with pytest.raises(LookupError):
                home.gateway.receipt(home.open("student"))


class TestEndings:
    async def test_the_entry_is_on_record_before_the_end_is_told(self, house: Any) -> None:
        async with house(student=Scripted(says="one two")) as home:
            exchange = home.open("student")
            async with aclosing(home.gateway.answer(exchange)) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        assert (await home.entry())["outcome"] == "ok"
                        assert home.gateway.in_flight == 0
                        assert home.gateway.receipt(exchange)["outcome"] == "ok"
                    else:
                        assert await home.gateway.ledger.entry("chatcmpl-1") is None
                        assert home.gateway.in_flight == 1

    @pytest.mark.parametrize("taken", [0, 1, 2, 3, 4])
    @pytest.mark.parametrize("strategy", ["student", "cut-off"])
    async def test_a_client_may_leave_at_any_point(self, house: Any, taken: int, strategy: str) -> None:
        """Of three words and an end. Before the first, nothing was asked and nothing is owed."""
        teacher, student = Scripted("teacher", "one x y z"), Scripted("student", "one two three")
        if strategy == "cut-off":
            student = Scripted("student", " two three")
        async with house(teacher=teacher, student=student) as home:
            settled = watched(home)
            events = home.gateway.answer(home.open(strategy=strategy, guidance_tokens=2))
            for _ in range(taken):
                last = await anext(events)
            await events.aclose()
            assert home.gateway.in_flight == 0
            if not taken:
                assert not settled
                assert not teacher.prompts
                assert not student.prompts
                return
            assert len(settled) == 1
            entry = await home.entry()
            assert entry["outcome"] == ("ok" if taken == 4 else "abandoned")
            assert isinstance(last, Finish) == (taken == 4)
            assert entry["spent"] > 0
            assert all(not call["is_open"] for call in entry["calls"])
            assert entry["calls"][-1]["cut"] == (taken < 4)
            (row,) = await home.gateway.ledger.savings(Query())
            assert row.spent.nano == entry["spent"] == sum(call["amount"] for call in entry["calls"])

    @pytest.mark.parametrize("hang_after", [0, 1, 3])
    @pytest.mark.parametrize("times", [1, 2, 5])
    async def test_a_client_that_leaves_while_the_model_speaks(
        self, house: Any, tmp_path: Path, hang_after: int, times: int
    ) -> None:
        file = tmp_path / "ledger.db"
        student = Scripted("student", "one two three", hang_after=hang_after)
        async with house(student=student, ledger={"url": f"sqlite:///{file}"}) as home:
            settled = watched(home)
            task = asyncio.create_task(drained(home.gateway, home.open("student")))
            await asyncio.sleep(0.05)
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [entry.outcome for entry in settled] == ["abandoned"]
            assert (home.gateway.in_flight, student.closed_early) == (0, 1)
            ledger = home.gateway.ledger
        # Closing writes what waits: a cancelled wait took nothing back.
        assert ledger.waiting == 0
        with sqlite3.connect(file) as database:
            assert database.execute("SELECT outcome, spent > 0 FROM entries").fetchall() == [("abandoned", 1)]
            assert database.execute("SELECT is_open, cut, amount > 0 FROM calls").fetchall() == [(0, 1, 1)]

    async def test_a_client_that_leaves_many_answers_at_once_twice(self, house: Any) -> None:
        """Samples one by one are tasks; a second cancellation does not book them before they have ended."""
        student = Slow("student", "one two three", hang_after=1, abilities=Ability.CONTINUE)
        async with house(student=student) as home:
            settled = watched(home)
            task = asyncio.create_task(drained(home.gateway, home.open("student", n=3)))
            await asyncio.sleep(0.05)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            (entry,) = settled
            assert student.closed_early == 3
            assert all(call.cut and call.duration is not None for call in entry.calls)
            assert all(call.usage is not None and call.usage.output == 1 for call in entry.calls)

    async def test_a_call_that_waited_for_the_ledger_when_the_client_left_costs_nothing(self, house: Any) -> None:
        student = Scripted()
        async with house(student=student) as home:
            settled = watched(home)
            home.gateway.ledger.intend = lambda call: asyncio.Event().wait()
            task = asyncio.create_task(drained(home.gateway, home.open("student")))
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.wait([task])
            assert not student.prompts
            assert [entry.outcome for entry in settled] == ["abandoned"]
            assert (await home.entry())["spent"] == 0

    async def test_a_ledger_without_room(self, house: Any) -> None:
        student = Scripted()
        async with house(student=student) as home:
            settled = watched(home)

            async def intend(call: object) -> None:
                raise Busy("the ledger has too much to write")

            home.gateway.ledger.intend = intend
            with pytest.raises(Busy) as caught:
                await home.ask("student")
            assert caught.value.http_status == 503
            assert not student.prompts
            assert [(entry.outcome, entry.error) for entry in settled] == [("failed", "overloaded")]
            assert (await home.entry())["spent"] == 0

    async def test_a_ledger_that_hangs_does_not_hold_the_answer(
        self, house: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline, "SETTLE_SECONDS", 0.05)
        async with house(student=Scripted(says="one")) as home:
            settled = watched(home, hangs=True)
            async with asyncio.timeout(5):
                answer = await home.ask("student")
            assert answer.text == "one"
            assert answer.receipt["outcome"] == "ok"
            assert len(settled) == 1

    async def test_a_ledger_that_takes_no_entry_does_not_take_the_answer(self, house: Any) -> None:
        async with house(student=Scripted(says="one")) as home:
            exchange = home.open("student")

            async def settle(entry: Entry) -> None:
                raise GatewayError("the ledger refused a row")

            watched(home)
            home.gateway.ledger.settle = settle
            assert [type(event) for event in await drained(home.gateway, exchange)] == [Delta, Finish]

    async def test_answers_side_by_side_are_counted(self, house: Any) -> None:
        async with house(student=Scripted(says="one two three", delay=0.01)) as home:
            exchanges = [home.open("student", request_id=f"chatcmpl-{number}") for number in range(20)]
            tasks = [asyncio.create_task(drained(home.gateway, exchange)) for exchange in exchanges]
            await asyncio.sleep(0.015)
            assert home.gateway.in_flight == 20
            await asyncio.gather(*tasks)
            assert home.gateway.in_flight == 0
            (row,) = await home.gateway.ledger.savings(Query())
        assert row.requests == 20
        assert row.spent.nano == sum(sum(call.line.amount.nano for call in each.calls) for each in exchanges)


class TestFaults:
    async def test_a_strategy_with_a_fault_is_booked_and_its_error_raised(self, house: Any) -> None:
        async with house(student=Scripted(says="one two")) as home:
            settled = watched(home)
            faulty(home, Faulty(Delta("one"), error=ZeroDivisionError("inside")))
            with pytest.raises(ZeroDivisionError, match="inside"):
                await home.ask("student")
            entry = await home.entry()
            assert (entry["outcome"], entry["error"]) == ("failed", "ZeroDivisionError")
            assert entry["spent"] > 0, "the model was asked"
            assert (len(settled), home.gateway.in_flight) == (1, 0)

    async def test_a_strategy_that_ends_without_an_end(self, house: Any) -> None:
        async with house(student=Scripted()) as home:
            faulty(home, Faulty(Delta("one")))
            with pytest.raises(UpstreamFailed):
                await home.ask("student")
            assert (await home.entry())["error"] == "BadReply"

    async def test_nothing_follows_the_end(self, house: Any) -> None:
        async with house(student=Scripted()) as home:
            faulty(home, Faulty(Delta("one"), Finish(), Delta("two"), error=ZeroDivisionError()))
            events = await drained(home.gateway, home.open("student"))
            assert [type(event) for event in events] == [Delta, Finish]
            assert (await home.entry())["outcome"] == "ok"

    async def test_an_error_without_a_code_is_told_by_its_name(self, house: Any) -> None:
        async with house(student=Scripted()) as home:
            faulty(home, Faulty(error=BadRequest("no")))
            with pytest.raises(BadRequest):
                await home.ask("student")
            assert (await home.entry())["error"] == "BadRequest"

    async def test_an_engine_that_ends_without_an_end_is_no_fault_of_ours(self, house: Any) -> None:
        """And never a short answer."""
        async with house(student=Mute("student", "one two")) as home:
            with pytest.raises(UpstreamFailed) as caught:
                await home.ask("student", n=2)
            assert caught.value.http_status == 502
            assert (await home.entry())["error"] == "BadReply"


NEVER = {"x-should-retry": "false"}


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (Unavailable("gone"), 502, "upstream_error", NEVER),
        (Unavailable("gone", status=500, code="oops"), 502, "oops", NEVER),
        (BadReply("torn"), 502, "upstream_error", NEVER),
        (TimedOut("slow", deadline="first_token"), 504, "upstream_timeout", NEVER),
        (Overloaded("full"), 503, "upstream_overloaded", NEVER),
        (Overloaded("full", retry_after=7.4), 503, "upstream_overloaded", {**NEVER, "retry-after": "7"}),
        (Overloaded("full", retry_after=0.01), 503, "upstream_overloaded", {**NEVER, "retry-after": "1"}),
        (Overloaded("full", retry_after=float("inf")), 503, "upstream_overloaded", NEVER),
        (PromptTooLong("long", status=400), 400, "context_length_exceeded", {}),
        (Refused("bad", status=400, code="invalid_value"), 400, "invalid_value", {}),
        (Refused("what", status=404, code="model_not_found"), 400, "model_not_found", {}),
        (Refused("shape", status=422), 400, None, {}),
        (Refused("odd", status=None, code="content_policy"), 502, "content_policy", NEVER),
    ],
)
async def test_what_the_caller_is_told_of_a_models_failure(
    house: Any, error: EngineError, status: int, code: str | None, headers: Mapping[str, str]
) -> None:
    async with house(student=Scripted("student", error=error)) as home:
        with pytest.raises(GatewayError) as caught:
            await home.ask("student")
        entry = await home.entry()
    told = caught.value
    assert (told.http_status, told.code, dict(told.headers)) == (status, code, headers)
    assert str(told) == f"student: {error}"
    assert told.__cause__ is error
    assert (entry["outcome"], entry["error"]) == ("failed", type(error).__name__)


@pytest.mark.parametrize("status", [401, 403])
async def test_the_gateways_own_key_is_not_the_callers_business(house: Any, status: int) -> None:
    """OpenAI's words for it show the ends of the key."""
    error = Refused("Incorrect API key provided: sk-ab***yz.", status=status, code="invalid_api_key")
    async with house(student=Scripted("student", error=error)) as home:
        with pytest.raises(UpstreamFailed) as caught:
            await home.ask("student")
    assert (caught.value.http_status, caught.value.code) == (502, "upstream_error")
    assert "sk-" not in str(caught.value.body)


class TestSamples:
    async def test_texts_of_several_answers_are_kept_one_after_the_other(self, house: Any) -> None:
        student = Scripted(says="one two three")
        async with house(student=student, ledger={"url": "sqlite://", "store_text": True}) as home:
            answer = await home.ask("student", n=2)
            assert [answer.choice(index) for index in range(2)] == ["one two three"] * 2
            assert (await home.entry())["text"]["answer"] == "one two threeone two three"


class TestReadiness:
    async def test_every_upstream_is_told(self, house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        student = Scripted("student", abilities=Ability.CONTINUE | Ability.TOOLS)
        async with house(student=student) as home:
            state = await home.gateway.readiness()
            assert state["ready"]
            assert state["upstreams"]["teacher"]["stand_in"] == "student"
            assert state["upstreams"]["student"]["abilities"] == ["continue", "tools"]
            await student.aclose()
            assert (await home.gateway.readiness())["ready"]  # it was looked at just now
            monkeypatch.setattr("gateway.readiness.LOOK_SECONDS", 0.0)
            state = await home.gateway.readiness()
            assert not state["ready"]
            assert state["upstreams"]["student"]["error"].startswith("Unavailable: ")

    async def test_a_student_whose_probe_fails_later_is_given_guidance_in_its_prompt(self, house: Any) -> None:
        """It could not be reached at start, so the configuration could not be refused."""
        student = Scripted("student", "It is blue.")
        async with house(teacher=Scripted("teacher", "The sky is blue."), student=student) as home:
            student.abilities = Ability.NONE
            answer = await home.ask(guidance_tokens=None)
        assert answer.text == "It is blue."
        assert answer.exchange.plan.placement == "context"
        assert "cannot continue" in answer.receipt["why"]
        assert "The sky is blue." in student.prompts[0].messages[-1]["content"]


class Slow(Scripted):
    """An engine that takes a moment to let go, as one that closes a connection may."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        try:
            async with aclosing(super().stream(prompt)) as events:
                async for event in events:
                    yield event
        finally:
            await asyncio.sleep(0.02)


class Mute(Scripted):
    """An engine that forgets its end."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given, usage=Usage(1, 1))

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        async with aclosing(super().stream(prompt)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    yield event
