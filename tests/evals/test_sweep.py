"""The curve of a policy's family: its points are policies that can be played, its ends are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from evals.calibrate import Goal, calibrate
from evals.recorded import Arm, Question, Workload, write
from evals.replay import play
from evals.sweep import Swept, curve, sweep
from evals.trials import WORTHS
from tests.evals.synthetic import MANIFEST, outcomes


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    folder: Path = tmp_path_factory.mktemp("sums")
    write(folder, MANIFEST, outcomes(600))
    return Workload.load(folder)


def ends(questions: list[Question], student: str = "small") -> tuple[list[Arm], list[Arm]]:
    return [each.arms[student] for each in questions], [each.arms["big"] for each in questions]


def test_the_point_at_the_policys_own_worth_is_the_policy_as_it_is_played(workload: Workload) -> None:
    seen, held = workload.halves()
    policy = calibrate(seen, MANIFEST, Goal(0.95, 0.6))
    swept = list(sweep(policy, seen, held, MANIFEST))
    assert [each.worth for each in swept] == list(WORTHS)
    own = min(swept, key=lambda each: abs(each.worth - policy.worth))
    played = [play(policy, MANIFEST, question) for question in held]
    assert own.score == pytest.approx(fmean(each.score for each in played))
    assert own.calls == pytest.approx(fmean(each.escalated for each in played))
    assert own.cost == pytest.approx(fmean(each.cost for each in played))


def test_dearer_accuracy_asks_the_teacher_less_and_the_curve_beats_random_mixing(workload: Workload) -> None:
    seen, held = workload.halves()
    swept = list(sweep(calibrate(seen, MANIFEST, Goal(0.95, 0.6)), seen, held, MANIFEST))
    assert swept[0].calls > swept[-1].calls
    found = curve(swept, *ends(held))
    assert found.calls is not None
    assert found.dollars is not None
    assert found.aiq is not None
    assert found.aiq_random is not None
    assert found.calls.apgr > 0.5
    assert found.dollars.apgr > 0.5
    assert found.aiq > found.aiq_random
    assert found.aiq_random == pytest.approx(
        (fmean(arm.score for arm in ends(held)[0]) + fmean(arm.score for arm in ends(held)[1])) / 2
    )
    assert found.calls.cpt_50 is not None
    assert found.calls.cpt_80 is not None
    assert 0 <= found.calls.cpt_50 <= found.calls.cpt_80 < 0.8


def test_a_curve_of_three_points_by_hand(workload: Workload) -> None:
    """Student 0.0 for $1, teacher 1.0 for $11: a policy in between at a half of both gaps is random mixing itself."""
    arm = workload.questions[0].arms["big"]
    student = [replace(arm, score=0.0, cost=1.0)] * 2
    teacher = [replace(arm, score=1.0, cost=11.0)] * 2
    found = curve([Swept(1.0, 0.25, 6.0, 0.5)], student, teacher)
    assert found.calls is not None
    assert found.dollars is not None
    assert tuple(found.calls) == pytest.approx((0.25 * 0.25 + 0.75 * 0.75, 0.25, 0.25 + 0.75 * 0.6))
    assert tuple(found.dollars) == pytest.approx((0.5, 0.5, 0.8))
    assert found.aiq == found.aiq_random == 0.5
    better = curve([Swept(1.0, 0.25, 1.0, 1.0)], student, teacher)
    assert better.aiq == 1.0


def test_no_gap_no_recovered_share(workload: Workload) -> None:
    same = ends(list(workload.questions), "big")
    found = curve([Swept(1.0, 0.5, 1.0, 0.9)], *same)
    assert (found.calls, found.dollars, found.aiq, found.aiq_random) == (None, None, None, None)
