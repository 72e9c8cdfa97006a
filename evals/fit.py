"""Fit: the weights of a cascade's policy, by regression from the last rung back to the first.

What a move is worth at a rung is a linear form over the rung's signals: what the teacher adds to the best draft, what
the teacher costs, what the next rung adds under the policy that is followed from there. The last needs the rungs above
to be fitted first, as in Longstaff and Schwartz (2001). Needs numpy.

A `worth` may be a column of many (worths x 1): then all that depends on it has a row for each, exactly as if it had
been asked for by itself. Only products with signals are taken row by row: a product of matrices rounds otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evals.recorded import Manifest, Question
from evals.replay import cut, draft
from gateway.cascade.signals import Reading, read

Vector: TypeAlias = NDArray[np.float64]

PENALTY = 2.0
"""Ridge penalty on every weight but that of `one`: as if two more questions had shown no effect of the signal."""

ACCEPT, ASK, ESCALATE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Shape:
    """What stands before the weights: the ladder, whose word counts first, and the limits of tokens.

    `agreed`: nothing is weighed, two drafts that agree are believed and else the teacher is asked (`agreement`).
    """

    ladder: tuple[str, ...]
    prefer: tuple[str, ...]
    limits: tuple[int | None, ...]
    teacher_limit: int | None = None
    agreed: bool = False


@dataclass(frozen=True)
class Step:
    """All questions at one rung, had they come to it: signals (questions x names), the best draft's score, its cost.

    `teacher` and `teacher_cost` are what escalating from here brings: of a teacher that was cut, the best draft.
    Costs are in mean teacher's answers (not cut), `asked` the cost of this rung's own draft, and of the guidance that
    it is the first to go on from. `over`: the teacher had ended within its guidance, here or further down, so that
    nothing is decided here; `best` is then its answer's score. Such questions teach the weights nothing.
    """

    names: tuple[str, ...]
    signals: Vector
    best: Vector
    asked: Vector
    teacher: Vector
    teacher_cost: Vector
    over: NDArray[np.bool_]

    @cached_property
    def ridge(self) -> _Ridge:
        """Regression over these signals."""
        return _Ridge(self.signals, ~self.over)

    @cached_property
    def escalation(self) -> tuple[Vector, Vector]:
        """The weights of what the teacher adds, and of what it costs: the same at every worth."""
        return self.ridge(self.teacher - self.best), self.ridge(self.teacher_cost)

    def of(self, rows: NDArray[np.intp]) -> Step:
        """The same, of some questions."""
        return Step(
            self.names,
            self.signals[rows],
            self.best[rows],
            self.asked[rows],
            self.teacher[rows],
            self.teacher_cost[rows],
            self.over[rows],
        )


@dataclass(frozen=True, slots=True)
class Weighing:
    """The three linear forms of a rung; `next` is None on the last."""

    gain: Vector
    cost: Vector
    next: Vector | None


@dataclass(frozen=True, slots=True)
class Walked:
    """What became of each question: score, cost, the rung where it ended, and whether it went to the teacher.

    At many worths each has a row for every one of them.
    """

    score: Vector
    cost: Vector
    ended: NDArray[np.intp]
    escalated: NDArray[np.bool_]

    def put(self, rows: NDArray[np.intp], of: Walked) -> None:
        """What became of some of the questions, into its place among all."""
        for mine, theirs in zip(self._columns, of._columns, strict=True):
            mine[..., rows] = theirs

    def at(self, worth: int) -> Walked:
        """Of many worths the one at that place."""
        return Walked(*(column[worth] for column in self._columns))

    @property
    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.score, self.cost, self.ended, self.escalated


def blank(*shape: int) -> Walked:
    """Of so many questions nothing yet; (worths, questions) for many worths."""
    return Walked(np.zeros(shape), np.zeros(shape), np.zeros(shape, np.intp), np.zeros(shape, np.bool_))


def steps(questions: Sequence[Question], manifest: Manifest, shape: Shape, unit: float) -> list[Step]:
    """The rungs of a ladder over questions; `unit` is the cost of a mean teacher's answer, in micro-dollars."""
    last = [cut(question, manifest.teacher, shape.teacher_limit, manifest) for question in questions]
    whole = np.array([each.whole for each in last])
    score = np.array([each.score for each in last])
    teacher_cost = np.array([each.cost for each in last]) / unit
    asks = tuple(zip(shape.ladder, shape.limits, strict=True))
    told = [[cut(question, *ask, manifest) for question in questions] for ask in asks]
    over = np.zeros(len(questions), np.bool_)
    begun: set[int] = set()
    made = []
    for height, name in enumerate(shape.ladder):
        seen = [_reading(question, asks[: height + 1], shape.prefer) for question in questions]
        names = tuple(seen[0].signals)
        asked = np.array([each.cost for each in told[height]])
        guided = manifest.rungs.get(name)
        if guided is not None and guided.tokens not in begun:
            begun.add(guided.tokens)
            asked = asked + np.array([question.arms[name].begun for question in questions])
        best = np.array([told[one.best][row].score for row, one in enumerate(seen)])
        ends = np.array([question.arms[name].complete for question in questions]) & ~over
        best = np.where(ends, np.array([each.score for each in told[height]]), best)
        over = over | ends
        made.append(
            Step(
                names,
                np.array([tuple(one.signals.values()) for one in seen]),
                best,
                asked / unit,
                np.where(whole, score, best),
                teacher_cost,
                over,
            )
        )
    return made


@lru_cache(maxsize=400_000)
def _reading(question: Question, asks: tuple[tuple[str, int | None], ...], prefer: tuple[str, ...]) -> Reading:
    """What the drafts of a question show. Kept, since many ladders and splits ask for the same; it knows no score."""
    return read([draft(question, name, limit) for name, limit in asks], prefer)


def fit(rungs: Sequence[Step], worth: float | Vector) -> list[Weighing]:
    """The weights at which each move is expected to bring the most, at `worth` accuracy a mean teacher's answer."""
    made: list[Weighing] = []
    future: Vector | None = None
    asked: Vector | None = None
    for step in reversed(rungs):
        gain, cost = step.escalation
        ahead = None if future is None or asked is None else future - step.best - worth * asked
        further = None if ahead is None else step.ridge(ahead)
        weighing = Weighing(gain, cost, further)
        move = moves(step, weighing, worth)
        value = step.best + np.where(move == ESCALATE, step.teacher - step.best - worth * step.teacher_cost, 0.0)
        future = value if ahead is None else value + np.where(move == ASK, ahead, 0.0)
        asked = step.asked
        made.append(weighing)
    return made[::-1]


def agreement(rungs: Sequence[Step]) -> list[Weighing]:
    """The weights of the simple gate: drafts until two agree, which are believed; after the last one the teacher.

    They owe nothing to the questions, and so promise nothing that is not so.
    """

    def form(step: Step, **weights: float) -> Vector:
        return np.array([weights.get(name, 0.0) for name in step.names])

    last = len(rungs) - 1
    return [
        Weighing(
            form(step, alone=1.0) if height else form(step, one=float(not last)),
            form(step, one=1.0),
            None if height == last else form(step, alone=2.0) if height else form(step, one=2.0),
        )
        for height, step in enumerate(rungs)
    ]


def moves(step: Step, weighing: Weighing, worth: float | Vector) -> NDArray[np.intp]:
    """The move at a rung for each question: the same rule as `gateway.cascade.policy.decide`, over columns."""
    teacher = step.signals @ weighing.gain - worth * (step.signals @ weighing.cost)
    further = -np.inf if weighing.next is None else _each(step.signals.__matmul__, weighing.next)
    ask = further > np.maximum(0.0, teacher)
    return np.where(step.over, ACCEPT, np.where(ask, ASK, np.where(teacher > 0, ESCALATE, ACCEPT)))


def walk(rungs: Sequence[Step], weighings: Sequence[Weighing], worth: float | Vector) -> Walked:
    """What the policy does with each question."""
    shape = np.broadcast_shapes(rungs[0].best.shape, np.shape(worth))
    start, open_ = blank(*shape), np.ones(shape, np.bool_)
    score, cost, ended, escalated = start.score, start.cost, start.ended, start.escalated
    for height, (step, weighing) in enumerate(zip(rungs, weighings, strict=True)):
        move = moves(step, weighing, worth)
        cost += open_ * step.asked
        accept, escalate = open_ & (move == ACCEPT), open_ & (move == ESCALATE)
        score = np.where(accept, step.best, np.where(escalate, step.teacher, score))
        cost += escalate * step.teacher_cost
        escalated |= escalate
        ended = np.where(accept | escalate, height, ended)
        open_ &= move == ASK
    return Walked(score, cost, ended, escalated)


def _each(product: Callable[[Vector], Vector], of: Vector) -> Vector:
    """The product with a vector, or with each row of many."""
    return product(of) if of.ndim == 1 else np.array([product(row) for row in of])


class _Ridge:
    """Least squares with a penalty, for several right sides over the same signals; the first signal goes free.

    `counts`: the rows to learn from.
    """

    def __init__(self, signals: Vector, counts: NDArray[np.bool_]) -> None:
        penalty = np.full(signals.shape[1], PENALTY)
        penalty[0] = 1e-6
        self._counts = counts
        self._signals = signals[counts]
        self._inverse = np.linalg.inv(self._signals.T @ self._signals + np.diag(penalty))

    def __call__(self, target: Vector) -> Vector:
        return _each(lambda each: self._inverse @ (self._signals.T @ each[self._counts]), target)
