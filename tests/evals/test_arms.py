"""Arms: sums and means of one cell's results, and what makes them unknown."""

from __future__ import annotations

from evals.arms import Arm, divided, mean
from evals.results import Stage
from tests.evals.made_run import cell, result, stage

GUIDED = cell("cut-off", 40, concurrency=4)


def test_an_unknown_part_makes_an_unknown_whole() -> None:
    blind = [stage("guidance", "teacher", 100, 40, 600_000, 0.5)]
    blind.append(Stage("answer", "student", "small", 1, None, None, 0, None))
    made = Arm(GUIDED, [result(GUIDED, 0, 1.0), result(GUIDED, 1, 0.0, stages=blind, cost=None)])
    assert (made.tokens("teacher"), made.tokens("student")) == (40, None)
    assert made.stages() == {"guidance": 0.5, "answer": None}
    assert (made.spent, made.per_correct) == (None, None)
    assert made.columns(["0", "1"]) == ([1.0, 0.0], None)
    assert made.columns(["0"]) == ([1.0], [630_000])


def test_a_failed_request_is_in_no_time_but_in_the_bill() -> None:
    failed = result(GUIDED, 1, None, error="upstream_timeout", unscored="failed", seconds=60.0, cost=5)
    made = Arm(GUIDED, [result(GUIDED, 0, 1.0), failed])
    assert (made.seconds, made.each) == (1.3, 1.3 / 4)
    assert made.spent == 630_005
    assert made.scores == {"0": 1.0}


def test_what_failed_is_spent_at_its_bound_and_is_no_answer_s_cost() -> None:
    """Whether the same question was answered in the end, by another sample, or not at all."""
    lost = result(GUIDED, 0, None, error="upstream_timeout", unscored="failed", cost=None, most=900_000)
    refused = result(GUIDED, 1, None, error="overloaded", unscored="failed", cost=0, sample=1)
    made = Arm(GUIDED, [lost, result(GUIDED, 0, 1.0), result(GUIDED, 1, 1.0), refused])
    assert (made.spent, made.bounded) == (900_000 + 2 * 630_000, 900_000)
    assert made.columns(["0", "1"]) == ([1.0, 1.0], [630_000, 630_000])
    assert Arm(GUIDED, [lost]).spent == 900_000
    unknown = result(GUIDED, 0, None, error="upstream_timeout", unscored="failed", cost=None)
    assert (Arm(GUIDED, [unknown, result(GUIDED, 0, 1.0)]).spent, made.cell) == (None, GUIDED)


def test_nothing_is_no_mean() -> None:
    assert mean([]) is None
    assert mean([1, None]) is None
    assert mean([1, 2]) == 1.5
    assert divided(1, 0) is None
    assert divided(0, 2) == 0
    empty = Arm(GUIDED, [])
    assert [empty.spent, empty.seconds, empty.tokens("teacher")] == [None] * 3
