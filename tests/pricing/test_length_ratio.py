"""The ratio of lengths: of sums, with an interval that holds the truth about as often as it says."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pricing.intervals import student
from pricing.length_ratio import LEAST, LengthRatio, Pairs

lengths = st.integers(0, 5_000)
samples = st.lists(st.tuples(lengths, lengths), min_size=LEAST, max_size=80)


@given(samples, samples)
def test_sums_add_up_whoever_summed_them(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    both = Pairs.of(one) + Pairs.of(other)
    assert both == Pairs.of([*other, *one])
    assert (both.n, both.shown, both.teacher) == (
        len(one) + len(other),
        sum(x for x, _ in one + other),
        sum(y for _, y in one + other),
    )


@given(samples)
def test_the_ratio_is_that_of_the_sums_and_in_its_interval(pairs: list[tuple[int, int]]) -> None:
    ratio = Pairs.of(pairs).ratio()
    assume(ratio is not None)
    assert ratio is not None
    assert ratio.likely == sum(y for _, y in pairs) / sum(x for x, _ in pairs)
    assert 0 <= ratio.low <= ratio.likely <= ratio.high < math.inf
    assert ratio.pairs == len(pairs)


@given(samples)
def test_the_ends_are_where_the_test_begins_to_reject(pairs: list[tuple[int, int]]) -> None:
    """The same interval the slow way: the t statistic of `teacher - r * shown` at its ends is the quantile."""
    ratio = Pairs.of(pairs).ratio()
    assume(ratio is not None)
    assert ratio is not None
    n, t = len(pairs), student(0.95, len(pairs) - 1)

    def statistic(r: float) -> float:
        rest = [y - r * x for x, y in pairs]
        mean = sum(rest) / n
        variance = sum((each - mean) ** 2 for each in rest) / (n - 1)
        return abs(mean) / math.sqrt(variance / n) if variance > 1e-6 * max(1.0, mean * mean) else math.inf

    for end in (ratio.low, ratio.high):
        if 0 < end != ratio.likely and statistic(end) != math.inf:
            assert statistic(end) == pytest.approx(t, rel=1e-3)


@given(samples, st.integers(2, 9))
def test_twice_as_long_is_twice_the_ratio(pairs: list[tuple[int, int]], factor: int) -> None:
    one, more = Pairs.of(pairs).ratio(), Pairs.of((x, factor * y) for x, y in pairs).ratio()
    assert (one is None) == (more is None)
    if one is not None and more is not None:
        assert more.likely == pytest.approx(factor * one.likely)
        assert more.low == pytest.approx(factor * one.low, rel=1e-6, abs=1e-9)
        assert more.high == pytest.approx(factor * one.high, rel=1e-6, abs=1e-9)


def test_where_nothing_varies_there_is_no_doubt() -> None:
    ratio = Pairs.of([(40, 60), (400, 600)] * 15).ratio()
    assert ratio is not None
    assert (ratio.low, ratio.likely, ratio.high) == pytest.approx((1.5, 1.5, 1.5))


def test_too_few_pairs_and_too_little_shown_say_nothing() -> None:
    pairs = [(10, 20)] * LEAST
    assert Pairs.of(pairs[1:]).ratio() is None
    assert isinstance(Pairs.of(pairs).ratio(), LengthRatio)
    assert Pairs.of([(0, 20)] * LEAST).ratio() is None
    assert Pairs.of([(0, 20)] * (LEAST - 1) + [(900, 20)]).ratio() is None, "one answer is all that was shown"
    assert Pairs().ratio() is None


@pytest.mark.parametrize(("freedom", "exact"), [(29, 2.045230), (59, 2.000995), (999, 1.962341)])
def test_the_quantile_is_students(freedom: int, exact: float) -> None:
    assert student(0.95, freedom) == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize(("spread", "least"), [(0.3, 0.92), (0.6, 0.88)])
def test_it_holds_the_truth_about_as_often_as_it_says(spread: float, least: float) -> None:
    """Skewed lengths, which the plain interval misses more often."""
    dice, held = random.Random(3), 0
    for _ in range(400):
        pairs = []
        for _ in range(LEAST):
            shown = dice.lognormvariate(5, 0.8)
            pairs.append((round(shown), round(shown * dice.lognormvariate(0.2, spread))))
        ratio = Pairs.of(pairs).ratio()
        assert ratio is not None
        held += ratio.low <= math.exp(0.2 + spread**2 / 2) <= ratio.high
    assert least <= held / 400 <= 0.99
