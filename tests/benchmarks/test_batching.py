"""The batching benchmark runs, on a tiny model, and compares what is the same."""

from __future__ import annotations

import pytest

from benchmarks.batching import compare, generate, requests
from tests.students.tiny import tiny

pytestmark = pytest.mark.anyio


async def test_both_ways_write_the_same() -> None:
    model = tiny("llama", size=340)
    prompts = requests(6, 5)
    assert len({repr(prompt.sampling) for prompt in prompts}) == len(prompts)
    together, alone = await compare(lambda: model, prompts)
    assert list(together.texts) == list(alone.texts)
    assert together.tokens == alone.tokens > 6
    assert together.speed > 0
    assert generate(model, prompts[:1], 3) > 0
