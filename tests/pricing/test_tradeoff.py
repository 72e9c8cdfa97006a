"""The trade-off's numbers: against small cases worked by hand, and what must hold of any."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.tradeoff import (
    Option,
    Point,
    aiq,
    apgr,
    compare,
    cost_per_correct,
    cost_share,
    cpt,
    curve,
    gap_closed,
    hull,
    lift,
    non_inferiority,
    oracle_cost,
    point,
    random_mix,
    random_share,
    recovered,
    retention,
)

STUDENT, TEACHER = Point(1.0, 0.5), Point(11.0, 0.9)

points = st.lists(st.builds(Point, st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=12)


def test_ratios_are_of_sums() -> None:
    assert retention([1, 0, 1, 1], [1, 1, 1, 1]) == 0.75
    assert retention([1.0], [0.0]) is None
    assert cost_share([1, 1], [1, 9]) == 0.2  # and not the mean of 1 and 1/9
    assert cost_share([1.0], [0.0]) is None
    assert cost_per_correct([2, 3], [1, 0]) == 5
    assert cost_per_correct([2, 3], [0, 0]) is None
    assert point([1, 3], [0, 1]) == (2, 0.5)
    with pytest.raises(ValueError, match="same length"):
        cost_share([1.0], [1.0, 2.0])


def test_the_recovered_gap_is_told_where_there_is_one() -> None:
    student, teacher = [0.0] * 80 + [1.0] * 20, [1.0] * 80 + [0.0] * 20
    policy = [0.0] * 40 + [1.0] * 40 + [0.0] * 20
    assert recovered(policy, student, teacher) == pytest.approx((0.4 - 0.2) / 0.6)
    equal = [1.0, 0.0] * 50
    assert recovered(policy, equal, equal) is None
    assert recovered(policy, teacher, student) is None  # the student is better
    near = [*equal[:-1], 1.0]  # one request better of 100: one standard error
    assert recovered(policy, equal, near) is None


def test_random_mixing_is_the_line() -> None:
    assert random_mix(1, STUDENT, TEACHER) == 0.5
    assert random_mix(6, STUDENT, TEACHER) == pytest.approx(0.7)
    assert random_mix(20, STUDENT, TEACHER) == 0.9
    assert random_mix(0.5, STUDENT, TEACHER) is None
    assert random_mix(5, TEACHER, STUDENT) is None
    assert lift(Point(6, 0.8), STUDENT, TEACHER) == pytest.approx(0.1)
    assert random_share(8 / 9, STUDENT, TEACHER) == pytest.approx((1 + 0.75 * 10) / 11)
    assert random_share(0.5, STUDENT, TEACHER) == pytest.approx(1 / 11)
    assert random_share(1.1, STUDENT, TEACHER) is None


def test_the_oracle_pays_for_what_counts_only() -> None:
    both_right = [Option(1, 1), Option(10, 1)]
    teacher_right = [Option(1, 0), Option(10, 1)]
    dear = [Option(1, 0), Option(30, 1)]
    nobody = [Option(1, 0), Option(10, 0)]
    requests = [both_right, teacher_right, dear, nobody]
    assert oracle_cost(requests, 1) == 4
    assert oracle_cost(requests, 2) == 13
    assert oracle_cost(requests, 3) == 42
    assert oracle_cost(requests, 4) is None
    assert gap_closed(0.5, 0.8, 0.2) == pytest.approx(0.5)
    assert gap_closed(0.5, 0.2, 0.2) is None
    with pytest.raises(ValueError, match="option"):
        oracle_cost([[]], 0)


@given(
    st.lists(
        st.lists(st.builds(Option, st.integers(1, 50).map(float), st.sampled_from((0.0, 1.0))), min_size=1, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_the_oracle_is_the_best_of_all_choices(requests: list[list[Option]]) -> None:
    choices = [(sum(o.cost for o in each), sum(o.score for o in each)) for each in product(*requests)]
    for target in range(len(requests) + 2):
        reached = [cost for cost, score in choices if score >= target]
        assert oracle_cost(requests, target) == (pytest.approx(min(reached)) if reached else None)


def test_the_hull_drops_what_mixing_beats() -> None:
    flat, good = Point(6, 0.6), Point(4, 0.8)
    assert hull([TEACHER, flat, STUDENT, good, Point(12, 0.7)]) == [STUDENT, good, TEACHER]
    assert hull([Point(2, 0.1), Point(2, 0.4), Point(3, 0.4)]) == [Point(2, 0.4)]


@given(points)
def test_the_hull_is_above_all_points_and_rises(some: list[Point]) -> None:
    found = hull(some)
    assert set(found) <= set(some)
    assert found[-1].accuracy == max(p.accuracy for p in some)
    assert found[0].cost == min(p.cost for p in some)
    for a, b in pairwise(found):
        assert a.cost < b.cost
        assert a.accuracy < b.accuracy
        for p in some:
            if a.cost <= p.cost <= b.cost:
                over = (b.accuracy - a.accuracy) * (p.cost - a.cost) / (b.cost - a.cost)
                assert p.accuracy <= a.accuracy + over + 1e-6


def test_the_height_of_the_hull() -> None:
    assert aiq([STUDENT, TEACHER], 1, 11) == pytest.approx(0.7)
    assert aiq([STUDENT, TEACHER], 1, 21) == pytest.approx(0.8)
    assert aiq([Point(2, 0.4)], 0, 4) == pytest.approx(0.2)
    assert aiq([], 0, 1) is None
    assert aiq([STUDENT], 1, 1) is None


def test_the_curve_of_calls() -> None:
    """APGR of random mixing is one half; CPT is read between points."""
    line = curve([], STUDENT, TEACHER)
    assert line == [(0, 0), (1, 1)]
    assert apgr(line) == 0.5
    assert cpt(line, 0.8) == pytest.approx(0.8)
    better = curve([Point(3.5, 0.8)], STUDENT, TEACHER)
    assert better is not None
    assert better[1] == pytest.approx((0.25, 0.75))
    assert apgr(better) == pytest.approx(0.25 * 0.375 + 0.75 * 0.875)
    assert cpt(better, 0.5) == pytest.approx(1 / 6)
    assert cpt(better, 1.2) is None
    assert curve([], TEACHER, STUDENT) is None


def test_not_inferior_needs_enough_requests() -> None:
    few = non_inferiority([1.0] * 100, [1.0] * 100)
    many = non_inferiority([1.0] * 1000, [1.0] * 1000)
    assert few.difference == many.difference == 0
    assert not few.holds
    assert many.holds
    assert not non_inferiority([0.0] * 30 + [1.0] * 970, [1.0] * 1000).holds


def test_a_comparison_has_paired_intervals() -> None:
    teacher = [1.0] * 180 + [0.0] * 20
    policy = [1.0] * 160 + [0.0] * 40
    costs, dear = [1.0, 3.0] * 100, [10.0] * 200
    found = compare(policy, costs, teacher, dear)
    assert found.retention == pytest.approx(160 / 180)
    assert found.cost_share == pytest.approx(0.2)
    assert found.difference == pytest.approx(-0.1)
    for value, interval in (
        (160 / 180, found.retention_interval),
        (0.2, found.cost_share_interval),
        (-0.1, found.difference_interval),
    ):
        assert interval is not None
        assert interval.low < value < interval.high
    assert found.difference_interval is not None
    # Pairs: a tenth differ, so the standard error is that of 20 of 200, and not of two shares.
    assert found.difference_interval.high - found.difference_interval.low < 0.1
    assert compare(policy, costs, [0.0] * 200, dear).retention_interval is None
