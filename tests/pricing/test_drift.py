"""Drift: a change is found and dated, and seldom where there is none."""

from __future__ import annotations

import random

from pricing.drift import LEAST, change


def test_a_change_is_found_where_it_is() -> None:
    draw = random.Random(1)
    found = change([float(draw.random() < (0.95 if at < 600 else 0.75)) for at in range(1_000)])
    assert found is not None
    assert found.flagged
    assert 550 < found.place < 650
    assert found.before > 0.92
    assert found.after < 0.82


def test_chance_is_seldom_flagged() -> None:
    draw, flagged = random.Random(2), 0
    for _ in range(400):
        found = change([draw.expovariate(1) for _ in range(200)])
        flagged += found is not None and found.flagged
    assert flagged <= 8  # one in a hundred, and the luck of 400


def test_a_change_that_does_not_matter_is_not_flagged() -> None:
    found = change([100.0 + (at >= 500) + 0.1 * (at % 3) for at in range(1_000)])
    assert found is not None
    assert found.p < 1e-6
    assert not found.flagged


def test_too_little_to_say() -> None:
    assert change([1.0, 0.0] * (LEAST // 2 - 1)) is None
    assert change([1.0] * 100) is None
