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

QUICK: Mapping[str, Shape] = {"gsm8k": Shape((20, 40, 60), 40, (0, 8)), "csqa": Shape((30, 60), 30, (0,))}
"""What fits into ten minutes on two cores, on a recorded teacher and a small student."""

METHODS: Sequence[Strategy] = ("cut-off", "concise", "hint")


def cells(shapes: Mapping[str, Shape], teacher: str, student: str, *, batch: int, recorded: bool = False) -> list[Cell]:
    """The cells, in the order in which they are missed most: a run that has to stop lacks the last.

    First both models alone and the usual guidance, then the other budgets and methods, last what varies exemplars.
    `batch`: questions under way at once. The teacher is also asked one at a time, the paper's baseline of speed.
    """
    return [
        cell
        for rank in (_first, _others, _varied)
        for task, shape in shapes.items()
        for cell in rank(task, shape, teacher, student, batch, recorded)
    ]


def _first(task: str, shape: Shape, teacher: str, student: str, batch: int, recorded: bool) -> Iterator[Cell]:
    usual = shape.shots[0]
    yield Cell(task, "teacher", teacher=teacher, exemplars=usual, concurrency=batch)
    if batch != 1:
        yield Cell(task, "teacher", teacher=teacher, exemplars=usual)
    yield Cell(task, "student", student=student, exemplars=usual, concurrency=batch)
    yield Cell(task, "cut-off", shape.usual, teacher, student, usual, batch)


def _others(task: str, shape: Shape, teacher: str, student: str, batch: int, recorded: bool) -> Iterator[Cell]:
    usual = shape.shots[0]
    for method in METHODS[:1] if recorded else METHODS:
        for tokens in shape.budgets:
            if (method, tokens) != ("cut-off", shape.usual):
                yield Cell(task, method, tokens, teacher, student, usual, batch)
    for tokens in shape.budgets:  # made from the guidance of the cells above
        yield Cell(task, "cut-text", tokens, teacher, None, usual, batch)


def _varied(task: str, shape: Shape, teacher: str, student: str, batch: int, recorded: bool) -> Iterator[Cell]:
    for shots in shape.shots[1:]:
        yield Cell(task, "student", None, None, student, shots, batch)
        if not recorded:
            yield Cell(task, "teacher", None, teacher, None, shots, batch)
            yield Cell(task, "cut-off", shape.usual, teacher, student, shots, batch)
