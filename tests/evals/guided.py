"""A made-up world in which the teacher's first words help: the same answers as a recording and as scripted models."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from evals.recorded import Guided, Manifest, Outcome, Rate, Words
from students.engine import Ability, Prompt
from students.scripted import Scripted

SMALL = Rate(input=0.1, output=0.1)
STUDENTS = ("small", "other")
LENGTHS = (8, 16)
MANIFEST = Manifest(
    name="sums",
    teacher="big",
    students=list(STUDENTS),
    guided=[Guided(student=student, tokens=tokens) for tokens in LENGTHS for student in STUDENTS],
    prices={"big": Rate(input=2.5, output=10), "small": SMALL, "other": SMALL},
    answer="number",
    recorded="made up",
)
SKILL: Mapping[tuple[str, int], float] = {
    ("big", 0): 0.97,
    ("small", 0): 0.6,
    ("other", 0): 0.55,
    ("small", 8): 0.9,
    ("other", 8): 0.88,
    ("small", 16): 0.96,
    ("other", 16): 0.95,
}
PROMPT = "Question {}, please: how many?"


class Said(NamedTuple):
    """What somebody says, after the first words where there are any; and whether that is right."""

    text: str
    right: bool


@lru_cache(maxsize=100_000)
def says(number: int, model: str, length: int) -> Said:
    """The answer of a model to a question, from so many of the teacher's tokens."""
    truth = 10 + random.Random(f"truth {number}").randrange(90)
    draw = random.Random(f"{model} {length} {number}")
    right = draw.random() < SKILL[model, length]
    value = truth if right else 10 + (truth - 10 + draw.randrange(1, 90)) % 90
    easy = random.Random(f"easy {number}").random() < 0.15
    steps = 0 if easy and model == "big" else 18 + draw.randrange(14)
    text = " ".join(["so", *["on"] * steps, f"answer is {value}."])
    return Said(text, right)


def kept(number: int, tokens: int) -> tuple[str, int, int, bool]:
    """The teacher's first words under that limit: text, tokens written, those kept, and whether it had ended."""
    words = says(number, "big", 0).text.split()
    if len(words) <= tokens:
        return " ".join(words), len(words), len(words), True
    return " ".join(words[: tokens - 1]), tokens, tokens - 1, False  # the last word might be torn


def rows(count: int) -> Iterator[Outcome]:
    """The recording."""
    for number in range(count):
        prompt = PROMPT.format(number)
        read = len(prompt.split())
        for model in MANIFEST.models:
            said = says(number, model, 0)
            yield Outcome(number, model, prompt, said.text, said.right, read, len(said.text.split()))
        for rung in MANIFEST.guided:
            text, wrote, held, ended = kept(number, rung.tokens)
            words = Words(text, rung.tokens, read, wrote, held, complete=ended)
            said = says(number, rung.student, rung.tokens)
            if ended:
                right = says(number, "big", 0).right
                yield Outcome(number, rung.student, prompt, text, right, 0, 0, guidance=words)
            else:
                whole = f"{text} {said.text}"
                own = read + held, len(said.text.split())
                yield Outcome(number, rung.student, prompt, whole, said.right, *own, guidance=words)


def models() -> dict[str, Scripted]:
    """The same, as models that can be asked; the teacher cannot go on from its own words."""

    def answer(model: str) -> Scripted:
        def say(prompt: Prompt) -> str:
            number = int(str(prompt.messages[0]["content"]).split()[1].rstrip(","))
            at = len(prompt.prefix.split())
            length = next((tokens for tokens in LENGTHS if at == tokens - 1), 0)
            return (" " if at else "") + says(number, model, length).text

        able = Ability.SAMPLES if model == MANIFEST.teacher else Ability.SAMPLES | Ability.CONTINUE
        return Scripted(model, say, model=model, abilities=able)

    return {model: answer(model) for model in MANIFEST.models}


def start() -> dict[str, Any]:
    """A policy to begin with: whoever two students agree with; guidance is nowhere climbed, but by shadows."""
    weights = {"gain": {"alone": 1.0}, "cost": {"one": 1.0}}
    ladder: list[dict[str, Any]] = [{"student": student, **weights} for student in STUDENTS]
    ladder += [
        {"student": r.student, "kind": "guidance", "guidance_tokens": r.tokens, **weights} for r in MANIFEST.guided
    ]
    for place, rung in enumerate(ladder[:-1]):
        rung["next"] = {"one": 2.0} if place == 0 else {"alone": 2.0}
    return {
        "name": "start",
        "kind": "number",
        "teacher": {"model": "big"},
        "worth": 0.1,
        "prefer": list(STUDENTS),
        "rungs": ladder,
    }


def configured(folder: Path, policy: str, **route: Any) -> dict[str, Any]:
    """The configuration of a gateway over `models`, whose ledger is in the folder."""
    return {
        "ledger": {"url": f"sqlite:///{folder}/ledger.db"},
        "prices": {model: {"input": rate.input, "output": rate.output} for model, rate in MANIFEST.prices.items()},
        "upstreams": {model: {"kind": "scripted", "model": model} for model in MANIFEST.models},
        "routes": {"sums": {"strategy": "cascade", "teacher": "big", "policy": str(folder / policy), **route}},
    }


def written(folder: Path, policy: Mapping[str, Any], name: str = "policy.yaml") -> str:
    """The policy as a file of the folder; its name."""
    (folder / name).write_text(yaml.safe_dump(dict(policy)), "utf-8")
    return name
