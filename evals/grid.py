"""The grid of the paper: which cells answer its tables and figures, for whatever teacher and student there are.

A recorded teacher has one text for a question, whatever it is asked: it can be cut, and nothing else. Concise answers
and guidance, hints and its answers below exemplars would be another prompt's, so cells that need them are left out, not
made up. What can be had is the teacher under a cap: `cut-text` at more tokens than guidance has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evals.results import Cell, Strategy


@dataclass(frozen=True, slots=True)
class Shape:
    """What is varied on one task. `usual` tokens of guidance are the paper's for it; the first of `shots` is usual.

    `cap`: tokens at which a recorded teacher's whole answer is cut, beside guidance; None: it is not.
    """

    budgets: Sequence[int]
    usual: int
    shots: Sequence[int]
    cap: int | None = None


FULL: Mapping[str, Shape] = {
    "gsm8k": Shape((10, 20, 30, 40, 50, 60), 40, (8, 0, 2, 4)),
    "csqa": Shape((10, 20, 30, 40, 50, 60), 30, (7, 0, 2, 4)),
}
"""The paper's budgets and exemplars (8 for GSM8K, 7 for CommonsenseQA); a budget of 0 is the student alone."""

CAPS: Mapping[str, int] = {"gsm8k": 240, "csqa": 220}
"""About the 90th percentiles of ChatGPT's recorded answers, which are 241 and 222 tokens long."""

RECORDED: Mapping[str, Shape] = {
    name: Shape(shape.budgets, shape.usual, (0, *(shots for shots in shape.shots if shots)), CAPS[name])
    for name, shape in FULL.items()
}
"""The same for a teacher that was recorded without exemplars."""

QUICK: Mapping[str, Shape] = {
    "gsm8k": Shape((20, 40, 60), 40, (0, 8), CAPS["gsm8k"]),
    "csqa": Shape((30, 60), 30, (0,), CAPS["csqa"]),
}
"""What fits into ten minutes on two cores, on a recorded teacher and a small student."""

METHODS: Sequence[Strategy] = ("cut-off", "concise", "hint")


def cells(
    shapes: Mapping[str, Shape], teacher: str, student: str, *, batch: int, recorded: bool = False, base: bool = False
) -> list[Cell]:
    """The cells, in the order in which they are missed most: a run that has to stop lacks the last.

    First both models alone, the teacher asked to be concise and the usual guidance, then the other budgets and methods,
    last what varies exemplars, which a `base` student reads always and beside the chat, so that they are not varied.
    `batch`: questions under way at once. A live teacher is also asked one at a time, the paper's baseline of speed.
    """
    ranks = (_first, _others) if base else (_first, _others, _varied)
    return [
        cell
        for rank in ranks
        for task, shape in shapes.items()
        for cell in rank(task, shape, teacher, student, batch, recorded)
    ]


def _first(task: str, shape: Shape, teacher: str, student: str, batch: int, recorded: bool) -> Iterator[Cell]:
    usual = shape.shots[0]
    yield Cell(task, "teacher", teacher=teacher, exemplars=usual, concurrency=batch)
    if batch != 1 and not recorded:  # a recording has no speed
        yield Cell(task, "teacher", teacher=teacher, exemplars=usual)
    yield Cell(task, "student", student=student, exemplars=usual, concurrency=batch)
    if not recorded:
        yield Cell(task, "teacher-concise", teacher=teacher, exemplars=usual, concurrency=batch)
    yield Cell(task, "cut-off", shape.usual, teacher, student, usual, batch)


def _others(task: str, shape: Shape, teacher: str, student: str, batch: int, recorded: bool) -> Iterator[Cell]:
    usual = shape.shots[0]
    for method in METHODS[:1] if recorded else METHODS:
        for tokens in shape.budgets:
            if (method, tokens) != ("cut-off", shape.usual):
                yield Cell(task, method, tokens, teacher, student, usual, batch)
    for tokens in shape.budgets:  # made from the guidance of the cells above
        yield Cell(task, "cut-text", tokens, teacher, None, usual, batch)
    if recorded and shape.cap is not None:
        yield Cell(task, "cut-text", shape.cap, teacher, None, usual, batch)


def _varied(task: str, shape: Shape, teacher: str, student: str, batch: int, recorded: bool) -> Iterator[Cell]:
    for shots in shape.shots[1:]:
        yield Cell(task, "student", None, None, student, shots, batch)
        if not recorded:
            yield Cell(task, "teacher", None, teacher, None, shots, batch)
            yield Cell(task, "cut-off", shape.usual, teacher, student, shots, batch)
