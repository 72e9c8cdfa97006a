"""AIPW: right whatever is predicted, surer where the prediction is good; and its intervals are never too sure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.aipw import Mean, aipw, proportion, quotient, scaled

values = st.lists(st.floats(0, 1), min_size=2, max_size=60)


def estimate(seen: Sequence[float | None], chances: Sequence[float], features: Sequence[Sequence[float]] = ()) -> Mean:
    found = aipw(seen, chances, list(map(scaled, features)))
    assert found is not None
    return found


@given(values)
def test_where_all_is_seen_it_is_the_mean(seen: list[float]) -> None:
    """Whatever a feature may predict."""
    draw = random.Random(0)
    found = estimate(seen, [1.0] * len(seen), [[draw.random() for _ in seen]])
    assert found.value == pytest.approx(fmean(seen), abs=1e-9)
    assert found.effective == pytest.approx(len(seen))
    assert found.smallest == 1.0


def test_it_weighs_what_was_seldom_seen() -> None:
    """Half of the requests are easy and seen one time in ten, the others always; the plain mean is far off."""
    draw = random.Random(1)
    easy = [draw.random() < 0.5 for _ in range(4_000)]
    chances = [0.1 if each else 1.0 for each in easy]
    seen = [float(each) if draw.random() < e else None for each, e in zip(easy, chances, strict=True)]
    plain = fmean(value for value in seen if value is not None)
    found = estimate(seen, chances)
    assert plain < 0.15
    assert found.value == pytest.approx(0.5, abs=0.06)
    assert 0.5 in found.share()
    assert found.smallest == 0.1
    assert found.effective < found.seen


def test_what_is_drawn_in_step_with_the_folds_is_no_trouble() -> None:
    seen = [9.0 if place % 5 == 0 else None for place in range(100)]
    assert estimate(seen, [0.2] * 100).value == pytest.approx(9.0)
    assert estimate(seen, [0.2] * 100, [[float(place % 7) for place in range(100)]]).value == pytest.approx(9.0)


def test_a_good_prediction_makes_it_surer() -> None:
    draw = random.Random(2)
    tokens = [draw.uniform(0, 100) for _ in range(2_000)]
    costs = [3 * x + draw.gauss(0, 5) for x in tokens]
    seen = [cost if draw.random() < 0.05 else None for cost in costs]
    blind, informed = estimate(seen, [0.05] * 2_000), estimate(seen, [0.05] * 2_000, [tokens])
    assert informed.variance < blind.variance / 10
    assert informed.value == pytest.approx(fmean(costs), abs=2)


def test_what_was_drawn_and_did_not_happen_does_not_shrink_it() -> None:
    draw = random.Random(3)
    seen = [10.0 if draw.random() < 0.1 and draw.random() < 0.5 else None for _ in range(3_000)]
    assert estimate(seen, [0.1] * 3_000).value == pytest.approx(10.0)


def test_no_failure_seen_is_not_certainty() -> None:
    found = estimate([1.0] * 50 + [None] * 950, [0.05] * 1_000)
    assert found.few
    assert found.value == 1.0
    assert found.share().low == pytest.approx(1 / (1 + 2.01**2 / 50), abs=0.005)
    assert found.share().high == 1.0


def test_skewed_amounts_have_skewed_intervals() -> None:
    draw = random.Random(4)
    found = estimate([draw.lognormvariate(0, 1) for _ in range(200)], [1.0] * 200)
    low, high = found.amount()
    assert found.skew > 0
    assert high - found.value > 1.2 * (found.value - low)
    flat = estimate([1.0, 2.0] * 50, [1.0] * 100).amount()
    assert flat.high - 1.5 == pytest.approx(1.5 - flat.low)


def test_a_ratio_of_what_moves_together_is_sure() -> None:
    draw = random.Random(5)
    dear = [draw.uniform(1, 9) for _ in range(400)]
    half = [0.5 * each for each in dear]
    over, under = estimate(half, [1.0] * 400), estimate(dear, [1.0] * 400)
    found = proportion(over, under)
    assert found is not None
    assert found.value == pytest.approx(0.5)
    assert found.interval.high - found.interval.low < 0.01
    nothing = estimate([0.0] * 400, [1.0] * 400)
    assert proportion(over, nothing) is None
    assert quotient(over, nothing) is None


def test_what_was_certain_to_be_seen_teaches_nothing_of_the_rest() -> None:
    """The rest costs what its length does not tell; of the certain ones the length tells all."""
    draw = random.Random(6)
    certain = [draw.random() < 0.8 for _ in range(4_000)]
    lengths = [draw.uniform(0, 100) for _ in certain]
    costs = [3 * x if sure else draw.uniform(0, 10) for x, sure in zip(lengths, certain, strict=True)]
    seen = [cost if sure or draw.random() < 0.1 else None for cost, sure in zip(costs, certain, strict=True)]
    found = estimate(seen, [1.0 if sure else 0.1 for sure in certain], [lengths])
    assert found.value == pytest.approx(fmean(costs), abs=0.3)
    terms = [found.value + each for each in found.apart]
    rest = fmean(term for term, sure in zip(terms, certain, strict=True) if not sure)
    assert rest == pytest.approx(5, abs=1.5)
    assert all(term == pytest.approx(cost) for term, cost, sure in zip(terms, costs, certain, strict=True) if sure)


def test_it_is_as_sure_as_the_few_of_the_rest_make_it() -> None:
    draw = random.Random(7)
    seen: list[float | None] = [1.0] * 1_700 + [draw.uniform(0, 1) for _ in range(15)] + [None] * 285
    found = estimate(seen, [1.0] * 1_700 + [0.05] * 300)
    assert found.effective < 30, "not the 519 that the weights alone would say"
    alike = estimate([1.0] * 1_715 + [None] * 285, [1.0] * 1_700 + [0.05] * 300)
    assert alike.effective == pytest.approx(15 * 2_000 / 300)
    assert alike.share().low < 0.99
    assert aipw([1.0] * 1_700 + [0.5] + [None] * 299, [1.0] * 1_700 + [0.05] * 300) is None


def test_amounts_whose_tail_a_few_cannot_know_are_thin() -> None:
    draw = random.Random(8)

    def made(tail: float) -> Mean:
        costs = [draw.lognormvariate(0, 0.3) * (tail if draw.random() < 0.02 else 1) for _ in range(1_600)]
        rest = [1.0] * 30 + [None] * 370
        return estimate([*costs, *rest], [1.0] * 1_600 + [0.075] * 400)

    assert made(20).thin
    assert not made(1).thin
    assert not estimate([1.0] * 99 + [500.0], [0.05] * 100).thin, "one part knows its own tail"


def test_a_feature_that_never_varies_is_harmless() -> None:
    seen = [float(i % 2) for i in range(100)]
    assert estimate(seen, [1.0] * 100, [[7.0] * 100]).value == pytest.approx(0.5)


def test_too_little_or_too_odd() -> None:
    assert aipw([], []) is None
    assert aipw([1.0, None], [1.0, 1.0]) is None
    with pytest.raises(ValueError, match="propensity"):
        aipw([1.0, 0.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="known of every"):
        aipw([1.0, 0.0], [1.0, 1.0], [[1.0]])
