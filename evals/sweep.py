"""Sweep: the curve of a policy's family, from nearly always the teacher to never, as `worth` grows. Needs numpy.

The ladder and the limits stay; at each worth the weights are fitted anew on the questions to learn from, and judged on
the others. No point of the curve is picked by how it does there: the curve says what the family can reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np

from evals import fit
from evals.fit import Shape
from evals.recorded import Arm, Manifest, Question
from evals.trials import WORTHS
from gateway.cascade.policy import Policy
from pricing import tradeoff
from pricing.tradeoff import Point


class Swept(NamedTuple):
    """The family at one worth, over the questions judged: share sent to the teacher, mean micro-dollars and score."""

    worth: float
    calls: float
    cost: float
    score: float


class Along(NamedTuple):
    """APGR, CPT(0.5) and CPT(0.8) along one axis, as shares of the way from the student to the teacher.

    A CPT is None where the curve does not get there.
    """

    apgr: float
    cpt_50: float | None
    cpt_80: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """A policy's family from the first student alone to the teacher alone.

    `calls` has the share of questions sent to the teacher as its axis, `dollars` their cost; both are None where the
    teacher is not `pricing.tradeoff.LEAST_GAP` standard errors ahead of the student, `dollars` where it is no dearer.
    `aiq` is the mean accuracy of the family's Pareto hull between the student's cost and the teacher's, `aiq_random`
    that of mixing the two at random; None where the teacher is no dearer.
    """

    points: Sequence[Swept]
    calls: Along | None
    dollars: Along | None
    aiq: float | None
    aiq_random: float | None


def sweep(policy: Policy, learn: Sequence[Question], judge: Sequence[Question], manifest: Manifest) -> Iterator[Swept]:
    """The policy's ladder and limits at every worth that calibrating tries, learnt from `learn`."""
    shape = Shape(
        tuple(rung.who for rung in policy.rungs),
        tuple(policy.prefer),
        tuple(rung.max_tokens for rung in policy.rungs),
        policy.teacher.max_tokens,
    )
    unit = float(np.mean([question.arms[manifest.teacher].cost for question in learn]))
    seen, held = (fit.steps(questions, manifest, shape, unit) for questions in (learn, judge))
    for worth in WORTHS:
        walked = fit.walk(held, fit.fit(seen, worth), worth)
        cost, score = float(walked.cost.mean()) * unit, float(walked.score.mean())
        yield Swept(worth, float(walked.escalated.mean()), cost, score)


def curve(points: Sequence[Swept], student: Sequence[Arm], teacher: Sequence[Arm]) -> Curve:
    """What the points come to between two ends: the answers of the student and of the teacher to the same questions."""
    scores = [[arm.score for arm in arms] for arms in (student, teacher)]
    low, high = (
        Point(fmean(arm.cost for arm in arms), fmean(of)) for arms, of in zip((student, teacher), scores, strict=True)
    )
    ahead = tradeoff.recovered(scores[1], scores[0], scores[1]) is not None
    asked = [Point(each.calls, each.score) for each in points]
    paid = [Point(each.cost, each.score) for each in points]
    return Curve(
        points,
        _along(tradeoff.curve(asked, Point(0, low.accuracy), Point(1, high.accuracy))) if ahead else None,
        _along(tradeoff.curve(paid, low, high)) if ahead else None,
        tradeoff.aiq([low, high, *paid], low.cost, high.cost),
        tradeoff.aiq([low, high], low.cost, high.cost),
    )


def _along(found: list[tuple[float, float]] | None) -> Along | None:
    if found is None:
        return None
    return Along(tradeoff.apgr(found), tradeoff.cpt(found, 0.5), tradeoff.cpt(found, 0.8))
