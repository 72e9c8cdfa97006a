"""Recorded answers served: a workload's answers played back by a gateway whose route is a cascade with shadows."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import yaml

from evals.recorded import Manifest, Outcome, write
from gateway.bootstrap import open_gateway
from gateway.chat import Caller, Exchange
from gateway.config import Config
from gateway.planner import Draw
from gateway.shadows import AT_ONCE
from pricing.tokens import Vocabulary
from tests.evals.synthetic import MANIFEST, SKILL
from tests.gateway.conftest import make_chat

VOCABULARY = "o200k_base"
DOCS = Path(__file__).parents[2] / "docs"


def start() -> dict[str, Any]:
    """The policy to begin with that the documentation has, for the workload's teacher."""
    block = re.search(r"```yaml policy\.yaml\n(.*?)```", (DOCS / "tradeoff.md").read_text("utf-8"), re.DOTALL)
    assert block is not None
    told: dict[str, Any] = yaml.safe_load(block[1])
    return {**told, "teacher": {"model": MANIFEST.teacher}}


def outcomes(count: int, seed: int = 5) -> list[Outcome]:
    """Answers like the synthetic ones, whose tokens are those that a replayed answer has."""
    vocabulary = Vocabulary.load(VOCABULARY)
    assert vocabulary is not None
    draw, found = random.Random(seed), []
    for number in range(count):
        right, hard, prompt = draw.randrange(1000), draw.random(), f"Question {number}: how many?"
        read = 3 + 3 + vocabulary.count("user") + vocabulary.count(prompt)
        for model, skill in SKILL.items():
            correct = draw.random() < skill + (1 - skill) * (0.5 - hard)
            said = right if correct else right + draw.randrange(1, 400)
            text = "so " * int(3 + 20 * hard + draw.randrange(5)) + f"the answer is {said}."
            found.append(Outcome(number, model, prompt, text, correct, read, vocabulary.count(text)))
    return found


def recorded(folder: Path, of: Sequence[Outcome]) -> Manifest:
    """The workload's directory, and one recording for each model beside it."""
    write(folder / "sums", MANIFEST, of)
    for model in MANIFEST.models:
        rows = [{"prompt": each.prompt, "response": each.response} for each in of if each.model == model]
        (folder / f"{model}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "start.yaml").write_text(yaml.safe_dump(start()), "utf-8")
    return MANIFEST


def configured(folder: Path, **route: Any) -> Path:
    """The configuration of a gateway that plays the recordings back, as a file."""
    prices = {model: {"input": rate.input, "output": rate.output} for model, rate in MANIFEST.prices.items()}
    told = {
        "ledger": {"url": f"sqlite:///{folder}/ledger.db"},
        "prices": prices,
        "upstreams": {
            model: {"kind": "replay", "model": model, "file": f"{model}.jsonl", "vocabulary": VOCABULARY}
            for model in MANIFEST.models
        },
        "routes": {"sums": {"strategy": "cascade", "teacher": "big", "policy": "start.yaml", "shadow": 1, **route}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(told), "utf-8")
    return folder / "config.yaml"


async def serve(config: Path, of: Sequence[Outcome], *, draw: Draw = lambda: 0.0) -> None:
    """Ask the questions in their order, under their own ids, each with its shadow."""
    chats = [
        make_chat("sums", request_id=number, messages=[{"role": "user", "content": prompt}])
        for number, prompt in {str(each.id): each.prompt for each in of}.items()
    ]
    async with open_gateway(Config.load(config), environ={}, draw=draw) as gateway:

        async def heard(exchange: Exchange) -> None:
            async with aclosing(gateway.answer(exchange)) as events:
                async for _ in events:
                    pass

        for start in range(0, len(chats), AT_ONCE):  # more shadows than these would be skipped
            opened = [gateway.open(chat, Caller()) for chat in chats[start : start + AT_ONCE]]
            await asyncio.gather(*map(heard, opened))
            await gateway.shadows.idle()
