"""Summaries: numbers that a hand can check, and what must stay unknown."""

from __future__ import annotations

import json
from math import isclose
from statistics import fmean
from typing import Any

import pytest

from evals.results import Cell, Result
from evals.summary import Group, Row, summarise, told
from pricing import tradeoff
from pricing.intervals import mcnemar, paired_difference, wilson
from tests.evals.made_run import CELLS, cell, result, results, run, stage

TEACHER, STUDENT = cell("teacher"), cell("student")
GUIDED = cell("cut-off", 40)


def group(cells: list[Cell], told: list[Result]) -> Group:
    (only,) = summarise(run(cells), told).groups
    return only


def row(of: Group, name: str) -> Row:
    return next(each for each in of.rows if each.cell.name == name)


def scored(cell: Cell, scores: str, **rest: Any) -> list[Result]:
    """One answer a question: 1 right, 0 wrong, `?` unscored."""
    return [result(cell, item, None if mark == "?" else float(mark), **rest) for item, mark in enumerate(scores)]


def test_what_is_kept_and_what_it_costs_is_over_the_same_questions() -> None:
    """The unscored question and the one that the teacher could not be scored on count in neither."""
    told = [*scored(TEACHER, "1110?1"), *scored(STUDENT, "000000"), *scored(GUIDED, "10?111")]
    found = row(group([TEACHER, STUDENT, GUIDED], told), GUIDED.name)
    assert (found.asked, found.unscored, found.failed, found.paired) == (6, 1, 0, 4)
    assert found.accuracy == 4 / 5
    assert found.accuracy_interval == wilson(0.8, 5)
    assert found.teacher_accuracy == 3 / 4
    assert found.comparison is not None
    assert found.comparison.retention == 1.0  # 3 of 4 against 3 of 4
    assert found.comparison.cost_share == 630_000 / 2_000_000
    assert found.baseline == "measured"
    assert found.test == mcnemar([True, False, True, True], [True, True, False, True])
    assert (found.test.b, found.test.c) == (1, 1)
    assert found.spent == 6 * 630_000, "what could not be scored was paid for too"
    assert found.per_correct == 6 * 630_000 / 4
    assert found.over_student == 4 / 5


def test_what_the_student_adds_is_beside_the_same_words_alone() -> None:
    text, other, hint = cell("cut-text", 40), cell("cut-text", 10), cell("hint", 40)
    told = [*scored(GUIDED, "1110?1"), *scored(text, "0100"), *scored(other, "111111"), *scored(hint, "111111")]
    made = group([GUIDED, text, other, hint], told)
    found = row(made, GUIDED.name)
    assert found.over_text == 3 / 4 - 1 / 4
    assert found.over_text_interval == paired_difference([1, 1, 1, 0], [0, 1, 0, 0])
    assert row(made, hint.name).over_text is None, "a hint is no beginning of its answer"
    alone = row(group([GUIDED, other], [*scored(GUIDED, "1"), *scored(other, "1")]), GUIDED.name)
    assert (alone.over_text, alone.over_text_interval) == (None, None)


def test_random_mixing_recovered_gap_and_floors_agree_with_the_formulas() -> None:
    many = group(list(CELLS), list(results()))
    teacher, student = row(many, CELLS[0].name), row(many, CELLS[2].name)
    guided = row(many, cell("cut-off", 40, concurrency=8).name)
    assert teacher.accuracy is not None
    assert student.accuracy is not None
    assert guided.accuracy is not None
    assert guided.point is not None
    low = tradeoff.Point(30_000, student.accuracy)
    high = tradeoff.Point(2_000_000, teacher.accuracy)
    assert guided.mixed == tradeoff.random_mix(630_000, low, high)
    assert guided.lift is not None
    assert guided.mixed is not None
    assert isclose(guided.lift, guided.accuracy - guided.mixed)
    assert guided.recovered is not None
    assert isclose(guided.recovered, (guided.accuracy - student.accuracy) / (teacher.accuracy - student.accuracy))
    assert guided.floor is not None
    assert guided.floor.random is not None
    assert guided.floor.oracle is not None
    assert guided.floor.oracle <= guided.floor.random
    assert many.mix == [student.point, teacher.point]
    assert many.oracle[0] == student.point
    costs = [point.cost for point in many.oracle]
    assert costs == sorted(costs)
    assert set(many.hull) <= {each.point for each in many.rows}
    assert many.aiq is not None
    assert [student.recovered, student.lift, teacher.recovered] == [None] * 3


def test_speed_is_batch_against_batch_and_the_batch_of_one_is_named() -> None:
    batch, single, guided = cell("teacher", concurrency=8), TEACHER, cell("cut-off", 40, concurrency=8)
    told = [
        *scored(batch, "11", seconds=4.0),
        *scored(single, "11", seconds=2.0),
        *scored(guided, "11", seconds=2.0),
        *scored(GUIDED, "11", seconds=1.0),
    ]
    made = summarise(run([batch, single, guided, GUIDED]), told)
    (only,) = made.groups
    fast = row(only, guided.name)
    assert (fast.seconds, fast.each) == (2.0, 0.25)
    assert (fast.faster, fast.faster_than) == (2.0, batch.name)
    assert fast.faster_than_single == 8.0
    assert made.single == [single.name]
    assert row(only, GUIDED.name).faster == 2.0
    other = group([batch, GUIDED], [*scored(batch, "11"), *scored(GUIDED, "11")])
    slow = row(other, GUIDED.name)
    assert [slow.faster, slow.faster_than, slow.faster_than_single] == [None] * 3, "no teacher in a batch of that size"


def test_what_is_not_known_is_none_and_not_nothing() -> None:
    unpriced = [stage("answer", "student", 100, 10, None, 0.5)]
    told = [
        *scored(TEACHER, "1111"),
        *scored(STUDENT, "0110", cost=None, stages=unpriced),
        *scored(GUIDED, "1111", seconds=None),
    ]
    made = group([TEACHER, STUDENT, GUIDED], told)
    student, guided = row(made, STUDENT.name), row(made, GUIDED.name)
    assert [student.spent, student.per_correct, student.dollars, student.point] == [None] * 4
    assert student.comparison is not None
    assert student.comparison.retention == 0.5, "what is known stays told"
    assert [student.comparison.cost_share, student.comparison.cost_share_interval] == [None] * 2
    assert [guided.lift, guided.mixed, guided.floor] == [None] * 3, "random mixing has no price"
    assert [guided.seconds, guided.each, guided.faster] == [None] * 3
    assert made.mix == made.oracle == []
    assert made.aiq is None


def test_without_a_teacher_the_receipts_are_the_baseline_and_are_named() -> None:
    made = row(group([STUDENT, GUIDED], [*scored(STUDENT, "01"), *scored(GUIDED, "11")]), GUIDED.name)
    assert made.baseline == "receipts"
    assert made.comparison is not None
    assert made.comparison.cost_share == 630_000 / 2_000_000
    assert [made.comparison.retention, made.test, made.non_inferior, made.teacher_accuracy] == [None] * 4
    brief = cell("teacher-concise")
    assert row(group([brief], scored(brief, "11")), brief.name).baseline is None, "its receipt is of its own length"
    unknown = row(group([GUIDED], scored(GUIDED, "11", baseline=None)), GUIDED.name)
    assert [unknown.baseline, unknown.comparison] == [None] * 2


def test_a_run_that_was_killed_tells_what_there_is() -> None:
    made = group([TEACHER, GUIDED], scored(TEACHER, "10"))
    waiting = row(made, GUIDED.name)
    assert (waiting.asked, waiting.accuracy, waiting.spent, waiting.comparison) == (0, None, None, None)
    assert row(made, TEACHER.name).accuracy == 0.5


def test_samples_of_a_question_are_one_question_and_a_repeated_line_is_paid_twice() -> None:
    told = [
        *scored(TEACHER, "11"),
        result(GUIDED, 0, 1.0),
        result(GUIDED, 0, 0.0, sample=1),
        result(GUIDED, 1, None, error="upstream_timeout", unscored="failed"),
        result(GUIDED, 1, 1.0),
    ]
    made = row(group([TEACHER, GUIDED], told), GUIDED.name)
    assert (made.asked, made.paired, made.unscored, made.failed) == (3, 2, 0, 0)
    assert made.accuracy == 0.75
    assert made.spent == 4 * 630_000


def test_tokens_and_stages_are_means_of_an_answer() -> None:
    """An answer that the teacher completed has no student's stage: its tokens and seconds are 0 there, and known."""
    complete = [stage("guidance", "teacher", 100, 20, 400_000, 0.4)]
    told = [result(GUIDED, 0, 1.0), result(GUIDED, 1, 1.0, stages=complete)]
    made = row(group([GUIDED], told), GUIDED.name)
    assert (made.teacher_tokens, made.student_tokens) == (30, 60)
    assert made.stages == {"guidance": fmean([0.5, 0.4]), "answer": 0.4}


def test_groups_are_pairs_of_models_and_a_model_without_one_stands_alone() -> None:
    cells = [
        *CELLS,
        cell("teacher", task="choices"),
        cell("student", task="choices"),
        cell("student", student="tiny"),
        cell("cut-off", 40, exemplars=8),
    ]
    keys = [(each.task, each.teacher, each.student, each.exemplars) for each in summarise(run(cells), []).groups]
    assert keys == [
        ("sums", "big", "small", 0),
        ("sums", "big", "tiny", 0),
        ("choices", "big", "small", 0),
        ("sums", "big", "small", 8),
    ]


def test_json_holds_all_of_it() -> None:
    made = told(summarise(run(), list(results())))
    again = json.loads(json.dumps(made, allow_nan=False))
    assert [each["name"] for each in again["groups"][0]["rows"]] == [
        each.cell.name for each in summarise(run(), []).groups[0].rows
    ]
    guided = next(
        each for each in again["groups"][0]["rows"] if each["name"] == cell("cut-off", 40, concurrency=8).name
    )
    assert guided["comparison"]["cost_share"] == 0.315
    assert guided["cell"]["guidance_tokens"] == 40
    assert guided["test"].keys() == {"b", "c", "p"}


@pytest.mark.parametrize("strategy", ["hint", "cascade", "cut-text", "teacher-concise"])
def test_every_strategy_is_an_arm(strategy: str) -> None:
    each = cell(strategy, 40)
    made = row(
        group([TEACHER, STUDENT, each], [*scored(TEACHER, "11"), *scored(STUDENT, "00"), *scored(each, "10")]),
        each.name,
    )
    assert made.comparison is not None
    assert made.comparison.retention == 0.5


def test_none_right_of_a_few_is_no_certainty() -> None:
    made = row(group([TEACHER, GUIDED], [*scored(TEACHER, "1" * 8), *scored(GUIDED, "0" * 8)]), GUIDED.name)
    assert made.comparison is not None
    assert made.comparison.retention == 0
    assert made.comparison.retention_interval is not None
    assert made.comparison.retention_interval.low == 0
    assert 0.3 < made.comparison.retention_interval.high < 0.6
