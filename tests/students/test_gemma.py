"""A base model on the real llama.cpp server: Gemma 3 270M, which knows no chats, goes on from worked examples."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from students import wheels
from students.engine import Ability, Delta, Finish, Prompt, Sampling
from students.errors import Unavailable
from students.llamacpp import LlamaCpp
from students.spec import LlamaCppSpec

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

SOLVED = (
    '{"question": "Which animal barks?", "answer": "It barks, so it is a dog. ANSWER: dog"}\n'
    '{"question": "Which animal meows?", "answer": "It meows, so it is a cat. ANSWER: cat"}\n'
    '{"question": "Which animal moos?", "answer": "It moos, so it is a cow. ANSWER: cow"}\n'
)
SHEEP = ({"role": "user", "content": "Which animal bleats?"},)
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the module, because one engine serves it."""
    return "asyncio"


@pytest.fixture(scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaCpp]:
    solved = tmp_path_factory.mktemp("gemma") / "solved.jsonl"
    solved.write_text(SOLVED, "utf-8")
    spec = LlamaCppSpec(
        model="gemma-3-270m", gguf=wheels.gemma(), base=True, exemplars=solved, slots=1, context=1024, threads=1
    )
    engine = LlamaCpp("base", spec)
    yield engine
    await engine.aclose()


async def ask(engine: LlamaCpp, prompt: Prompt) -> tuple[str, Finish]:
    said, end = "", None
    async with aclosing(engine.stream(prompt)) as events:
        async for event in events:
            if isinstance(event, Delta):
                said += event.text
            elif isinstance(event, Finish):
                end = event
    assert end is not None
    return said, end


async def test_it_proves_that_it_goes_on_from_a_text(engine: LlamaCpp) -> None:
    assert await engine.ready() == Ability.CONTINUE | Ability.SAMPLES | Ability.LOGPROBS | Ability.SCHEMA
    assert engine.proof is not None
    assert engine.proof.proven


async def test_it_answers_in_the_manner_of_its_exemplars_and_asks_itself_nothing(engine: LlamaCpp) -> None:
    said, end = await ask(engine, Prompt(SHEEP, max_tokens=60, sampling=GREEDY))
    assert said.startswith("It bleats, so it is a ")
    assert "ANSWER:" in said
    assert "Question" not in said
    assert end.reason == "stop"


async def test_it_goes_on_from_the_very_text_and_stops_where_the_caller_says_too(engine: LlamaCpp) -> None:
    begun = "It bleats, so it is a goat. ANSWER:"
    said, _ = await ask(engine, Prompt(SHEEP, prefix=begun, max_tokens=30, sampling=GREEDY))
    assert said.startswith(" goat")
    short, _ = await ask(
        engine, Prompt(SHEEP, prefix=begun, max_tokens=30, sampling=Sampling(temperature=0.0, stop=("at",)))
    )
    assert short == " go"


async def test_a_request_may_bring_exemplars_of_its_own_and_they_are_counted(engine: LlamaCpp) -> None:
    own = [{"question": f"Which animal {does}?", "answer": f"Reply = {name}!"} for does, name in
           (("barks", "dog"), ("meows", "cat"), ("moos", "cow"), ("neighs", "horse"))]  # fmt: skip
    said, end = await ask(
        engine, Prompt(SHEEP, max_tokens=30, sampling=GREEDY, options={"chat_template_kwargs": {"exemplars": own}})
    )
    assert said.startswith("Reply = ")
    none, bare = await ask(
        engine, Prompt(SHEEP, max_tokens=8, sampling=GREEDY, options={"chat_template_kwargs": {"exemplars": []}})
    )
    assert not none.startswith(("Reply", "It bleats, so"))
    assert end.usage is not None
    assert end.usage.input is not None
    assert bare.usage is not None
    assert bare.usage.input is not None
    assert end.usage.input > bare.usage.input + 40


async def test_exemplars_that_cannot_be_read_are_said_to_be(tmp_path: Path) -> None:
    wrong = tmp_path / "solved.jsonl"
    wrong.write_text('{"question": "?"}', "utf-8")
    engine = LlamaCpp("base", LlamaCppSpec(gguf=wheels.gemma(), base=True, exemplars=wrong))
    with pytest.raises(Unavailable, match="exemplars cannot be read: 'answer'"):
        await engine.ready()
    await engine.aclose()
