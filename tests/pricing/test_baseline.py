"""Baseline: a range around the teacher's likely cost, never from an unknown."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pricing.baseline import Baseline, calibrated, measured, same_length
from pricing.length_ratio import LengthRatio, Pairs
from pricing.money import Money
from pricing.price import Price
from pricing.usage import Usage

PRICE = Price("gpt-6-sol", "config", Money.usd(2), Money.usd(10), Money.usd("0.2"))


def test_same_length_prices_what_was_shown() -> None:
    baseline = same_length(PRICE, input_tokens=312, output_tokens=450)
    assert baseline == Baseline(
        "same_length",
        PRICE.cost(Usage(312, 225)),
        PRICE.cost(Usage(312, 450)),
        PRICE.cost(Usage(312, 900)),
        450,
    )
    assert baseline.likely == Money.usd("0.005124")


def test_the_teachers_cache_discount_is_part_of_the_baseline() -> None:
    assert same_length(PRICE, input_tokens=1000, output_tokens=0, cached=1000).likely == Money.usd("0.0002")


def test_no_answer_is_longer_than_the_caller_allows() -> None:
    baseline = same_length(PRICE, input_tokens=0, output_tokens=450, max_tokens=500)
    assert baseline.high == PRICE.cost(Usage(0, 500))
    assert baseline.likely == PRICE.cost(Usage(0, 450))
    assert same_length(PRICE, input_tokens=0, output_tokens=450, max_tokens=40).output_tokens == 40


def test_ratios_are_decimal_and_round_outwards() -> None:
    baseline = same_length(PRICE, input_tokens=0, output_tokens=10, ratio_low=0.95, ratio_high=1.1)
    assert baseline.low == PRICE.cost(Usage(0, 9))
    assert baseline.high == PRICE.cost(Usage(0, 11))
    odd = same_length(PRICE, input_tokens=0, output_tokens=3, ratio_low=0.5, ratio_high=1.5)
    assert (odd.low, odd.high) == (PRICE.cost(Usage(0, 1)), PRICE.cost(Usage(0, 5)))


def test_unknown_stays_unknown() -> None:
    assert same_length(None, input_tokens=1, output_tokens=9) == Baseline("same_length", None, None, None, 9)
    assert same_length(PRICE, input_tokens=None, output_tokens=9) == Baseline("same_length", None, None, None, 9)
    assert same_length(PRICE, input_tokens=1, output_tokens=None) == Baseline("same_length", None, None, None)
    assert measured(None, 3) == Baseline("measured", None, None, None, 3)


def test_measured_has_no_range() -> None:
    assert measured(Money(7), 3) == Baseline("measured", Money(7), Money(7), Money(7), 3)


@pytest.mark.parametrize(("low", "high"), [(1.1, 2.0), (0.5, 0.9), (-0.1, 1.0)])
def test_ratios_are_around_one(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="around 1"):
        same_length(PRICE, input_tokens=1, output_tokens=1, ratio_low=low, ratio_high=high)


@given(
    st.integers(0, 10**5),
    st.integers(0, 10**5),
    st.floats(0, 1),
    st.floats(1, 10),
    st.none() | st.integers(0, 10**5),
)
def test_low_likely_high_are_in_order(tokens: int, output: int, low: float, high: float, cap: int | None) -> None:
    baseline = same_length(
        PRICE, input_tokens=tokens, output_tokens=output, ratio_low=low, ratio_high=high, max_tokens=cap
    )
    assert baseline.low is not None
    assert baseline.likely is not None
    assert baseline.high is not None
    assert baseline.low <= baseline.likely <= baseline.high


RATIO = LengthRatio(shown=300, teacher=450, low=1.25, high=1.8, pairs=30)


def test_calibrated_prices_the_measured_ratio() -> None:
    baseline = calibrated(PRICE, input_tokens=312, output_tokens=101, ratio=RATIO)
    assert baseline == Baseline(
        "calibrated",
        PRICE.cost(Usage(312, 126)),  # 126.25, rounded outwards
        PRICE.cost(Usage(312, 152)),  # 151.5, rounded half up
        PRICE.cost(Usage(312, 182)),  # 181.8
        152,
    )


def test_no_calibrated_answer_is_longer_than_the_caller_allows() -> None:
    baseline = calibrated(PRICE, input_tokens=0, output_tokens=100, ratio=RATIO, max_tokens=130)
    assert (baseline.low, baseline.likely, baseline.high) == (
        PRICE.cost(Usage(0, 125)),
        PRICE.cost(Usage(0, 130)),
        PRICE.cost(Usage(0, 130)),
    )
    assert baseline.output_tokens == 130


def test_calibrated_needs_a_price_and_lengths() -> None:
    assert calibrated(None, input_tokens=1, output_tokens=10, ratio=RATIO) == Baseline(
        "calibrated", None, None, None, 15
    )
    assert calibrated(PRICE, input_tokens=1, output_tokens=None, ratio=RATIO) == Baseline(
        "calibrated", None, None, None
    )


@given(
    st.integers(0, 10**6),
    st.none() | st.integers(1, 10**5),
    st.lists(st.tuples(st.integers(1, 900), st.integers(0, 900)), min_size=30, max_size=40),
)
def test_the_calibrated_range_is_around_the_likely_cost(
    shown: int, limit: int | None, pairs: list[tuple[int, int]]
) -> None:
    ratio = Pairs.of(pairs).ratio()
    assume(ratio is not None)
    assert ratio is not None
    baseline = calibrated(PRICE, input_tokens=9, output_tokens=shown, ratio=ratio, max_tokens=limit)
    assert baseline.low is not None
    assert baseline.likely is not None
    assert baseline.high is not None
    assert baseline.low <= baseline.likely <= baseline.high
    assert limit is None or (baseline.output_tokens or 0) <= limit
