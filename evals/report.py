"""Report: on recorded answers, policies beside the teacher, the students, a simple gate, random mixing and the oracle.

Two views, of which neither sees what it was calibrated on: the held half of the workload's own split, with intervals;
and the mean over random splits, each calibrated anew on one half and judged on the other, for claims about the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

from evals.calibrate import Goal, Unsupported, picked
from evals.recorded import Manifest, Question, Workload
from evals.replay import Played, cut, gate, play
from evals.sweep import Curve, curve, sweep
from evals.trials import Trials
from gateway.cascade.policy import Policy
from gateway.errors import ConfigError
from pricing import tradeoff
from pricing.intervals import mcnemar
from pricing.tradeoff import Comparison, NonInferiority, Option, Point

CAP = 0.9
"""The capped teacher is cut at this quantile of its lengths in the calibration half."""


@dataclass(frozen=True, slots=True)
class Row:
    """One arm on the held half. Shares of one; None is what the data do not say, or what makes no sense for the arm.

    `per_correct` are micro-dollars for one correct answer.
    """

    arm: str
    accuracy: float
    comparison: Comparison
    escalated: float | None
    recovered: float | None
    lift: float | None
    lost: int
    won: int
    p: float
    per_correct: float | None
    beside: NonInferiority


@dataclass(frozen=True, slots=True)
class Floor:
    """What a retention costs without a gate (`random`) and with perfect knowledge (`oracle`), in cost shares.

    None: it cannot be had so. `closed` is None where one of the two is.
    """

    retention: float
    random: float | None
    oracle: float | None
    closed: float | None


@dataclass(frozen=True, slots=True)
class Splits:
    """A goal over random splits: means over the held halves. A split whose calibration refused is the teacher alone.

    `promised`: the retention that cross-fitting told of the policy that was taken, on its own half, so that
    `promised - retention` is what picking the cheapest of many flattered it by; None: all refused. `random` and
    `oracle` are cost shares of what each split's policy kept, over the splits where they are known (None: in none).
    `gate` is the simple gate on the same held halves: its mean retention and cost share.
    """

    goal: Goal
    count: int
    retention: float
    retention_sd: float
    share: float
    share_sd: float
    reached: float
    refused: int
    promised: float | None
    random: float | None
    oracle: float | None
    gate: tuple[float, float]

    def misses(self, most: float | None) -> bool:
        """Whether the goal is missed at the cost share that it may take (None: any). The teacher alone is no policy."""
        dear = most is not None and self.share > most
        return dear or self.retention < self.goal.retention or self.refused == self.count


@dataclass(frozen=True, slots=True)
class Half:
    """The held half of the workload's own split: its rows; of each policy its floors and its curve."""

    questions: int
    calibrated: int
    rows: Sequence[Row]
    floors: dict[str, Floor]
    curves: dict[str, Curve]
    policies: dict[str, Policy]
    refused: dict[str, str]


def label(goal: Goal) -> str:
    """How a policy is called in the table."""
    return f"policy, rho {goal.retention:g} at {goal.confidence:g}"


def half(workload: Workload, goals: Sequence[Goal]) -> Half:
    """Calibrate on the calibration half, once a goal, and judge on the held half beside all other arms."""
    manifest = workload.manifest
    calibration, held = workload.halves()
    if not calibration or not held:
        raise ConfigError(f"{manifest.name}: too few questions to split into halves ({len(workload.questions)})")
    lengths = sorted(question.arms[manifest.teacher].written for question in calibration)
    cap = lengths[min(len(lengths) - 1, ceil(CAP * len(lengths)))]

    def alone(model: str, limit: int | None = None) -> Callable[[Question], Played]:
        def answer(question: Question) -> Played:
            told = cut(question, model, limit, manifest)
            teacher = model == manifest.teacher
            return Played("teacher" if teacher else "student", int(not teacher), teacher, told.score, told.cost)

        return answer

    arms: dict[str, Callable[[Question], Played]] = {
        f"teacher: {manifest.teacher}": alone(manifest.teacher),
        f"teacher, cut at {cap} tokens": alone(manifest.teacher, cap),
    }
    arms |= {f"student: {model}": alone(model) for model in manifest.students}
    arms |= {f"also: {model}": alone(model) for model in manifest.also}
    arms["simple gate: first two to agree"] = lambda question: gate(manifest, question)
    policies: dict[str, Policy] = {}
    refused: dict[str, str] = {}
    trials = Trials(calibration, manifest)
    for goal in goals:
        try:
            policy = policies[label(goal)] = picked(trials, goal)
        except Unsupported as error:
            refused[label(goal)] = str(error)
            continue
        arms[label(goal)] = lambda question, policy=policy: play(policy, manifest, question)  # type: ignore[misc]
    played = {name: [arm(question) for question in held] for name, arm in arms.items()}
    teacher, student = (played[name] for name in (f"teacher: {manifest.teacher}", f"student: {manifest.students[0]}"))
    rows = [_row(name, each, student, teacher) for name, each in played.items()]
    floors = {
        row.arm: _floor(row.comparison.retention or 0.0, row.comparison.cost_share, held, workload, student, teacher)
        for row in rows
        if row.arm in policies or row.arm.startswith("simple gate")
    }
    ends = [[question.arms[model] for question in held] for model in (manifest.students[0], manifest.teacher)]
    curves = {name: curve(list(sweep(policy, calibration, held, manifest)), *ends) for name, policy in policies.items()}
    return Half(len(held), len(calibration), rows, floors, curves, policies, refused)


def splits(
    workload: Workload, goals: Sequence[Goal], count: int, *, done: Callable[[], object] = lambda: None
) -> list[Splits]:
    """Calibrate and judge on `count` random splits (two or more), for each goal; `done` is called after each split."""
    manifest = workload.manifest
    kept: list[list[_Kept]] = [[] for _ in goals]
    gates: list[tuple[float, float]] = []
    for calibration, held in workload.splits(count):
        ends = [_alone(held, model, manifest) for model in (manifest.students[0], manifest.teacher)]
        baseline, trials = _columns(ends[1]), Trials(calibration, manifest)
        for goal, so_far in zip(goals, kept, strict=True):
            promised: float | None = None
            try:
                policy = picked(trials, goal)
            except Unsupported:
                played = ends[1]
            else:
                promised = float(policy.evidence["retention"])
                played = [play(policy, manifest, question) for question in held]
            retention, share = _beside(played, baseline)
            so_far.append(_Kept(_floor(retention, share, held, workload, *ends), share, promised))
        gates.append(_beside([gate(manifest, question) for question in held], baseline))
        done()
    gated = (fmean(each for each, _ in gates), fmean(each for _, each in gates))
    return [_over(goal, each, gated) for goal, each in zip(goals, kept, strict=True)]


class _Kept(NamedTuple):
    """What one split came to; `promised` by a policy, None where there was none."""

    floor: Floor
    share: float
    promised: float | None


def _over(goal: Goal, kept: Sequence[_Kept], gated: tuple[float, float]) -> Splits:
    retentions, shares = [each.floor.retention for each in kept], [each.share for each in kept]
    return Splits(
        goal,
        len(kept),
        fmean(retentions),
        stdev(retentions),
        fmean(shares),
        stdev(shares),
        sum(each >= goal.retention for each in retentions) / len(kept),
        sum(each.promised is None for each in kept),
        _mean(each.promised for each in kept),
        _mean(each.floor.random for each in kept),
        _mean(each.floor.oracle for each in kept),
        gated,
    )


def _alone(held: Sequence[Question], model: str, manifest: Manifest) -> list[Played]:
    teacher = model == manifest.teacher
    told = [cut(question, model, None, manifest) for question in held]
    by: Literal["teacher", "student"] = "teacher" if teacher else "student"
    return [Played(by, int(not teacher), teacher, each.score, each.cost) for each in told]


def _beside(played: Sequence[Played], baseline: tuple[list[float], list[float]]) -> tuple[float, float]:
    """Retention and cost share. ConfigError: the teacher is never right, or costs nothing."""
    scores, costs = _columns(played)
    retention, share = tradeoff.retention(scores, baseline[0]), tradeoff.cost_share(costs, baseline[1])
    if retention is None or share is None:
        raise ConfigError("the teacher is never right in a half of the questions, or costs nothing: there is no trade")
    return retention, share


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def told(half: Half, over: Sequence[Splits]) -> dict[str, Any]:
    """The report as JSON can hold it."""
    return {
        "held": half.questions,
        "calibrated": half.calibrated,
        "rows": [{**asdict(row), "non_inferior": row.beside.holds} for row in half.rows],
        "floors": {name: asdict(floor) for name, floor in half.floors.items()},
        "curves": {name: _told(curve) for name, curve in half.curves.items()},
        "policies": {name: policy.model_dump(mode="json", exclude_none=True) for name, policy in half.policies.items()},
        "refused": half.refused,
        "splits": [asdict(each) for each in over],
    }


def _row(name: str, played: Sequence[Played], student: Sequence[Played], teacher: Sequence[Played]) -> Row:
    scores, costs = _columns(played)
    teacher_scores, teacher_costs = _columns(teacher)
    student_scores, student_costs = _columns(student)
    test = mcnemar([score > 0.5 for score in scores], [score > 0.5 for score in teacher_scores])
    ends = name.startswith(("teacher:", "student:"))
    return Row(
        name,
        fmean(scores),
        tradeoff.compare(scores, costs, teacher_scores, teacher_costs),
        fmean(each.escalated for each in played),
        None if ends else tradeoff.recovered(scores, student_scores, teacher_scores),
        None
        if ends
        else tradeoff.lift(
            tradeoff.point(costs, scores),
            tradeoff.point(student_costs, student_scores),
            tradeoff.point(teacher_costs, teacher_scores),
        ),
        test.c,
        test.b,
        test.p,
        tradeoff.cost_per_correct(costs, scores),
        tradeoff.non_inferiority(scores, teacher_scores),
    )


def _floor(
    retention: float,
    share: float | None,
    held: Sequence[Question],
    workload: Workload,
    student: Sequence[Played],
    teacher: Sequence[Played],
) -> Floor:
    """The floors at the retention that an arm reached, so that all three are for the same accuracy."""
    manifest = workload.manifest
    teacher_scores, teacher_costs = _columns(teacher)
    ends: list[Point] = [tradeoff.point(*reversed(_columns(each))) for each in (student, teacher)]
    random = tradeoff.random_share(retention, *ends)
    options = [
        [Option(question.arms[name].cost, question.arms[name].score) for name in (manifest.teacher, *manifest.students)]
        for question in held
    ]
    least = tradeoff.oracle_cost(options, retention * sum(teacher_scores))
    spent = sum(teacher_costs)
    oracle = None if least is None or not spent else least / spent
    known = random is not None and oracle is not None and share is not None
    closed = tradeoff.gap_closed(share, random, oracle) if known else None  # type: ignore[arg-type]
    return Floor(retention, random, oracle, closed)


def _told(curve: Curve) -> dict[str, Any]:
    """A curve with the names of its numbers, which a tuple loses in JSON."""
    along = {name: each and each._asdict() for name, each in (("calls", curve.calls), ("dollars", curve.dollars))}
    points = [each._asdict() for each in curve.points]
    return {"points": points, **along, "aiq": curve.aiq, "aiq_random": curve.aiq_random}


def _columns(played: Sequence[Played]) -> tuple[list[float], list[float]]:
    return [each.score for each in played], [each.cost for each in played]
