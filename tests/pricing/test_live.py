"""The live report: what each kind of measuring lets it say, and what it leaves unsaid."""

from __future__ import annotations

import random

import pytest

from pricing.live import Observed, Report, Window
from pricing.live import report as report_of


def report(requests: list[Observed]) -> Report:
    return report_of(Window.of(requests))


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
            each = each._replace(
                holdout=True, propensity=0.2, cost=dear, teacher_cost=dear, score=float(draw.random() < 0.8)
            )
        else:
            each = each._replace(propensity=0.8)
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
        each = served(draw, at)._replace(shadow_propensity=0.1)
        dear = 4 * (each.cost or 0)
        if at % 3 == 0:
            each = each._replace(own=True, cost=dear, teacher_cost=dear)
        elif draw.random() < 0.1:
            agreement = None if draw.random() < 0.3 else float(draw.random() < 0.9)
            each = each._replace(teacher_cost=dear, agreement=agreement)
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
        each = served(draw, at)._replace(shadow_propensity=0.05)
        dear = 1_000.0 * (20 if draw.random() < 0.02 else 1)
        if at % 5:
            each = each._replace(own=True, cost=dear, teacher_cost=dear)
        elif draw.random() < 0.05:
            each = each._replace(teacher_cost=dear, agreement=1.0)
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
        each = served(draw, at, score=float(draw.random() < 0.97))._replace(
            holdout=holdout, propensity=0.05 if holdout else 0.95
        )
        requests.append(each._replace(teacher_cost=each.cost) if holdout else each)
    found = report(requests)
    assert found.retention is not None
    assert found.retention.status == "too_few_failures"
    assert found.accuracy is not None
    assert found.accuracy.status == "measured"


def test_drift_is_flagged_with_its_moment() -> None:
    draw, requests = random.Random(6), []
    for at in range(1_000):
        each = served(draw, at, score=float(draw.random() < (0.9 if at < 500 else 0.6)))
        requests.append(each._replace(cost=(each.cost or 0) * (1 if at < 700 else 2)))
    score, cost = report(requests).drift
    assert score.of == "score"
    assert 450 <= score.since <= 550
    assert cost.of == "cost_share"
    assert 690 <= cost.since <= 710
    assert cost.before == pytest.approx(0.25)
    assert cost.after == pytest.approx(0.5)


def window(seed: int, by: str) -> list[Observed]:
    """Requests of which one in five was held out, or one in seven shadowed; some of the teacher's own; dearer later."""
    draw, rows = random.Random(seed), []
    for at in range(600):
        tokens, shown = draw.randrange(20, 2_000), draw.randrange(10, 400)
        later = 4_000 if at > 400 and draw.random() < 0.5 else 0
        cost = float(tokens * 2 + shown * draw.randrange(5, 9) + later)
        held = by == "holdout" and draw.random() < 0.2
        own = not held and draw.random() < 0.1
        measured = held or own or draw.random() < 0.15
        alone = (3 * cost if held else cost * draw.uniform(2, 4)) if measured else None
        baseline = draw.choice([None, 6.0 * tokens + 20 * shown, 6.0 * tokens + 21 * shown])
        score = float(draw.random() < (0.9 if held else 0.75)) if draw.random() < 0.6 else None
        rows.append(
            Observed(
                float(at),
                held,
                0.2 if held else 0.8 if by == "holdout" else 1.0,
                None if held else 0.15,
                own,
                tokens,
                shown,
                3 * cost if held else cost,
                alone,
                baseline,
                score,
                draw.random() if measured and not held else None,
            )
        )
    return rows


RECKONED: dict[str, dict[str, tuple[float, ...] | None]] = {
    "holdout": {
        "accuracy": (0.7626234874845832, 0.7114324478196238, 0.8071944692402094, 304, 304.0),
        "teacher_accuracy": (0.8857316903194588, 0.7967438576357385, 0.9387544825346573, 86, 86.0),
        "retention": (0.8596324248681703, 0.7863634691214269, 0.9708985115449354, 86, 86.0),
        "agreement": (0.5044612913123382, 0.43053870735894406, 0.5781893414819931, 97, 60.75194904638632),
        "cost": (4096.091835484313, 3916.321557858959, 4286.342128895524, 465, 465.0),
        "teacher_cost": (11529.491120221346, 10702.421860117287, 12504.220252594463, 135, 135.0),
        "cost_share": (0.35478312530247874, 0.3239196512693872, 0.3829405033603037, 135, 135.0),
    },
    "shadow": {
        "accuracy": (0.7368274535098507, 0.6870108055769694, 0.7812398630716898, 338, 338.0),
        "teacher_accuracy": None,
        "retention": None,
        "agreement": (0.5421081843274009, 0.47587555719260427, 0.6068852160067685, 126, 72.24279824510059),
        "cost": (4009.9466666666667, 3850.472766340141, 4175.711391562262, 600, 600.0),
        "teacher_cost": (12086.607529037095, 10946.303617434998, 13551.821272216814, 126, 71.30620875270549),
        "cost_share": (0.3309938548580336, 0.2955678891900314, 0.3604602927801816, 126, 71.30620875270549),
    },
}
"""Value, low and high end, values seen and what they are worth, from the formulas written out request by request."""

DRIFTED: dict[str, list[tuple[float, ...]]] = {
    "holdout": [(404.0, 0.325583521091047, 0.5393890838848625, 2.6415446021971962e-27)],
    "shadow": [(402.0, 0.326402072423068, 0.5374804911459534, 8.698627152217946e-32)],
}
"""Of the cost share: since when, before, after, and p."""


@pytest.mark.parametrize(("seed", "by"), [(1, "holdout"), (2, "shadow")])
def test_the_numbers_are_those_of_the_formulas(seed: int, by: str) -> None:
    found = report(window(seed, by))
    assert found.measured_by == by
    for name, told in RECKONED[by].items():
        each = getattr(found, name)
        got = None if each is None else (each.value, *each.interval, each.seen, each.effective)
        assert got == (None if told is None else pytest.approx(told, rel=1e-11)), name
    assert {each.of for each in found.drift} == {"cost_share"}
    drift = [(each.since, each.before, each.after, each.p) for each in found.drift]
    assert drift == [pytest.approx(told, rel=1e-9) for told in DRIFTED[by]]
