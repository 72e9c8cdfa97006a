"""Trials: what policies of any shape come to on some questions, whatever is to be vouched for.

Each shape - a ladder of students, limits of tokens - is played once, at all worths, on questions that its weights were
not fitted on (cross-fitting). Who looks for policies at several goals, or picks again, plays nothing twice.
Needs numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import ceil

import numpy as np
from numpy.typing import NDArray

from evals import fit
from evals.fit import Shape, Step, Walked
from evals.recorded import Manifest, Question
from gateway.cascade.policy import Observed

WORTHS = tuple(float(each) for each in np.geomspace(0.01, 2.0, 55))
"""Accuracy that one mean teacher's answer must bring, from nearly anything to more than it can."""

FOLDS = 5

PERCENTILES = (97, 90, 80)
"""Limits of tokens that are tried: these percentiles of what the model wrote, rounded up to `ROUND`."""
ROUND = 16

Trial = tuple[float, fit.Vector, fit.Vector]
"""A worth, with the score and the cost of each question at it."""


class Trials:
    """Plays shapes of ladders on `questions`; `seed` draws the folds."""

    def __init__(self, questions: Sequence[Question], manifest: Manifest, *, seed: int = 0) -> None:
        self.questions, self.manifest, self.seed = questions, manifest, seed
        self.teachers = [question.arms[manifest.teacher] for question in questions]
        self.teacher = np.array([arm.score for arm in self.teachers])
        """Scores of the teacher."""
        self.unit = float(np.mean([arm.cost for arm in self.teachers])) if questions else 0.0
        """What a mean answer of the teacher's costs, in nano-dollars."""
        self._folds = np.array_split(np.random.default_rng(seed).permutation(len(questions)), FOLDS)
        names = (*manifest.students, *manifest.rungs)
        self._score = {name: sum(question.arms[name].score for question in questions) for name in names}
        self._played: dict[Shape, list[Trial]] = {}
        self._built: tuple[Shape, list[Step]] | None = None
        self.prefer = self._preferred(manifest.students)
        """The students, the best first."""

    def _preferred(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(names, key=lambda name: -self._score[name]))

    def free(self, ladder: tuple[str, ...]) -> Shape:
        """A ladder with no other limits than those that the students were recorded with."""
        return Shape(ladder, self.prefer, tuple(self.manifest.limits.get(name) for name in ladder))

    def limits(self, model: str) -> list[int]:
        """The limits of tokens worth trying for a model."""
        written = [question.arms[model].written for question in self.questions]
        found = {ceil(float(np.percentile(written, share)) / ROUND) * ROUND for share in PERCENTILES}
        most = self.manifest.limits.get(model)
        return sorted(found if most is None else {min(limit, most) for limit in found})

    def limited(self, shape: Shape) -> Iterator[Shape]:
        """The same ladder, with its students limited at one percentile."""
        for place in range(len(PERCENTILES)):
            limits = [self.limits(name) for name in shape.ladder]
            yield replace(shape, limits=tuple(each[min(place, len(each) - 1)] for each in limits))

    def guided(self, shape: Shape) -> Iterator[Shape]:
        """The ladder or the beginning of it, and then guidance that grows, gone on from by one student or several.

        Of the lengths of guidance that there are the shorter always come first, as they did when they were recorded.
        """
        lengths = sorted({rung.tokens for rung in self.manifest.guided})
        at = {tokens: [name for name, r in self.manifest.rungs.items() if r.tokens == tokens] for tokens in lengths}
        for height in range(len(shape.ladder) + 1):
            tried: set[tuple[str, ...]] = set()
            for grown, wide in product(range(1, len(lengths) + 1), range(1, len(self.manifest.students) + 1)):
                rungs = tuple(name for tokens in lengths[:grown] for name in at[tokens][:wide])
                if rungs not in tried:
                    tried.add(rungs)
                    limits = (*shape.limits[:height], *(self.manifest.limits.get(name) for name in rungs))
                    prefer = self._preferred((*self.manifest.students, *rungs))
                    made = replace(shape, ladder=(*shape.ladder[:height], *rungs), limits=limits, prefer=prefer)
                    yield from (replace(made, agreed=agreed) for agreed in (False, True)[: len(made.ladder)])

    def played(self, shape: Shape) -> Sequence[Trial]:
        """At each worth at which all guidance pays, what it comes to."""
        if shape not in self._played:
            self._played[shape] = [(worth, whole.score, whole.cost) for worth, whole in self._walks(shape)]
        return self._played[shape]

    def _walks(self, shape: Shape) -> Iterator[tuple[float, Walked]]:
        """What became of the questions at each worth, as far as all guidance pays there."""
        rungs = self.steps(shape)
        if shape.agreed:  # nothing was learnt, and nothing has to be kept from it
            whole = fit.walk(rungs, fit.agreement(rungs), 0.0)
            if self._paying(shape, rungs, whole):
                yield 0.0, whole
            return
        everything = np.arange(len(self.questions))
        worths = np.array(WORTHS)[:, np.newaxis]
        walked = fit.blank(len(WORTHS), len(everything))
        for fold in self._folds:
            rest = np.setdiff1d(everything, fold)
            weighings = fit.fit([step.of(rest) for step in rungs], worths)
            walked.put(fold, fit.walk([step.of(fold) for step in rungs], weighings, worths))
        for place, worth in enumerate(WORTHS):
            whole = walked.at(place)
            if self._paying(shape, rungs, whole):
                yield worth, whole

    def steps(self, shape: Shape) -> list[Step]:
        """The rungs of a shape; the gate over it has the same, and is asked for next."""
        wanted = replace(shape, agreed=False)
        if self._built is None or self._built[0] != wanted:
            self._built = wanted, fit.steps(self.questions, self.manifest, wanted, self.unit)
        return self._built[1]

    def _paying(self, shape: Shape, rungs: Sequence[Step], walked: Walked) -> bool:
        """Whether all guidance keeps more from the teacher than it costs of its answers.

        A gateway would not climb it otherwise (`gateway.cascade.gate`).
        """
        named = self.manifest.rungs
        tokens = [named[name].tokens if name in named else 0 for name in shape.ladder]
        begins = [height for height, length in enumerate(tokens) if length and length not in tokens[:height]]
        seen = [observed(rungs, walked, height) for height in begins]
        return all(each.asked == 0 or each.kept > each.needed for each in seen)

    def sure(self, name: str) -> bool:
        """Whether all drafts of that name told their log-probabilities, so that nobody saw what it means if not."""
        arms = [question.arms[name] for question in self.questions]
        return all(arm.complete or (arm.logprob is not None and arm.least is not None) for arm in arms)


def observed(rungs: Sequence[Step], walked: Walked, height: int) -> Observed:
    came = walked.ended >= height
    asked = int(came.sum())
    if asked == 0:
        return Observed(asked=0, accepted=0, escalated=0, kept=0, needed=0)
    here = came & (walked.ended == height)
    spent = sum(float(rungs[rung].asked[walked.ended >= rung].sum()) for rung in range(height, len(rungs)))
    return Observed(
        asked=asked,
        accepted=share(here & ~walked.escalated, asked),
        escalated=share(here & walked.escalated, asked),
        kept=share(came & ~walked.escalated, asked),
        needed=round(spent / float(rungs[height].teacher_cost[came].sum()), 4),
    )


def share(which: NDArray[np.bool_], of: int) -> float:
    """The part of so many."""
    return round(int(which.sum()) / of, 4)
