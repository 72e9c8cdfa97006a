"""What is not known of a draft's likelihood is not taken for certainty: not in a fit, not in a replay."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from evals.calibrate import Goal, calibrate
from evals.recorded import Arm, Manifest, Question, Rate
from evals.replay import play, totals
from gateway.answers import Answer
from gateway.cascade.policy import Policy

SMALL = Rate(input=0.1, output=0.1)
MANIFEST = Manifest(
    name="doubt",
    teacher="big",
    students=["small", "other"],
    prices={"big": Rate(input=2.5, output=10), "small": SMALL, "other": SMALL},
    answer="number",
)


@cache
def questions(count: int, seed: int) -> tuple[Question, ...]:
    """Students that are less sure of wrong answers, in the mean and in their least likely token."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        hard, right = draw.random(), draw.randrange(10**6)
        arms = {}
        for model, skill in (("big", 0.97), ("small", 0.95), ("other", 0.9)):
            correct = draw.random() < (skill if model == "big" else 1 - (1.3 - skill) * hard * 1.2)
            said = right if correct else draw.randrange(10**6)
            mean = None if model == "big" else -0.05 - (0.1 if correct else 0.5) * draw.random()
            least = None if mean is None else 6 * mean - draw.random()
            written = int(60 + 100 * draw.random())
            cost = MANIFEST.prices[model].cost(100, written)
            arms[model] = Arm(Answer("number", str(said)), float(correct), 100, written, cost, mean, least=least)
        made.append(Question(str(number), arms))
    return tuple(made)


def told(questions: tuple[Question, ...], keep: Callable[[str, str], bool]) -> list[Question]:
    """The same, of which only some drafts (by the question's id and the model) tell how likely they were."""

    def arm(question: Question, model: str, of: Arm) -> Arm:
        return of if keep(question.id, model) else replace(of, logprob=None, least=None)

    return [Question(each.id, {model: arm(each, model, of) for model, of in each.arms.items()}) for each in questions]


def never(question: str, model: str) -> bool:
    return False


def rho(policy: Policy, questions: list[Question]) -> tuple[float, float]:
    scores, costs = totals(play(policy, MANIFEST, question) for question in questions)
    teacher = [question.arms["big"] for question in questions]
    return sum(scores) / sum(arm.score for arm in teacher), sum(costs) / sum(arm.cost for arm in teacher)


@cache
def calibrated() -> Policy:
    return calibrate(questions(1200, 1), MANIFEST, Goal(0.95, 0.6))


def test_both_likelihoods_are_weighed_and_their_upstreams_are_to_tell_them() -> None:
    policy = calibrated()
    assert all(rung.logprobs for rung in policy.rungs)
    assert policy.rungs[0].weighs("doubt")
    assert policy.rungs[0].weighs("worst")
    assert not any(rung.weighs("unsure") for rung in policy.rungs)
    assert set(policy.sure) == {rung.student for rung in policy.rungs}
    kept, cost = rho(policy, list(questions(2000, 2)))
    assert kept > 0.94
    assert cost < 0.3


def test_a_student_that_tells_none_keeps_the_retention_and_loses_the_saving() -> None:
    """Taken for certain (0, as it was), or for average, they would keep less than 0.85 here."""
    policy, held = calibrated(), questions(2000, 2)
    assert rho(policy, told(held, never))[0] > 0.97
    certain = [
        Question(each.id, {name: replace(arm, logprob=0.0, least=0.0) for name, arm in each.arms.items()})
        for each in held
    ]
    assert rho(policy, certain)[0] < 0.85


def test_now_and_then_unknown_costs_little() -> None:
    policy, held = calibrated(), questions(2000, 2)
    some = told(held, lambda question, model: int(question) % 50 != 0)
    kept, cost = rho(policy, some)
    assert kept > 0.94
    assert cost < rho(policy, list(held))[1] + 0.03


def test_a_fit_that_saw_unknown_ones_weighs_that() -> None:
    """Half of the answers tell nothing, live as in the calibration: then the weight of `unsure` decides."""

    def half(question: str, model: str) -> bool:
        return int(question) % 2 == 0

    policy = calibrate(told(questions(1200, 1), half), MANIFEST, Goal(0.95, 0.6))
    assert policy.sure == []
    assert any(rung.weighs("unsure") for rung in policy.rungs)
    kept, cost = rho(policy, told(questions(2000, 2), half))
    assert kept > 0.94
    assert cost < 0.6


def test_where_nobody_ever_tells_nothing_is_weighed() -> None:
    policy = calibrate(told(questions(1200, 1), never), MANIFEST, Goal(0.95, 0.6))
    assert policy.sure == []
    assert not any(rung.weighs("doubt", "worst", "unsure") or rung.logprobs for rung in policy.rungs)


@pytest.mark.parametrize("told_by", ["small", "other"])
def test_one_student_that_always_told_is_to_go_on_telling(told_by: str) -> None:
    policy = calibrate(told(questions(1200, 1), lambda question, model: model == told_by), MANIFEST, Goal(0.95, 0.6))
    weighed = any(rung.weighs("doubt", "worst") for rung in policy.rungs)
    assert policy.sure == ([told_by] if weighed else [])
