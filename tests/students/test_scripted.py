"""The engine of the tests keeps the contract of the real ones."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Prompt, Sampling
from students.errors import Overloaded, Unavailable
from students.script import script
from students.scripted import Scripted

pytestmark = pytest.mark.anyio

SKY = "The sky is blue."
ASK = Prompt(({"role": "user", "content": "Why is that so?"},))


async def ask(engine: Scripted, prompt: Prompt = ASK) -> list[Event]:
    async with aclosing(engine.stream(prompt)) as events:
        return [event async for event in events]


async def listen(engine: Scripted, said: list[Event]) -> None:
    async with aclosing(engine.stream(ASK)) as events:
        async for event in events:
            said += [event]


def texts(events: list[Event], index: int = 0) -> list[str]:
    return [event.text for event in events if isinstance(event, Delta) and event.index == index]


def finish(events: list[Event]) -> Finish:
    assert isinstance(events[-1], Finish)
    return events[-1]


async def test_says_words_and_reports_them() -> None:
    engine = Scripted("teacher", SKY, model="gpt-x")
    events = await ask(engine)
    assert texts(events) == ["The", " sky", " is", " blue."]
    assert finish(events) == Finish(("stop",), Usage(input=4, output=4), model="gpt-x")
    assert engine.prompts == [ASK]
    assert engine.closed_early == 0
    assert await engine.ready() == Ability.CONTINUE | Ability.SAMPLES


async def test_is_cut_as_a_model_is() -> None:
    engine = Scripted("teacher", SKY)
    cut = await ask(engine, Prompt(ASK.messages, max_tokens=2))
    assert (texts(cut), finish(cut).reason) == (["The", " sky"], "length")
    fits = await ask(engine, Prompt(ASK.messages, max_tokens=4))
    assert (texts(fits), finish(fits).reason) == (["The", " sky", " is", " blue."], "stop")
    stopped = await ask(engine, Prompt(ASK.messages, sampling=Sampling(stop=("y is",))))
    assert (texts(stopped), finish(stopped).reason) == (["The", " sk"], "stop")
    assert finish(stopped).usage == Usage(input=4, output=3), "the token that completed the stop string was generated"


async def test_hidden_reasoning_eats_the_budget() -> None:
    engine = Scripted("teacher", SKY, reasoning=40)
    eaten = await ask(engine, Prompt(ASK.messages, max_tokens=40))
    assert (texts(eaten), finish(eaten).reason) == ([], "length")
    assert finish(eaten).usage == Usage(input=4, output=40, reasoning=40)
    left = await ask(engine, Prompt(ASK.messages, max_tokens=42))
    assert texts(left) == ["The", " sky"]
    assert finish(left).usage == Usage(input=4, output=42, reasoning=40)


async def test_samples_prefix_fields_and_logprobs() -> None:
    fields: dict[str, Any] = {"refusal": "I cannot."}
    engine = Scripted("teacher", lambda prompt: f" is {prompt.max_tokens}", fields=fields, logprob=-0.5)
    events = await ask(
        engine, Prompt(ASK.messages, max_tokens=9, prefix="The sky", n=2, sampling=Sampling(logprobs=True))
    )
    assert events[0] == Delta("", fields=fields)
    assert texts(events, 1) == [" is", " 9"]
    assert finish(events).usage == Usage(input=6, output=4)
    assert all(event.logprobs for event in events[1:] if isinstance(event, Delta))
    assert not any(event.logprobs for event in await ask(engine) if isinstance(event, Delta))
    lame = Scripted("lame", abilities=Ability.NONE)
    for prompt in (Prompt(ASK.messages, prefix="The"), Prompt(ASK.messages, n=2)):
        with pytest.raises(ValueError, match="cannot"):
            await ask(lame, prompt)


async def test_own_chunks_finish_and_usage() -> None:
    engine = Scripted(chunks=["Th", "e sky"], finish="content_filter", usage=None)
    events = await ask(engine)
    assert texts(events) == ["Th", "e sky"]
    assert finish(events) == Finish(("content_filter",), None, model="scripted")
    assert finish(await ask(Scripted(usage=Usage(input=7)))).usage == Usage(input=7)


async def test_fails_where_it_was_told() -> None:
    said: list[Event] = []
    engine = Scripted("teacher", SKY, error=Unavailable("gone"), fail_after=2)
    with pytest.raises(Unavailable, match="gone") as caught:
        await listen(engine, said)
    assert texts(said) == ["The", " sky"]
    assert caught.value.engine == "teacher"
    assert engine.closed_early == 0

    busy = iter([Overloaded("busy", retry_after=1.0)])
    twice = Scripted("teacher", SKY, error=lambda prompt: next(busy, None))
    with pytest.raises(Overloaded):
        await ask(twice)
    assert texts(await ask(twice))


async def test_hangs_until_it_is_left_or_closed() -> None:
    engine = Scripted("teacher", SKY, hang_after=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await ask(engine)
    assert engine.closed_early == 1
    async with aclosing(engine.stream(ASK)) as events:
        assert await anext(events) == Delta("The")
    assert engine.closed_early == 2

    waiting = asyncio.create_task(ask(engine))
    await asyncio.sleep(0.01)
    await engine.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await waiting
    with pytest.raises(Unavailable, match="closed"):
        await engine.ready()


async def test_takes_its_time() -> None:
    began = asyncio.get_running_loop().time()
    await ask(Scripted(says="one two", delay=0.02))
    assert asyncio.get_running_loop().time() - began >= 0.06


@given(st.lists(st.text("ab", max_size=3)), st.integers(0, 8) | st.none(), st.lists(st.text("ab", max_size=3)))
def test_a_script_is_what_a_model_would_have_said(tokens: list[str], limit: int | None, stop: list[str]) -> None:
    """Against a model: generate one token at a time, look for a stop string, look at the limit."""
    said, generated, reason = "", 0, "stop"
    for token in tokens:
        if limit is not None and generated >= limit:
            reason = "length"
            break
        said += token
        generated += 1
        hits = [(at + len(text), at) for text in stop if text and (at := said.find(text)) >= 0]
        if hits:
            said = said[: min(hits)[1]]
            break
    result = script(tokens, limit=limit, stop=stop)
    assert ("".join(result.pieces), result.tokens, result.reason) == (said, generated, reason)
