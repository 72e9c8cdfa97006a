"""The live report: what each kind of measuring lets it say, and what it leaves unsaid."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pricing.live import Observed, report


def served(draw: random.Random, at: int, *, score: float | None = None) -> Observed:
    tokens = draw.randrange(50, 500)
    return Observed(
        float(at), input_tokens=tokens, shown_tokens=100, cost=float(tokens), baseline=4.0 * tokens, score=score
    )


def test_nothing_drawn_is_nothing_measured() -> None:
    draw = random.Random(1)
    found = report([served(draw, at) for at in range(50)])
    assert (found.requests, found.holdouts, found.shadows) == (50, 0, 0)
    assert found.cost is not None
    for missing in (found.accuracy, found.retention, found.agreement, found.teacher_cost, found.cost_share):
        assert missing is None
    assert found.measured_by is None
    assert found.holdout_extra is None
    assert report([]).requests == 0


def test_scores_without_holdouts_say_nothing_of_the_teacher() -> None:
    draw = random.Random(2)
    found = report([served(draw, at, score=float(at % 4 > 0)) for at in range(200)])
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx(0.75)
    assert found.retention is None


def test_holdouts_measure_both() -> None:
    draw, requests = random.Random(3), []
    for at in range(2_000):
        each = served(draw, at, score=float(draw.random() < 0.6))
        if draw.random() < 0.2:
            dear = 4 * (each.cost or 0)
            each = replace(
                each, holdout=True, propensity=0.2, cost=dear, teacher_cost=dear, score=float(draw.random() < 0.8)
            )
        else:
            each = replace(each, propensity=0.8)
        requests.append(each)
    draw.shuffle(requests)  # the order does not matter
    found = report(requests)
    assert found.measured_by == "holdout"
    assert found.cost_share is not None
    assert found.retention is not None
    assert 0.25 in found.cost_share.interval
    assert found.cost_share.value == pytest.approx(0.25, abs=0.01)
    assert 0.75 in found.retention.interval
    assert found.retention.status == "measured"
    assert found.retention.smallest_propensity == 0.2
    held = sum(each.holdout for each in requests)
    assert found.holdout_extra == pytest.approx(held * 3 * 275, rel=0.1)
    assert found.drift == []


def test_shadows_measure_cost_and_agreement() -> None:
    """A third of the answers are the teacher's own; of the others one in ten is shadowed, and nine in ten agree."""
    draw, requests = random.Random(4), []
    for at in range(3_000):
        each = replace(served(draw, at), shadow_propensity=0.1)
        dear = 4 * (each.cost or 0)
        if at % 3 == 0:
            each = replace(each, own=True, cost=dear, teacher_cost=dear)
        elif draw.random() < 0.1:
            agreement = None if draw.random() < 0.3 else float(draw.random() < 0.9)
            each = replace(each, teacher_cost=dear, agreement=agreement)
        requests.append(each)
    found = report(requests)
    assert found.measured_by == "shadow"
    assert 150 < found.shadows < 250
    assert found.agreed < found.shadows
    assert found.cost_share is not None
    assert found.agreement is not None
    assert found.cost_share.value == pytest.approx(0.5, abs=0.03)
    assert 0.5 in found.cost_share.interval
    assert found.retention is None


def test_a_few_shadows_cannot_know_of_the_dearest_answers() -> None:
    """Of the teacher's own answers one in fifty costs twenty times the others; few of the rest have a shadow."""
    draw, requests = random.Random(9), []
    for at in range(2_000):
        each = replace(served(draw, at), shadow_propensity=0.05)
        dear = 1_000.0 * (20 if draw.random() < 0.02 else 1)
        if at % 5:
            each = replace(each, own=True, cost=dear, teacher_cost=dear)
        elif draw.random() < 0.05:
            each = replace(each, teacher_cost=dear, agreement=1.0)
        requests.append(each)
    found = report(requests)
    assert found.cost_share is not None
    assert found.teacher_cost is not None
    assert found.cost is not None
    assert found.teacher_cost.status == found.cost_share.status == "too_few_values"
    assert found.cost.status == "measured", "all of it is seen"


def test_few_failures_are_no_claim() -> None:
    draw, requests = random.Random(5), []
    for at in range(1_000):
        holdout = draw.random() < 0.05
        each = replace(
            served(draw, at, score=float(draw.random() < 0.97)), holdout=holdout, propensity=0.05 if holdout else 0.95
        )
        requests.append(replace(each, teacher_cost=each.cost) if holdout else each)
    found = report(requests)
    assert found.retention is not None
    assert found.retention.status == "too_few_failures"
    assert found.accuracy is not None
    assert found.accuracy.status == "measured"


def test_drift_is_flagged_with_its_moment() -> None:
    draw, requests = random.Random(6), []
    for at in range(1_000):
        each = served(draw, at, score=float(draw.random() < (0.9 if at < 500 else 0.6)))
        requests.append(replace(each, cost=(each.cost or 0) * (1 if at < 700 else 2)))
    score, cost = report(requests).drift
    assert score.of == "score"
    assert 450 <= score.since <= 550
    assert cost.of == "cost_share"
    assert 690 <= cost.since <= 710
    assert cost.before == pytest.approx(0.25)
    assert cost.after == pytest.approx(0.5)
