"""The grid of the paper: which cells answer its tables and figures, for whatever teacher and student there are.

A recorded teacher has one text for a question, whatever it is asked: it can be cut, and nothing else. Concise guidance,
hints and its answers below exemplars would be another prompt's, so cells that need them are left out, not made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evals.results import Cell, Strategy


@dataclass(frozen=True, slots=True)
class Shape:
    """What is varied on one task. `usual` tokens of guidance are the paper's for it; the first of `shots` is usual."""

    budgets: Sequence[int]
    usual: int
    shots: Sequence[int]


FULL: Mapping[str, Shape] = {
    "gsm8k": Shape((10, 20, 30, 40, 50, 60), 40, (8, 0, 2, 4)),
    "csqa": Shape((10, 20, 30, 40, 50, 60), 30, (7, 0, 2, 4)),
}
"""The paper's budgets and exemplars (8 for GSM8K, 7 for CommonsenseQA); a budget of 0 is the student alone."""

RECORDED: Mapping[str, Shape] = {
    name: Shape(shape.budgets, shape.usual, (0, *(shots for shots in shape.shots if shots)))
    for name, shape in FULL.items()
}
"""The same for a teacher that was recorded without exemplars."""

QUICK: Mapping[str, Shape] = {"gsm8k": Shape((20, 40, 60), 40, (0, 8)), "csqa": Shape((10, 30, 60), 30, (0,))}
"""What fits into ten minutes on two cores, on a recorded teacher and a small student."""

METHODS: Sequence[Strategy] = ("cut-off", "concise", "hint")


def cells(
    shapes: Mapping[str, Shape], teacher: str, student: str, *, batch: int, recorded: bool = False
) -> Iterator[Cell]:
    """The cells, those that the others are compared with first. `batch`: questions under way at once.

    The teacher is also asked one question at a time, which is the paper's baseline of speed.
    """
    for task, shape in shapes.items():
        usual, *others = shape.shots
        both = {"teacher": teacher, "student": student}
        yield Cell(task, "teacher", teacher=teacher, exemplars=usual, concurrency=batch)
        if batch != 1:
            yield Cell(task, "teacher", teacher=teacher, exemplars=usual)
        yield Cell(task, "student", student=student, exemplars=usual, concurrency=batch)
        for tokens in shape.budgets:
            yield Cell(task, "cut-text", tokens, teacher, exemplars=usual, concurrency=batch)
        for method in METHODS[:1] if recorded else METHODS:
            for tokens in shape.budgets:
                yield Cell(task, method, tokens, exemplars=usual, concurrency=batch, **both)
        for shots in others:
            yield Cell(task, "student", student=student, exemplars=shots, concurrency=batch)
            if not recorded:
                yield Cell(task, "teacher", teacher=teacher, exemplars=shots, concurrency=batch)
                yield Cell(task, "cut-off", shape.usual, exemplars=shots, concurrency=batch, **both)
