"""Several samples from an engine that gives one in a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

import pytest

from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Prompt, Sampling
from students.errors import Unavailable
from students.samples import samples
from students.scripted import Scripted

pytestmark = pytest.mark.anyio

ASK = Prompt(({"role": "user", "content": "Say your seed."},), n=3, sampling=Sampling(seed=7))


Ask = Callable[[Prompt], AsyncGenerator[Event, None]]


def mine(prompt: Prompt) -> str:
    return f"Mine is {prompt.sampling.seed}"


async def ask(one: Ask, prompt: Prompt = ASK) -> list[Event]:
    async with aclosing(samples(one, prompt)) as events:
        return [event async for event in events]


async def test_each_sample_has_its_own_seed_and_the_prompt_is_counted_once() -> None:
    engine = Scripted(says=mine, abilities=Ability.NONE)
    *deltas, finish = await ask(engine.stream, ASK)
    texts = ["", "", ""]
    for delta in deltas:
        assert isinstance(delta, Delta)
        texts[delta.index] += delta.text
    assert texts == ["Mine is 7", "Mine is 8", "Mine is 9"]
    assert finish == Finish(("stop",) * 3, Usage(input=3, output=9), model="scripted")
    assert [prompt.n for prompt in engine.prompts] == [1, 1, 1]
    await ask(engine.stream, replace(ASK, sampling=Sampling()))
    assert {prompt.sampling.seed for prompt in engine.prompts[3:]} == {None}


async def test_what_one_call_does_not_know_nobody_knows() -> None:
    async def one(prompt: Prompt) -> AsyncGenerator[Event, None]:
        seed = prompt.sampling.seed or 0
        yield Finish(usage=usages[seed - 7])

    usages: list[Usage | None] = [Usage(5, 1, seconds=0.5), Usage(5, None, seconds=0.25), Usage(5, 1, seconds=0.25)]
    assert await ask(one) == [Finish(("stop",) * 3, Usage(5, None, seconds=1.0))]
    usages[2] = None
    assert await ask(one) == [Finish(("stop",) * 3, None)]


async def test_the_first_failure_ends_all() -> None:
    engine = Scripted(
        says=mine,
        abilities=Ability.NONE,
        error=lambda prompt: Unavailable("gone") if prompt.sampling.seed == 8 else None,
        fail_after=1,
        hang_after=2,
    )
    with pytest.raises(Unavailable, match="gone"):
        await ask(engine.stream, ASK)
    assert engine.closed_early == 2


async def test_leaving_closes_every_call() -> None:
    engine = Scripted(says=mine, abilities=Ability.NONE, hang_after=1)
    async with aclosing(samples(engine.stream, ASK)) as events:
        for _ in range(3):
            await anext(events)
    assert engine.closed_early == 3
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await ask(engine.stream, ASK)
    assert engine.closed_early == 6
