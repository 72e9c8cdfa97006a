"""Calibration: what it promises holds on questions it has not seen, and it refuses what it cannot promise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evals import fit
from evals.calibrate import Goal, Unsupported, calibrate
from evals.fit import Shape
from evals.recorded import Arm, Question, Workload, write
from evals.replay import gate, play, totals
from gateway.answers import Answer
from gateway.cascade.policy import Policy
from pricing.tradeoff import cost_share, retention
from tests.evals.synthetic import MANIFEST, outcomes


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    folder = tmp_path_factory.mktemp("sums")
    write(folder, MANIFEST, outcomes(600))
    return Workload.load(folder)


def judged(policy: Policy, questions: Sequence[Question]) -> tuple[float, float]:
    scores, costs = totals(play(policy, MANIFEST, question) for question in questions)
    teacher = [question.arms["big"] for question in questions]
    rho, kappa = retention(scores, [arm.score for arm in teacher]), cost_share(costs, [arm.cost for arm in teacher])
    assert rho is not None
    assert kappa is not None
    return rho, kappa


def test_a_policy_is_cheaper_than_the_simple_gate_and_keeps_what_it_promises(workload: Workload) -> None:
    seen, held = workload.halves()
    policy = calibrate(seen, MANIFEST, Goal(0.95, 0.6))
    told, alone = policy.evidence["mean_teacher_tokens"], [question.arms["big"] for question in seen]
    assert told["input"] == pytest.approx(np.mean([arm.read for arm in alone]), abs=0.06)
    assert told["output"] == pytest.approx(np.mean([arm.written for arm in alone]), abs=0.06)
    rho, kappa = judged(policy, held)
    _, costs = totals(gate(MANIFEST, question) for question in held)
    simple = sum(costs) / sum(question.arms["big"].cost for question in held)
    assert rho > 0.93
    assert kappa < simple
    assert policy.evidence["retention_low"] >= 0.95


def test_more_confidence_costs_more(workload: Workload) -> None:
    low, high = (calibrate(workload.questions, MANIFEST, Goal(0.95, level)).evidence for level in (0.5, 0.95))
    assert low["cost_share"] < high["cost_share"]
    assert low["retention"] < high["retention"]


def test_the_file_is_the_policy(workload: Workload, tmp_path: Path) -> None:
    seen, held = workload.halves()
    policy = calibrate(seen, MANIFEST, Goal(0.95, 0.6))
    file = tmp_path / "policy.yaml"
    file.write_text(policy.dump())
    assert Policy.load(file) == policy
    assert judged(Policy.load(file), held) == judged(policy, held)


def test_the_rule_over_columns_is_the_rule_that_decides(workload: Workload) -> None:
    """What was calibrated is what is played: the same scores and costs, question by question."""
    questions = workload.questions
    shape = Shape(("small", "other", "third"), ("small", "other", "third"), (150, None, 140), 150)
    unit = float(np.mean([question.arms["big"].cost for question in questions]))
    rungs = fit.steps(questions, MANIFEST, shape, unit)
    moves = set()
    for worth in (0.02, 0.2, 1.0):
        weighings = fit.fit(rungs, worth)
        walked = fit.walk(rungs, weighings, worth)
        told = []
        for student, limit, step, weighing in zip(shape.ladder, shape.limits, rungs, weighings, strict=True):
            rung: dict[str, object] = {"student": student, "max_tokens": limit}
            for name in ("gain", "cost", "next"):
                weights = getattr(weighing, name)
                rung[name] = None if weights is None else dict(zip(step.names, map(float, weights), strict=True))
            told.append(rung)
        head = {"name": "sums", "teacher": {"model": "big", "max_tokens": 150}, "prefer": list(shape.prefer)}
        policy = Policy.model_validate({**head, "worth": worth, "rungs": told})
        played = [play(policy, MANIFEST, question) for question in questions]
        assert [each.score for each in played] == list(walked.score)
        assert [each.escalated for each in played] == list(walked.escalated)
        assert [each.cost / unit for each in played] == pytest.approx(list(walked.cost))
        moves |= {(each.drafts, each.escalated, each.by) for each in played}
    assert len(moves) > 3, "too few kinds of outcome were compared"


def test_calibration_never_sees_the_held_half(workload: Workload) -> None:
    """A policy is the same whatever is in the other half; and deciding looks at no score and no id."""
    seen, held = workload.halves()
    policy = calibrate(seen, MANIFEST, Goal(0.95, 0.6))
    nothing = {question.id: Question(question.id, {}) for question in held}
    hidden = replace(workload, questions=[nothing.get(question.id, question) for question in workload.questions])
    assert calibrate(hidden.halves()[0], MANIFEST, Goal(0.95, 0.6)) == policy
    with pytest.raises(KeyError):  # which it would have met, had it looked
        calibrate(hidden.questions, MANIFEST, Goal(0.95, 0.6))
    for question in held:
        other = Question("another", {name: replace(arm, score=1 - arm.score) for name, arm in question.arms.items()})
        told, flipped = (play(policy, MANIFEST, each) for each in (question, other))
        assert (told.by, told.drafts, told.cost) == (flipped.by, flipped.drafts, flipped.cost)


def test_too_little_is_refused_and_says_how_much_would_do(workload: Workload) -> None:
    with pytest.raises(Unsupported, match="nothing is claimed below 100"):
        calibrate(workload.questions[:60], MANIFEST, Goal(0.95))
    with pytest.raises(Unsupported, match=r"at least 0\.\d+; (about \d+|no number of questions) would"):
        calibrate(workload.questions[:120], MANIFEST, Goal(0.995, 0.999))


def test_students_as_dear_as_the_teacher_save_nothing(workload: Workload) -> None:
    dear = MANIFEST.model_copy(update={"prices": dict.fromkeys(MANIFEST.models, MANIFEST.prices["big"])})

    def priced(arm: Arm) -> Arm:
        return replace(arm, cost=dear.prices["big"].cost(arm.read, arm.written * 30))

    questions = [
        Question(each.id, {name: arm if name == "big" else priced(arm) for name, arm in each.arms.items()})
        for each in workload.questions
    ]
    with pytest.raises(Unsupported, match="cheaper"):
        calibrate(questions, dear, Goal(0.95, 0.6))


def test_a_teacher_that_is_never_right_has_nothing_to_keep(workload: Workload) -> None:
    wrong = [
        Question(each.id, {name: replace(arm, score=0.0) for name, arm in each.arms.items()})
        for each in workload.questions
    ]
    with pytest.raises(Unsupported, match="never right"):
        calibrate(wrong, MANIFEST, Goal(0.9))


@pytest.mark.parametrize(("retention", "confidence"), [(0.0, 0.9), (1.1, 0.9), (0.9, 0.4), (0.9, 1.0)])
def test_a_goal_is_a_share_and_a_confidence(retention: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="no goal"):
        Goal(retention, confidence)


def test_no_policy_asks_for_more_than_was_recorded(workload: Workload) -> None:
    """Answers that were made under a limit say nothing of what comes after it."""
    limits = {"small": 90, "third": 120}
    bounded = MANIFEST.model_copy(update={"limits": limits})
    policy = calibrate(workload.questions[:200], bounded, Goal(0.9, 0.6))
    assert {rung.student for rung in policy.rungs} & limits.keys()
    for rung in policy.rungs:
        if rung.student in limits:
            assert rung.max_tokens is not None
            assert rung.max_tokens <= limits[rung.student]


def test_many_students_are_as_cheap_as_the_simple_gate_over_all_of_them() -> None:
    """Five who err for themselves: the gate over them is a ladder that the search finds, or a cheaper one."""
    names = [f"s{number}" for number in range(5)]
    prices = {"big": MANIFEST.prices["big"], **dict.fromkeys(names, MANIFEST.prices["small"])}
    many = MANIFEST.model_copy(update={"students": names, "prices": prices})
    draw = random.Random(3)

    def arm(right: int, skill: float, model: str) -> Arm:
        said = right if draw.random() < skill else draw.randrange(1000, 9000)
        cost = prices[model].cost(100, 120)
        return Arm(Answer("number", str(said)), float(said == right), 100, 120, cost, None)

    questions = [
        Question(str(number), {name: arm(number, 0.98 if name == "big" else 0.6, name) for name in ("big", *names)})
        for number in range(500)
    ]
    policy = calibrate(questions, many, Goal(0.9, 0.6))
    assert len(policy.rungs) > 3
    teacher = sum(question.arms["big"].cost for question in questions)
    costs = [
        sum(each.cost for each in played) / teacher
        for played in (
            [play(policy, many, question) for question in questions],
            [gate(many, question) for question in questions],
        )
    ]
    assert costs[0] <= costs[1] * 1.02


def test_the_simple_gate_is_a_policy(workload: Workload) -> None:
    """Its weights decide as it does, whoever is asked first; and it promises what it keeps."""
    questions = workload.questions
    for ladder in (("small", "other", "third"), ("third", "other"), ("other",)):
        shape = Shape(ladder, ladder, (None,) * len(ladder), None, agreed=True)
        rungs = fit.steps(questions, MANIFEST, shape, 1.0)
        walked = fit.walk(rungs, fit.agreement(rungs), 0.0)
        order = MANIFEST.model_copy(update={"students": list(ladder)})
        asked = [gate(order, question) for question in questions]
        assert [each.escalated for each in asked] == list(walked.escalated)
        assert [each.score for each in asked] == list(walked.score)
        assert [each.cost for each in asked] == pytest.approx(list(walked.cost))
