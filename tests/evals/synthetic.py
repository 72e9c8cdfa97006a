"""A small workload that was made up: students of different strength, lengths that tell difficulty, a good teacher."""

from __future__ import annotations

import random
from collections.abc import Iterator

from evals.recorded import Manifest, Outcome, Rate

SMALL = Rate(input=0.1, output=0.1)
MANIFEST = Manifest(
    name="sums",
    teacher="big",
    students=["small", "other", "third"],
    prices={"big": Rate(input=2.5, output=10), "small": SMALL, "other": SMALL, "third": SMALL},
    answer="number",
    recorded="made up",
)
SKILL = {"big": 0.97, "small": 0.9, "other": 0.85, "third": 0.8}


def outcomes(count: int = 400, seed: int = 1) -> Iterator[Outcome]:
    """Answers whose wrong values rarely agree and whose length grows with difficulty."""
    draw = random.Random(seed)
    for number in range(count):
        right, hard = draw.randrange(1000), draw.random()
        for model, skill in SKILL.items():
            correct = draw.random() < skill + (1 - skill) * (0.5 - hard)
            said = right if correct else right + draw.randrange(1, 400)
            written = int(40 + 120 * hard + draw.randrange(20))
            yield Outcome(number, model, f"Question {number}?", f"The answer is {said}.", correct, 100, written)
