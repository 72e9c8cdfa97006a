"""Summary: what the cells of a run kept, cost and took, beside the teacher and the student alone on the same questions.

Cells are grouped by task, teacher, student and exemplars; within a group each is an arm. What a policy keeps and costs
is told over the questions that both it and the teacher have scored; samples of one question are averaged first, so that
intervals are over questions. None is what the results do not say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import fsum
from statistics import fmean
from typing import Any, Literal, NamedTuple

import msgspec

from evals.arms import Arm, divided, mean
from evals.results import Cell, Result, Run, Strategy, by_cell
from pricing import tradeoff
from pricing.intervals import Interval, McNemar, mcnemar, paired_difference, ratio, wilson
from pricing.tradeoff import Comparison, NonInferiority, Option, Point

ORDER: Sequence[Strategy] = (
    "teacher",
    "teacher-concise",
    "student",
    "cut-text",
    "cut-off",
    "concise",
    "hint",
    "cascade",
)
RIGHT = 0.5
"""A score above this counts as right, where right or wrong is asked."""

Baseline = Literal["measured", "receipts"]
"""What a cost share is a share of: the teacher's cell on the same questions, or what the receipts say it would cost."""

STEPS = 20
"""Accuracies between the student's and the best for which the oracle's cost is told."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What an arm's own retention costs by random mixing of student and teacher, and with perfect knowledge.

    Cost shares; None: it cannot be had so. `closed` is how far the arm came from the first to the second.
    """

    random: float | None
    oracle: float | None
    closed: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One cell as an arm of its group.

    `over_text` is what the student adds to the teacher's first words: the difference to the same words alone.
    `asked` counts answers, `unscored` those without a score, `failed` those of them whose request failed, `paired` the
    questions that the teacher has scored too; `accuracy` is over all questions scored. Tokens are means of an answer,
    seconds too; `stages` are the mean seconds of an answer in each stage. `spent` are nano-dollars over all that was
    asked, also in vain; of these `bounded` are the most that failed requests can have cost. `each` is `seconds` /
    `concurrency`: a question's time where as many were always under way. `faster` is how many times `each` goes into
    the teacher's, at the same concurrency (`faster_than` names that cell) and at one at a time (`faster_than_single`).
    `mixed` is what random mixing reaches for the same dollars.
    """

    cell: Cell
    asked: int
    unscored: int
    failed: int
    paired: int
    accuracy: float | None
    accuracy_interval: Interval | None
    teacher_accuracy: float | None
    teacher_tokens: float | None
    student_tokens: float | None
    spent: int | None
    bounded: int
    dollars: float | None
    per_correct: float | None
    baseline: Baseline | None
    comparison: Comparison | None
    over_student: float | None
    over_student_interval: Interval | None
    over_text: float | None
    over_text_interval: Interval | None
    recovered: float | None
    mixed: float | None
    lift: float | None
    test: McNemar | None
    non_inferior: NonInferiority | None
    floor: Floor | None
    seconds: float | None
    first_token: float | None
    each: float | None
    faster: float | None
    faster_than: str | None
    faster_than_single: float | None
    stages: Mapping[str, float | None]

    @property
    def point(self) -> Point | None:
        """Where it stands in the picture: cost share and accuracy; None where one is unknown."""
        share = self.comparison.cost_share if self.comparison else None
        return None if share is None or self.accuracy is None else Point(share, self.accuracy)


@dataclass(frozen=True, slots=True)
class Group:
    """Arms that can be compared. Points are of cost shares and accuracies.

    `oracle` picks the student or the teacher for each question, knowing both scores. `aiq` is the mean height of the
    hull between the student's cost and the teacher's.
    """

    task: str
    teacher: str | None
    student: str | None
    exemplars: int
    rows: Sequence[Row]
    mix: Sequence[Point]
    hull: Sequence[Point]
    oracle: Sequence[Point]
    aiq: float | None

    @property
    def name(self) -> str:
        """What it is called in headings: task, models and exemplars."""
        models = " → ".join(model for model in (self.teacher, self.student) if model)
        shots = "no exemplars" if self.exemplars == 0 else f"{self.exemplars} exemplars"
        return f"{self.task}: {models}, {shots}"


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers. `single` names the teacher's cells with one question at a time: the paper's own baseline."""

    run: Run
    groups: Sequence[Group]
    single: Sequence[str]


def summarise(run: Run, results: Iterable[Result]) -> Summary:
    """The numbers of a run; of a run that is not over, of what there is."""
    found = by_cell(results)
    arms = [Arm(cell, found.get(cell.name, ())) for cell in run.cells]
    groups = [_group(*key, arms) for key in _keys(run.cells)]
    single = sorted(cell.name for cell in run.cells if cell.strategy == "teacher" and cell.concurrency == 1)
    return Summary(run, groups, single)


def told(summary: Summary) -> dict[str, Any]:
    """The summary as JSON can hold it: exact, nano-dollars, shares of one."""
    groups = []
    for group in summary.groups:
        rows = [{**msgspec.to_builtins({**_flat(row), "cell": row.cell}), "name": row.cell.name} for row in group.rows]
        groups.append({**_flat(group), "name": group.name, "rows": rows})
    return {"run": msgspec.to_builtins(summary.run), "groups": groups, "single": list(summary.single)}


def right(score: float | None) -> bool | None:
    """Right or wrong; None for what could not be scored."""
    return None if score is None else score > RIGHT


def _flat(of: Row | Group) -> dict[str, Any]:
    rest = {name: getattr(of, name) for name in of.__dataclass_fields__ if name not in ("cell", "rows")}
    return {name: asdict(value) if hasattr(value, "__dataclass_fields__") else value for name, value in rest.items()}


def _keys(cells: Sequence[Cell]) -> list[tuple[str, str | None, str | None, int]]:
    """The groups: pairs that some cell has both of, and models that no such cell has, beside whatever there is."""
    keys: dict[tuple[str, str | None, str | None, int], None] = {}
    for place in dict.fromkeys((cell.task, cell.exemplars) for cell in cells):
        own = [cell for cell in cells if (cell.task, cell.exemplars) == place]
        pairs = dict.fromkeys((cell.teacher, cell.student) for cell in own if cell.teacher and cell.student)
        teachers = _distinct(cell.teacher for cell in own)
        students = _distinct(cell.student for cell in own)
        for teacher, student in product(teachers, students):
            alone = teacher not in {one for one, _ in pairs} or student not in {other for _, other in pairs}
            if (teacher, student) in pairs or alone:
                keys[place[0], teacher, student, place[1]] = None
    return list(keys)


def _distinct(names: Iterable[str | None]) -> list[str | None]:
    known = [name for name in dict.fromkeys(names) if name is not None]
    return [*known] or [None]


def _group(task: str, teacher: str | None, student: str | None, exemplars: int, arms: Sequence[Arm]) -> Group:
    own = [
        arm
        for arm in arms
        if (arm.cell.task, arm.cell.exemplars) == (task, exemplars)
        and arm.cell.teacher in (teacher, None)
        and arm.cell.student in (student, None)
    ]
    own.sort(key=lambda arm: (ORDER.index(arm.cell.strategy), arm.cell.guidance_tokens or 0, -arm.cell.concurrency))
    rows = [_row(arm, own) for arm in own]
    ends = _alone(own, "student", None), _alone(own, "teacher", None)
    points = [point for row in rows if (point := row.point) is not None]
    mix = [point for end in ends for row in rows if end and row.cell == end.cell and (point := row.point) is not None]
    mix = mix if len(mix) == len(ends) else []
    oracle = _oracle(*ends) if all(ends) else []
    reach = tradeoff.aiq(points, mix[0].cost, mix[-1].cost) if mix else None
    return Group(task, teacher, student, exemplars, rows, mix, tradeoff.hull(points), oracle, reach)


def _alone(arms: Sequence[Arm], who: Strategy, concurrency: int | None) -> Arm | None:
    """The model alone: at that concurrency, else at the highest that has results."""
    own = [arm for arm in arms if arm.cell.strategy == who and arm.results]
    same = [arm for arm in own if arm.cell.concurrency == concurrency]
    return max(same or own, key=lambda arm: arm.cell.concurrency, default=None)


def _row(arm: Arm, group: Sequence[Arm]) -> Row:
    teacher = _alone(group, "teacher", arm.cell.concurrency)
    student = _alone(group, "student", arm.cell.concurrency)
    pairs = [item for item in arm.scores if teacher is not None and item in teacher.scores]
    scores = list(arm.scores.values())
    same = next((each for each in group if each is teacher and each.cell.concurrency == arm.cell.concurrency), None)
    single = next((each for each in group if each.cell.strategy == "teacher" and each.cell.concurrency == 1), None)
    compared = _compared(arm, teacher, pairs) if teacher is not None and pairs else _Compared()
    if compared.baseline is None:
        compared = compared._replace(**_by_receipts(arm))
    return Row(
        cell=arm.cell,
        asked=len(arm.results),
        unscored=sum(result.score is None for result in arm.results),
        failed=sum(result.error is not None for result in arm.results),
        paired=len(pairs),
        accuracy=fmean(scores) if scores else None,
        accuracy_interval=wilson(fmean(scores), len(scores)) if scores else None,
        teacher_tokens=arm.tokens("teacher"),
        student_tokens=arm.tokens("student"),
        spent=arm.spent,
        bounded=arm.bounded,
        dollars=divided(arm.spent, len(arm.results)),
        per_correct=arm.per_correct,
        **compared._asdict(),
        **_beside(arm, student, teacher, pairs)._asdict(),
        **_over_text(arm, group),
        seconds=arm.seconds,
        first_token=mean(result.first_token for result in arm.answered),
        each=arm.each,
        faster=divided(same.each, arm.each) if same is not None else None,
        faster_than=same.cell.name if same is not None else None,
        faster_than_single=divided(single.each, arm.each) if single is not None else None,
        stages=arm.stages(),
    )


class _Compared(NamedTuple):
    """The fields of a row that need the teacher."""

    teacher_accuracy: float | None = None
    baseline: Baseline | None = None
    comparison: Comparison | None = None
    test: McNemar | None = None
    non_inferior: NonInferiority | None = None


def _compared(arm: Arm, teacher: Arm, pairs: Sequence[str]) -> _Compared:
    (scores, costs), (alone, prices) = arm.columns(pairs), teacher.columns(pairs)
    nothing = [0.0] * len(pairs)  # makes a cost share of None
    known = (costs, prices) if costs is not None and prices is not None else (nothing, nothing)
    found = tradeoff.compare(scores, known[0], alone, known[1])
    if arm is not teacher and len(set(scores)) == 1:
        # All right, or all wrong: drawn anew they are just so again, which is no certainty.
        own, other = fmean(scores), fmean(alone)
        ends = ratio(own, wilson(own, len(scores)), other, wilson(other, len(alone)))
        found = replace(found, retention_interval=ends)
    verdicts = [score > RIGHT for score in scores], [score > RIGHT for score in alone]
    if arm is teacher:
        return _Compared(fmean(alone), "measured" if costs is not None else None, found)
    return _Compared(
        fmean(alone),
        "measured" if costs is not None and prices is not None else None,
        found,
        mcnemar(*verdicts),
        tradeoff.non_inferiority(scores, alone),
    )


def _by_receipts(arm: Arm) -> dict[str, Any]:
    """Where no teacher was asked the same questions: the gateway's own estimate, for the cost share alone.

    Not of what the teacher wrote whole under another instruction, or cut: the receipt says what that cost.
    """
    known = [each for each in arm.items.values() if each.cost is not None and each.baseline is not None]
    if not known or len(known) < len(arm.items) or arm.cell.strategy in ("cut-text", "teacher-concise"):
        return {}
    costs, baselines = [each.cost or 0.0 for each in known], [each.baseline or 0.0 for each in known]
    found = tradeoff.compare([0.0] * len(known), costs, [0.0] * len(known), baselines)
    share = Comparison(None, None, found.cost_share, found.cost_share_interval, 0.0, None)
    return {"baseline": "receipts", "comparison": share}


class _Beside(NamedTuple):
    """The fields of a row that need the student, and the teacher too."""

    over_student: float | None = None
    over_student_interval: Interval | None = None
    recovered: float | None = None
    mixed: float | None = None
    lift: float | None = None
    floor: Floor | None = None


def _beside(arm: Arm, student: Arm | None, teacher: Arm | None, pairs: Sequence[str]) -> _Beside:
    if student is None:
        return _Beside()
    both = [item for item in arm.scores if item in student.scores]
    if not both or arm is student:
        return _Beside()
    scores, weak = arm.columns(both)[0], student.columns(both)[0]
    found = _Beside(fmean(scores) - fmean(weak), paired_difference(scores, weak))
    three = [item for item in pairs if item in student.scores]
    if teacher is None or arm.cell.strategy == "teacher" or not three:
        return found
    (scores, costs), (weak, cheap), (strong, dear) = (each.columns(three) for each in (arm, student, teacher))
    found = found._replace(recovered=tradeoff.recovered(scores, weak, strong))
    if costs is None or cheap is None or dear is None:
        return found
    point, low, high = (tradeoff.point(*both) for both in ((costs, scores), (cheap, weak), (dear, strong)))
    return found._replace(
        mixed=tradeoff.random_mix(point.cost, low, high),
        lift=tradeoff.lift(point, low, high),
        floor=_floor(point, low, high, _options(cheap, weak, dear, strong)),
    )


def _over_text(arm: Arm, group: Sequence[Arm]) -> dict[str, Any]:
    tokens = arm.cell.guidance_tokens
    same = [each for each in group if (each.cell.strategy, each.cell.guidance_tokens) == ("cut-text", tokens)]
    both = [item for item in arm.scores if same and item in same[0].scores] if arm.cell.strategy == "cut-off" else []
    if not both:
        return {"over_text": None, "over_text_interval": None}
    scores, text = arm.columns(both)[0], same[0].columns(both)[0]
    return {"over_text": fmean(scores) - fmean(text), "over_text_interval": paired_difference(scores, text)}


def _options(
    cheap: Sequence[float], weak: Sequence[float], dear: Sequence[float], strong: Sequence[float]
) -> list[list[Option]]:
    columns = zip(cheap, weak, dear, strong, strict=True)
    return [[Option(cost, score), Option(price, best)] for cost, score, price, best in columns]


def _floor(arm: Point, student: Point, teacher: Point, options: Sequence[Sequence[Option]]) -> Floor | None:
    if teacher.accuracy <= 0 or teacher.cost <= 0:
        return None
    random = tradeoff.random_share(arm.accuracy / teacher.accuracy, student, teacher)
    least = tradeoff.oracle_cost(options, arm.accuracy * len(options))
    oracle = None if least is None else least / (teacher.cost * len(options))
    known = random is not None and oracle is not None
    share = arm.cost / teacher.cost
    closed = tradeoff.gap_closed(share, random, oracle) if known else None  # type: ignore[arg-type]
    return Floor(random, oracle, closed)


def _oracle(student: Arm | None, teacher: Arm | None) -> list[Point]:
    """The least cost share of each accuracy from the student's on, choosing between the two for each question."""
    if student is None or teacher is None:
        return []
    both = [item for item in student.scores if item in teacher.scores]
    (weak, cheap), (strong, dear) = student.columns(both), teacher.columns(both)
    if not both or cheap is None or dear is None or fsum(dear) <= 0:
        return []
    options = _options(cheap, weak, dear, strong)
    low, high = fmean(weak), fmean(max(pair) for pair in zip(weak, strong, strict=True))
    points = []
    for step in range(STEPS + 1):
        accuracy = low + (high - low) * step / STEPS
        cost = tradeoff.oracle_cost(options, accuracy * len(both))
        if cost is not None:
            points.append(Point(cost / fsum(dear), accuracy))
    return points
