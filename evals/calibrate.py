"""Calibrate: from answers that are scored to the cheapest policy whose retention can be vouched for.

Every candidate - a ladder of students, limits of tokens, a worth of accuracy - is judged on questions that its weights
were not fitted on (cross-fitting). The cheapest of those whose retention's lower bound is at least the target is then
fitted on all questions given. Needs numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from statistics import NormalDist

import numpy as np

from evals import fit
from evals.fit import Shape, Step
from evals.recorded import Manifest, Question
from evals.trials import Trials, observed
from gateway.cascade.policy import Policy, Rung, Teacher

RUNGS = 5
WIDTH = 8
"""Ladders of each height that are built upon, the most promising ones; of three students that is all there are."""

RESAMPLES = 100
LEAST = 100
"""Questions below which nothing is claimed."""


class Unsupported(Exception):
    """The data cannot support the claim; the message says why, and how much data would.

    `needed`: how many questions to calibrate on would do, all else equal; None: nobody can say, or none would.
    """

    def __init__(self, message: str, needed: int | None = None) -> None:
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be vouched for: a retention of at least `retention`, with one-sided `confidence` (0.5: on average)."""

    retention: float
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not (0 < self.retention <= 1 and 0.5 <= self.confidence < 1):
            raise ValueError(f"no goal: retention {self.retention}, confidence {self.confidence}")


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A policy before it is fitted, with what cross-fitting says of it: `scores` and `costs` of each question.

    `low` is the lower bound of retention. Neither bound nor `retention` knows how many others there were.
    """

    shape: Shape
    worth: float
    share: float
    retention: float
    low: float
    needed: float
    """Questions at which `low` would reach the goal, all else equal; infinite when none would."""
    scores: fit.Vector
    costs: fit.Vector


def calibrate(questions: Sequence[Question], manifest: Manifest, goal: Goal, *, seed: int = 0) -> Policy:
    """The cheapest policy that is vouched for on `questions`, which should be the calibration half and nothing else.

    Raises `Unsupported` when there are too few questions, when the teacher is never right or free, or when no policy
    that is cheaper than the teacher alone has a lower bound at the goal.
    """
    return picked(Trials(questions, manifest, seed=seed), goal)


def picked(trials: Trials, goal: Goal) -> Policy:
    """The same of trials that may have been made for another goal."""
    count, teacher = len(trials.questions), trials.teacher
    if count < LEAST:
        raise Unsupported(f"{count} questions; nothing is claimed below {LEAST}", LEAST)
    if not teacher.any():
        raise Unsupported("the teacher is never right here, so there is no accuracy to keep")
    if not trials.unit:
        raise Unsupported("the teacher costs nothing here, so there is nothing to save")
    search = _Search(trials, goal)
    best = search.best()
    # What was picked looks better than it is, the more so the more there was to pick from: once more, so much stricter.
    search.flattery = flattery(search.seen, teacher, goal, seed=trials.seed)
    if search.flattery > 0:
        best = search.best()
    if search.reaches(best) and best.share < 1:
        return search.fitted(best)
    near = search.nearest
    if near is None:
        raise Unsupported(f"no policy that keeps {goal.retention:g} is cheaper here than the teacher alone")
    much = "no number of questions would" if near.needed == inf else f"about {ceil(near.needed)} would"
    raise Unsupported(
        f"{count} questions do not support a retention of {goal.retention:g} with confidence {goal.confidence:g}: "
        f"the best policy keeps {near.retention - search.flattery:.4f}, at least {near.low - search.flattery:.4f}; "
        f"{much}, all else equal",
        None if near.needed == inf else ceil(near.needed),
    )


def flattery(seen: Sequence[Candidate], teacher: fit.Vector, goal: Goal, *, seed: int = 0) -> float:
    """By how much the retention of the cheapest candidate that reaches the goal is too high, for being picked.

    On resamples of the questions the pick is made anew, and held against the questions that the resample left out
    (bootstrap, 0.632 of the difference: Efron 1983). Never below 0; 0 where no resample has a pick.
    """
    count, z = len(teacher), NormalDist().inv_cdf(goal.confidence)
    scores, costs = (np.array([getattr(each, name) for each in seen]) for name in ("scores", "costs"))
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(float).T
    mean = teacher @ weights / count
    kept = scores @ weights / count / mean
    squares = (scores**2) @ weights - 2 * kept * (scores * teacher @ weights) + kept**2 * (teacher**2 @ weights)
    low = kept - z * np.sqrt(np.maximum(squares, 0) + 2) / count / mean
    share = costs @ weights / count
    share = np.where((low >= goal.retention) & (share < 1), share, np.inf)
    picked, tries = share.argmin(axis=0), np.arange(RESAMPLES)
    out = (weights == 0).astype(float)
    outside = (scores @ out)[picked, tries] / (teacher @ out)
    some = np.isfinite(share[picked, tries])
    return max(0.0, 0.632 * float((kept[picked, tries] - outside)[some].mean())) if some.any() else 0.0


class _Search:
    def __init__(self, trials: Trials, goal: Goal) -> None:
        self._trials, self._goal = trials, goal
        self._manifest = trials.manifest
        self.seen: list[Candidate] = []
        """All candidates that were judged."""
        self.flattery = 0.0
        """By how much the retention of whichever is picked of them is too high."""
        self.nearest: Candidate | None = None
        """Of all candidates cheaper than the teacher, the one for whose claim the fewest questions would do."""

    def best(self) -> Candidate:
        """The cheapest candidate that reaches the goal; where none does, the one that comes nearest."""
        self.seen, self.nearest = [], None
        best = self.tallest()
        # Limits are looked for at the ladder that was found: first the students', then the teacher's.
        best = self.cheapest(self._trials.limited(best.shape), best)
        capped = (replace(best.shape, teacher_limit=limit) for limit in self._trials.limits(self._manifest.teacher))
        best = self.cheapest(capped, best)
        # Then guidance, where answers under guidance are known, for what the ladder or a part of it does not accept.
        return self.cheapest(self._trials.guided(best.shape), best)

    def reaches(self, candidate: Candidate) -> bool:
        """Whether its lower bound, less what it is flattered by, is at the goal."""
        return candidate.low - self.flattery >= self._goal.retention

    def tallest(self) -> Candidate:
        """The best ladder of up to `RUNGS` students in any order: weighed, or with the simple gate over it."""
        found: Candidate | None = None
        ladders: list[tuple[str, ...]] = [()]
        for _ in range(min(RUNGS, len(self._manifest.students))):
            grown = [(*lower, name) for lower in ladders for name in self._manifest.students if name not in lower]
            best = {ladder: self.cheapest(self._over(ladder)) for ladder in grown}
            found = self._better([*best.values(), *([] if found is None else [found])])
            ladders = sorted(grown, key=lambda ladder: self._rank(best[ladder]))[:WIDTH]
        if found is None:
            raise Unsupported("there is no student to ask")
        return found

    def _over(self, ladder: tuple[str, ...]) -> Iterator[Shape]:
        yield self._trials.free(ladder)
        if len(ladder) > 1:
            yield replace(self._trials.free(ladder), agreed=True)

    def _rank(self, candidate: Candidate) -> tuple[bool, float]:
        """Least is best: those that reach the goal by what they cost, then the others by how near they come."""
        reaches = self.reaches(candidate)
        return not reaches, candidate.share if reaches else -candidate.low

    def _better(self, found: Sequence[Candidate]) -> Candidate:
        return min(found, key=self._rank)

    def cheapest(self, shapes: Iterator[Shape], than: Candidate | None = None) -> Candidate:
        """The cheapest candidate that reaches the goal; where none does, the one that comes nearest."""
        found = [] if than is None else [than]
        for shape in shapes:
            made = list(self._candidates(shape))
            self.seen += made
            found += made
        cheaper = [each for each in found if each.share < 1]
        known = [] if self.nearest is None else [self.nearest]
        self.nearest = min([*known, *cheaper], key=lambda each: (each.needed, -each.low), default=None)
        return self._better(found)

    def _candidates(self, shape: Shape) -> Iterator[Candidate]:
        return (self._judged(shape, *each) for each in self._trials.played(shape))

    def _judged(self, shape: Shape, worth: float, score: fit.Vector, cost: fit.Vector) -> Candidate:
        """The lower bound by Fieller's argument: the mean of policy - rho x teacher is above 0 below it."""
        count, mean = len(score), float(self._trials.teacher.mean())
        retention = float(score.mean()) / mean
        z = NormalDist().inv_cdf(self._goal.confidence)
        # Two pairs are added, one lost and one won, so that no difference seen is not taken for certainty.
        spread = float(np.sqrt(((score - retention * self._trials.teacher) ** 2).sum() + 2) / count)
        low = retention - z * spread / mean
        margin = retention - self.flattery - self._goal.retention
        needed = count * (z * spread / mean / margin) ** 2 if margin > 0 else inf
        return Candidate(shape, worth, float(cost.mean()), retention, low, needed, score, cost)

    def fitted(self, best: Candidate) -> Policy:
        """The candidate, fitted on all questions, with its evidence."""
        rungs = self._trials.steps(best.shape)
        weighings = fit.agreement(rungs) if best.shape.agreed else fit.fit(rungs, best.worth)
        walked = fit.walk(rungs, weighings, best.worth)
        named = self._manifest.rungs
        made = [
            Rung(
                kind="guidance" if name in named else "draft",
                student=named[name].student if name in named else name,
                guidance_tokens=named[name].tokens if name in named else 0,
                max_tokens=limit,
                logprobs=self._trials.sure(name) or None,
                gain=_named(step, weighing.gain),
                cost=_named(step, weighing.cost),
                next=None if weighing.next is None else _named(step, weighing.next),
                observed=observed(rungs, walked, height),
            )
            for height, (name, limit, step, weighing) in enumerate(
                zip(best.shape.ladder, best.shape.limits, rungs, weighings, strict=True)
            )
        ]
        return Policy(
            name=self._manifest.name,
            kind=self._manifest.answer,
            teacher=Teacher(model=self._manifest.teacher, max_tokens=best.shape.teacher_limit),
            worth=_rounded(best.worth),
            prefer=list(best.shape.prefer),
            rungs=made,
            evidence={
                "questions": len(self._trials.questions),
                "target": {"retention": self._goal.retention, "confidence": self._goal.confidence},
                "retention": round(best.retention - self.flattery, 4),
                "retention_low": round(best.low - self.flattery, 4),
                "flattery": round(self.flattery, 4),
                "cost_share": round(best.share, 4),
                "teacher_accuracy": round(float(self._trials.teacher.mean()), 4),
                "mean_teacher_tokens": {
                    "input": round(float(np.mean([arm.read for arm in self._trials.teachers])), 1),
                    "output": round(float(np.mean([arm.written for arm in self._trials.teachers])), 1),
                },
                "mean_teacher_answer_usd": float(f"{self._trials.unit / 1e6:.4g}"),
                "prices": {
                    model: self._manifest.prices[model].model_dump()
                    for model in dict.fromkeys((self._manifest.teacher, *(rung.student for rung in made)))
                },
                "recorded": self._manifest.recorded or "unknown",
            },
        )


def _named(step: Step, weights: fit.Vector) -> dict[str, float]:
    """Weights by the names of their signals, without those that never counted."""
    return {
        name: _rounded(float(weight))
        for name, weight in zip(step.names, weights, strict=True)
        if name == "one" or abs(weight) >= 5e-6
    }


def _rounded(weight: float) -> float:
    return round(weight, 5)
