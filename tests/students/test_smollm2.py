"""A real model from a GGUF file: what transformers writes in this process, and llama.cpp in its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from importlib.util import find_spec
from statistics import fmean
from typing import Any

import pytest

from students.engine import Delta, Engine, Finish, Message, Prompt, Sampling
from students.in_process import InProcess
from students.llamacpp import LlamaCpp
from students.spec import LlamaCppSpec, TransformersSpec
from tests.students.smollm2 import loaded

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TOKENS = 16
FURTHEST = 1.0
"""What a token's log probability may differ by. llama.cpp multiplies 4-bit weights by activations that it rounds to 8
bits; transformers unpacks the weights and rounds nothing. Measured: 0.09 on average, 0.45 at most."""
AVERAGE = 0.3

QUESTIONS = (
    "Count from 1 to 30, separated by commas.",
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "What is 7 times 8?",
)


async def tokens(engine: Engine, question: str, prefix: str) -> tuple[list[dict[str, Any]], int]:
    """Each token of the greedy answer with its nearest rivals, and the prompt's tokens."""
    ask: tuple[Message, ...] = ({"role": "user", "content": question},)
    sampling = Sampling(temperature=0.0, logprobs=True, top_logprobs=5)
    entries: list[dict[str, Any]] = []
    async with aclosing(engine.stream(Prompt(ask, prefix=prefix, max_tokens=TOKENS, sampling=sampling))) as events:
        async for event in events:
            if isinstance(event, Delta):
                entries += [dict(entry) for entry in event.logprobs or ()]
            elif isinstance(event, Finish):
                assert event.usage is not None
                assert event.usage.input is not None
                read = event.usage.input
    return entries, read


@pytest.mark.timeout(300)
async def test_transformers_and_llama_cpp_write_the_same_for_as_long_as_their_arithmetic_does() -> None:
    if find_spec("xllamacpp") is None:
        pytest.skip("the llama.cpp server is not installed")
    model = loaded()
    shared: list[int] = []
    differences: list[float] = []
    async with (
        aclosing(InProcess("torch", TransformersSpec(model="smollm2", path="loaded"), load=lambda: model)) as torch,
        aclosing(LlamaCpp("llama", LlamaCppSpec(slots=1, context=1024))) as llama,
    ):
        for index, question in enumerate(QUESTIONS):
            prefix = "" if index % 2 else "Well,"
            ours, read = await tokens(torch, question, prefix)
            theirs, also_read = await tokens(llama, question, prefix)
            assert read == also_read, "one chat template, one tokenizer: the same prompt to the token"
            same = 0
            for mine, other in zip(ours, theirs, strict=False):
                differences += [abs(mine_says - other_says) for mine_says, other_says in rivals(mine, other)]
                if mine["token"] != other["token"]:
                    break
                same += 1
            shared.append(same)
    print(f"tokens in common of {TOKENS} each: {shared}; log probabilities differ by {fmean(differences):.2f}")
    assert sum(shared) >= TOKENS, f"in common before they part: {shared}"
    assert max(differences) < FURTHEST
    assert fmean(differences) < AVERAGE


def rivals(mine: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """What the two say of the tokens that both hold likely, at a place up to which they wrote the same."""
    says = {entry["token"]: entry["logprob"] for entry in mine["top_logprobs"]}
    for entry in other["top_logprobs"]:
        if entry["token"] in says:
            yield says[entry["token"]], entry["logprob"]
