"""Intervals: against published values, and against what they promise."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.intervals import (
    Interval,
    mcnemar,
    paired_difference,
    percentiles,
    ratio,
    resampled_means,
    student,
    wilson,
)


def test_student_is_as_in_the_tables() -> None:
    assert student(0.95, 29) == pytest.approx(2.04523, abs=1e-5)
    assert student(0.95, 10) == pytest.approx(2.22814, rel=1e-3)
    assert student(0.99, 1e9) == pytest.approx(2.575829, abs=1e-5)
    with pytest.raises(ValueError, match="one degree"):
        student(0.95, 0.5)


def test_wilson_is_as_published() -> None:
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29; limits by the score method."""
    for successes, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        assert wilson(successes / n, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1.0, 50).high == 1.0 > wilson(1.0, 50).low


@given(st.floats(0, 1), st.floats(0.5, 1e6))
def test_wilson_holds_its_share_and_stays_between_0_and_1(share: float, n: float) -> None:
    low, high = wilson(share, n)
    assert 0 <= low <= share <= high <= 1
    wider = wilson(share, n, freedom=5)
    assert wider.low <= low + 1e-12
    assert high <= wider.high + 1e-12


def test_no_share_of_trials() -> None:
    for share, n in ((1.1, 10), (-0.1, 10), (0.5, 0)):
        with pytest.raises(ValueError, match="no share"):
            wilson(share, n)


def test_a_ratio_over_something_certain_is_its_interval_divided() -> None:
    assert ratio(0.9, Interval(0.8, 0.95), 0.5, Interval(0.5, 0.5)) == pytest.approx((1.6, 1.9))


def test_a_ratio_of_something_certain_is_turned_over() -> None:
    assert ratio(1.0, Interval(1.0, 1.0), 0.5, Interval(0.4, 0.8)) == pytest.approx((1.25, 2.5))


def test_a_ratio_to_what_may_be_nothing_has_no_upper_end() -> None:
    assert ratio(1.0, Interval(0.9, 1.1), 0.5, Interval(0.0, 1.1)) == (0.0, inf)
    assert ratio(1.0, Interval(0.9, 1.1), 0.0, Interval(0.0, 1.1)) is None


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.integers(20, 5000), st.floats(-0.9, 0.99))
def test_a_ratio_is_within_its_interval(a: float, b: float, n: int, correlation: float) -> None:
    found = ratio(a, wilson(a, n), b, wilson(b, n), correlation)
    assert found is not None
    assert found.low - 1e-9 <= a / b <= found.high + 1e-9


def test_what_moves_together_has_a_surer_ratio() -> None:
    spread = Interval(0.8, 0.96)
    apart, together = (ratio(0.9, spread, 0.9, spread, c) for c in (0.0, 0.9))
    assert apart is not None
    assert together is not None
    assert together.high - together.low < (apart.high - apart.low) / 2


def test_no_difference_seen_is_not_certainty() -> None:
    low, high = paired_difference([1.0] * 100, [1.0] * 100)
    assert low == pytest.approx(-high)
    assert 0.015 < high < 0.03  # about 1.96 / 102
    low, high = paired_difference([1.0] * 50 + [0.0] * 50, [0.0] * 100)
    assert 0.35 < low < 0.5 < high < 0.65


def test_paired_differences_cover() -> None:
    draw, held = random.Random(1), 0
    for _ in range(400):
        one = [float(draw.random() < 0.9) for _ in range(120)]
        other = [x if draw.random() < 0.9 else float(draw.random() < 0.5) for x in one]
        held += 0.9 - (0.9 * 0.9 + 0.1 * 0.5) in paired_difference(one, other)
    assert 0.92 <= held / 400 <= 0.985


def test_mcnemar_is_the_two_sided_binomial() -> None:
    one = [True] * 8 + [False] * 2 + [True] * 5
    other = [False] * 8 + [True] * 2 + [True] * 5
    found = mcnemar(one, other)
    assert (found.b, found.c) == (8, 2)
    assert found.p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert mcnemar([True, False], [False, True]).p == 1.0
    assert mcnemar([], []).p == 1.0


def test_the_bootstrap_keeps_rows_together() -> None:
    column = [float(i % 7) for i in range(200)]
    means = resampled_means((column, [2 * x for x in column]), resamples=50)
    assert all(b == pytest.approx(2 * a) for a, b in means)
    assert len({a for a, _ in means}) > 20
    assert means == resampled_means((column, [2 * x for x in column]), resamples=50)
    with pytest.raises(ValueError, match="same length"):
        resampled_means(([1.0], [1.0, 2.0]))


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_standard_error() -> None:
    draw = random.Random(3)
    column = [draw.gauss(10, 2) for _ in range(400)]
    found = percentiles(mean for (mean,) in resampled_means((column,)))
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.12)


def test_percentiles() -> None:
    assert percentiles([float(i) for i in range(101)], level=0.9) == pytest.approx((5.0, 95.0))
    assert percentiles([None] * 5 + [1.0] * 95) is None
    assert percentiles([None] * 4 + [1.0] * 96) == (1.0, 1.0)
    assert percentiles([]) is None
