"""The desk: every call is on record before it is made, at a bound that it cannot exceed, and told as it went."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import upstreams
from gateway.chat import Call, Caller, Chat, Exchange, Plan
from gateway.errors import Busy
from gateway.ledger.entry import Ledger
from gateway.ledger.sql import SqlLedger
from gateway.strategies.prompts import Prompts, after
from gateway.upstreams import Desk, Upstream, tier_asked
from pricing.book import PriceBook
from pricing.money import Money
from pricing.usage import Usage
from students.engine import Ability, Delta, Engine, Event, Finish, Message, Prompt, Sampling
from students.errors import BadReply, Overloaded, TimedOut, Unavailable
from students.guard import Guard
from students.scripted import Scripted
from students.spec import BreakerSpec, ScriptedSpec

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "Why is the sky blue?"}]


class Refusing:
    """A ledger that takes no intents, in front of a real one."""

    def __init__(self, behind: Ledger) -> None:
        self._behind = behind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    async def intend(self, call: Call) -> None:
        raise Busy("the ledger has too much to write")


class Mute(Refusing):
    """A ledger whose database hangs: nobody ever hears of an intent again."""

    async def intend(self, call: Call) -> None:
        await asyncio.Event().wait()


class Odd(Scripted):
    """An engine that says exactly these events, whatever the contract asks for."""

    def __init__(self, *events: Event | Exception) -> None:
        super().__init__("odd")
        self._events = events

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        for event in self._events:
            if isinstance(event, Exception):
                raise event
            yield event


def make_exchange(
    messages: Sequence[Message] = HI, *, needs: frozenset[Any] = frozenset(), size: int = 200, **plan: Any
) -> Exchange:
    chat = Chat("chatcmpl-1", "gkt", messages, Sampling(), needs=needs, size=size)
    plan = {"strategy": "cut-off", "teacher": "teacher", "student": "student", **plan}
    return Exchange(chat, Caller("alice"), Plan("route", why="why", **plan), started=1.0)


def make_desk(
    exchange: Exchange, ledger: Ledger, engine: Engine, prices: Mapping[str, Any] | None = None, **upstream: Any
) -> Desk:
    """A desk with `engine` in the teacher's seat, whose model is `gpt` at 2 and 10 dollars."""
    made = Upstream("teacher", engine, **{"model": "gpt", "max_output": 1000, "max_seconds": 60.0, **upstream})
    book = PriceBook.from_config(prices or {"gpt": {"input": 2, "output": 10}}, catalogs=[])
    return Desk(exchange, {"teacher": made}, book, ledger, Prompts())


@pytest.fixture
async def ledger() -> AsyncGenerator[SqlLedger, None]:
    opened = await SqlLedger.open("sqlite://")
    yield opened
    await opened.aclose()


async def listen(desk: Desk, prompt: Prompt | None = None) -> list[Event]:
    async with aclosing(desk.ask("teacher", "guidance", prompt or Prompt(HI, 40))) as events:
        return [event async for event in events]


async def test_the_intent_is_on_record_before_the_engine_is_asked(house: Any, tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    seen: list[Any] = []

    def says(prompt: Prompt) -> str:
        with sqlite3.connect(file) as database:
            seen.extend(database.execute("SELECT id, is_open, bound_amount, asked, strategy, caller, route FROM calls"))
        return "Hello."

    async with house(student=Scripted(says=says), ledger={"url": f"sqlite:///{file}"}) as home:
        answer = await home.ask("student")
    (call,) = answer.exchange.calls
    assert seen == [("chatcmpl-1/0", 1, call.bound.nano, "student", "student", "anonymous", "student")]
    assert call.bound.nano > 0


async def test_a_call_is_written_down_as_it_goes(ledger: SqlLedger) -> None:
    exchange = make_exchange()
    engine = Scripted(says="The sky is blue.", delay=0.01, usage=Usage(9, 4))
    desk = make_desk(exchange, ledger, engine)
    events = await listen(desk)
    (call,) = exchange.calls
    assert isinstance(events[-1], Finish)
    assert "".join(call.spoken) == "The sky is blue."
    assert (call.stage, call.seat, call.upstream, call.model) == ("guidance", "teacher", "teacher", "gpt")
    assert (call.asked, call.route, call.strategy, call.caller) == ("gkt", "route", "cut-off", "alice")
    assert (call.usage, call.finish, call.error, call.cut) == (Usage(9, 4), "stop", None, False)
    assert call.first_token is not None
    assert call.duration is not None
    assert 0 < call.first_token < call.duration < 5
    assert call.id == "chatcmpl-1/0"
    await listen(desk)
    assert [each.id for each in exchange.calls] == ["chatcmpl-1/0", "chatcmpl-1/1"]


async def test_an_answer_without_a_word_has_no_first_word(ledger: SqlLedger) -> None:
    exchange = make_exchange()
    await listen(make_desk(exchange, ledger, Scripted(says="", usage=Usage(9, 40, reasoning=40))))
    assert exchange.calls[0].first_token is None
    assert exchange.calls[0].duration is not None


@pytest.mark.parametrize("words", [0, 1, 4])
async def test_a_call_that_is_closed_early_is_cut_and_stops_the_engine(ledger: SqlLedger, words: int) -> None:
    exchange, engine = make_exchange(), Scripted(says="The sky is blue.")
    events = make_desk(exchange, ledger, engine).ask("teacher", "guidance", Prompt(HI, 40))
    for _ in range(words):
        await anext(events)
    await events.aclose()
    if not words:
        assert not exchange.calls, "nothing was asked"
        return
    (call,) = exchange.calls
    assert (call.cut, call.usage, call.finish, call.error) == (True, None, None, None)
    assert len(call.spoken) == words
    assert call.duration is not None
    assert engine.closed_early == 1


async def test_a_call_that_is_closed_at_its_end_is_not_cut(ledger: SqlLedger) -> None:
    exchange = make_exchange()
    events = make_desk(exchange, ledger, Scripted(says="Hi", usage=Usage(9, 1))).ask("teacher", "answer", Prompt(HI))
    while not isinstance(await anext(events), Finish):
        pass
    await events.aclose()
    assert (exchange.calls[0].cut, exchange.calls[0].usage) == (False, Usage(9, 1))


@pytest.mark.parametrize("after_words", [0, 2])
async def test_an_engine_that_fails(ledger: SqlLedger, after_words: int) -> None:
    exchange = make_exchange()
    engine = Scripted(says="The sky is blue.", error=Overloaded("full"), fail_after=after_words)
    with pytest.raises(Overloaded):
        await listen(make_desk(exchange, ledger, engine))
    (call,) = exchange.calls
    assert (call.error, call.cut, call.usage, len(call.spoken)) == ("Overloaded", False, None, after_words)
    assert call.duration is not None


@pytest.mark.parametrize(("deadline", "sent"), [("connect", False), ("first_token", True), ("total", True)])
async def test_a_call_that_found_no_connection_was_never_sent(ledger: SqlLedger, deadline: str, sent: bool) -> None:
    exchange = make_exchange()
    with pytest.raises(TimedOut):
        await listen(make_desk(exchange, ledger, Scripted(error=TimedOut("slow", deadline=deadline))))
    assert exchange.calls[0].error == "TimedOut"
    assert exchange.calls[0].usage == (None if sent else Usage(0, 0, seconds=0.0, source="counted"))


async def test_a_call_that_the_breaker_turned_away_was_never_sent(ledger: SqlLedger) -> None:
    exchange = make_exchange()
    engine = Guard(Scripted(error=Unavailable("gone")), ScriptedSpec(retries=0, breaker=BreakerSpec(failures=1)))
    for usage in (None, Usage(0, 0, seconds=0.0, source="counted")):
        with pytest.raises(Unavailable):
            await listen(make_desk(exchange, ledger, engine))
        assert exchange.calls[-1].error == "Unavailable"
        assert exchange.calls[-1].usage == usage


async def test_an_engine_with_a_fault_of_its_own_is_told_too(ledger: SqlLedger) -> None:
    exchange = make_exchange()
    with pytest.raises(ZeroDivisionError):
        await listen(make_desk(exchange, ledger, Odd(Delta("Hi"), ZeroDivisionError())))
    assert (exchange.calls[0].error, exchange.calls[0].cut) == ("ZeroDivisionError", False)


async def test_an_engine_that_ends_without_an_end_gave_no_short_answer(ledger: SqlLedger) -> None:
    exchange = make_exchange()
    with pytest.raises(BadReply):
        await listen(make_desk(exchange, ledger, Odd(Delta("Hi"))))
    assert (exchange.calls[0].error, exchange.calls[0].cut) == ("BadReply", False)


async def test_what_a_model_writes_beside_its_text_is_kept_to_be_counted(ledger: SqlLedger) -> None:
    exchange = make_exchange()
    tool = {"index": 0, "id": "call_x", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}
    more = {"index": 0, "function": {"arguments": "1}"}}
    events = [
        Delta("", fields={"reasoning_content": "Hmm. "}),
        Delta("", fields={"tool_calls": [tool]}),
        Delta("", fields={"tool_calls": [more]}),
    ]
    await listen(make_desk(exchange, ledger, Odd(*events, Finish())))
    assert "".join(exchange.calls[0].spoken) == 'Hmm. f{"a":1}'


async def test_a_ledger_without_room_means_that_nothing_is_asked(ledger: SqlLedger) -> None:
    exchange, engine = make_exchange(), Scripted()
    with pytest.raises(Busy):
        await listen(make_desk(exchange, Refusing(ledger), engine))
    assert not engine.prompts
    assert exchange.calls[0].duration is None


async def test_a_ledger_that_hangs_does_not_hang_the_caller(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "INTEND_SECONDS", 0.02)
    exchange, engine = make_exchange(), Scripted()
    with pytest.raises(Busy, match="not on record"):
        async with asyncio.timeout(5):
            await listen(make_desk(exchange, Mute(ledger), engine))
    assert not engine.prompts


async def test_a_stand_in_is_asked_for_itself_and_known_as_what_it_stands_for(ledger: SqlLedger) -> None:
    exchange, engine = make_exchange(), Scripted("student", "Hi", model="small", usage=Usage(9, 1, cached=8))
    desk = make_desk(exchange, ledger, engine, {"gpt-x": {"input": 1, "output": 1}}, stand_in="student")
    await listen(desk, Prompt(HI, model="gpt-x"))
    (call,) = exchange.calls
    assert engine.prompts[0].model is None
    assert (call.model, call.stand_in, call.upstream) == ("gpt-x", "student", "teacher")
    assert call.usage == Usage(9, 1), "what the stand-in has cached tells nothing about the teacher"
    assert call.bound is not None


async def test_a_model_of_its_own_is_sent_and_priced(ledger: SqlLedger) -> None:
    exchange, engine = make_exchange(), Scripted()
    await listen(make_desk(exchange, ledger, engine, {"gpt-x": {"input": 1, "output": 1}}), Prompt(HI, model="gpt-x"))
    assert engine.prompts[0].model == "gpt-x"
    assert exchange.calls[0].bound is not None
    await listen(make_desk(exchange, ledger, engine), Prompt(HI, model="nobody-knows"))
    assert exchange.calls[1].bound is None


@pytest.mark.parametrize("need", ["images", "audio"])
async def test_pictures_and_sound_have_no_known_bound(ledger: SqlLedger, need: str) -> None:
    exchange = make_exchange(needs=frozenset({need}))
    await listen(make_desk(exchange, ledger, Scripted()))
    assert exchange.calls[0].bound is None


async def test_seats_and_abilities(ledger: SqlLedger) -> None:
    exchange = make_exchange(student=None)
    desk = make_desk(exchange, ledger, Scripted(abilities=Ability.TOOLS))
    assert desk.can("teacher", Ability.TOOLS)
    assert not desk.can("teacher", Ability.CONTINUE)
    assert not desk.can("student", Ability.TOOLS)
    with pytest.raises(LookupError):
        await anext(desk.ask("student", "answer", Prompt(HI)))


def test_the_tier_that_is_asked_for() -> None:
    asked = [
        tier_asked({"service_tier": tier}) for tier in ("flex", "priority", "auto", "default", "standard", 3, None)
    ]
    assert asked == ["flex", "priority", None, None, None, None, None]
    assert tier_asked({}) is None


RATE = st.decimals(0, 100, places=2)
ROW = st.fixed_dictionaries(
    {"input": RATE, "output": RATE}, optional={"cached": RATE, "cache_write": RATE, "per_hour": RATE}
)


@settings(max_examples=60)
@given(
    text=st.text(max_size=60),
    added=st.text(max_size=60),
    prefix=st.text(max_size=30),
    limit=st.none() | st.integers(1, 500),
    n=st.integers(1, 4),
    standard=ROW,
    priority=ROW,
    used=st.sampled_from([None, "priority"]),
    shares=st.tuples(*[st.floats(0, 1)] * 5),
)
def test_no_call_costs_more_than_its_bound(
    text: str,
    added: str,
    prefix: str,
    limit: int | None,
    n: int,
    standard: dict[str, Any],
    priority: dict[str, Any],
    used: str | None,
    shares: tuple[float, ...],
) -> None:
    """Whatever text, and however dear writing to a cache or a tier: no vocabulary has tokens shorter than a byte."""
    if "cached" in standard:
        standard["cached"] = min(standard["cached"], standard["input"])  # a discount, everywhere
    if "cached" in priority:
        priority["cached"] = min(priority["cached"], priority["input"])
    if "per_hour" in priority or "per_hour" in standard:
        priority.pop("per_hour", None)  # a machine has no tiers
        used = None
    messages = [{"role": "user", "content": text}]
    asked = after(messages, added) if added else messages
    options = {} if used is None else {"service_tier": used}
    prompt = Prompt(asked, limit, prefix, n=n, options=options)
    said = asked[-1]["content"] + prefix
    most_in = len(said.encode("utf-8", "surrogatepass")) + 32 * 2
    size, output = int(most_in * shares[0]), int((limit or 1000) * n * shares[1])
    cached = int(size * shares[2])
    usage = Usage(size, output, cached, int((size - cached) * shares[3]), seconds=60 * shares[4])
    prices = {"gpt": [standard, {**priority, "tier": "priority"}]}

    async def bound() -> tuple[Call, PriceBook]:
        ledger = await SqlLedger.open("sqlite://")
        exchange = make_exchange(messages, size=len(text.encode("utf-8", "surrogatepass")))
        await listen(make_desk(exchange, ledger, Scripted(), prices), prompt)
        await ledger.aclose()
        return exchange.calls[0], PriceBook.from_config(prices, catalogs=[])

    call, book = asyncio.run(bound())
    price = book.price("gpt", tier=used)
    assert price is not None
    cost = price.cost(usage)
    assert cost is not None
    assert call.bound is not None
    assert cost <= call.bound


async def test_a_dearer_tier_that_is_asked_for_is_in_the_bound(ledger: SqlLedger) -> None:
    prices = {"gpt": [{"input": 2, "output": 10}, {"input": 4, "output": 20, "tier": "priority"}]}
    exchange = make_exchange()
    desk = make_desk(exchange, ledger, Scripted(), prices)
    for tier in ("default", "priority", "scale"):
        await listen(desk, Prompt(HI, 40, options={"service_tier": tier}))
    plain, dear, unknown = (call.bound for call in exchange.calls)
    assert plain is not None
    assert dear is not None
    assert dear.nano == 2 * plain.nano
    assert unknown is None, "a tier without a price"


@pytest.mark.parametrize("plain", [0, 2])
async def test_input_that_is_written_to_the_cache_may_cost_more(ledger: SqlLedger, plain: int) -> None:
    exchange = make_exchange(size=100)
    prices = {"gpt": {"input": plain, "output": 10, "cache_write": 2.5}}
    await listen(make_desk(exchange, ledger, Scripted(), prices), Prompt(HI, 40))
    assert exchange.calls[0].bound == Money((100 + 32 * 2) * 2500 + 40 * 10_000)


async def test_errors_pass_as_they_are(ledger: SqlLedger) -> None:
    with pytest.raises(Unavailable, match="gone") as caught:
        await listen(make_desk(make_exchange(), ledger, Scripted("it", error=Unavailable("gone"))))
    assert caught.value.engine == "it"
