"""Guidance that comes to nothing three times in a row is not asked for, for a while, and then tried once more."""

from __future__ import annotations

import pytest

from gateway.waste import IN_A_ROW, MOST, REST_SECONDS, Waste


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waste(clock: Clock) -> Waste:
    return Waste(clock)


def begin(waste: Waste, wasted: str = "reasoning") -> list[bool]:
    return [waste.saw("t", "m", wasted) for _ in range(IN_A_ROW)]


@pytest.mark.parametrize("wasted", ["reasoning", "empty"])
def test_a_few_in_a_row_begin_a_pause_of_that_model_only(waste: Waste, wasted: str) -> None:
    assert begin(waste, wasted) == [False] * (IN_A_ROW - 1) + [True]
    assert waste.paused("t", "m")
    assert not waste.paused("t", "other")
    assert not waste.paused("other", "m")


def test_one_that_came_ends_the_row(waste: Waste) -> None:
    for wasted in ("reasoning", "reasoning", None, "empty", "empty"):
        assert not waste.saw("t", "m", wasted)
    assert not waste.paused("t", "m")


@pytest.mark.parametrize("wasted", ["failed", "refused", "torn", "student_failed"])
def test_what_a_network_or_the_student_did_is_not_counted_and_ends_no_row(waste: Waste, wasted: str) -> None:
    assert not any(waste.saw("t", "m", wasted) for _ in range(9))
    for each in ("empty", wasted, "empty", wasted):
        assert not waste.saw("t", "m", each)
    assert waste.saw("t", "m", "empty")


def test_after_the_rest_one_more_decides(waste: Waste, clock: Clock) -> None:
    begin(waste)
    clock.now += REST_SECONDS
    assert not waste.paused("t", "m")
    assert waste.saw("t", "m", "empty"), "once more in vain, and it rests again"
    assert waste.paused("t", "m")
    clock.now += REST_SECONDS
    waste.saw("t", "m", None)
    assert not waste.saw("t", "m", "empty"), "a new row"
    assert not waste.paused("t", "m")


def test_what_was_under_way_does_not_make_the_pause_longer(waste: Waste, clock: Clock) -> None:
    begin(waste)
    clock.now += REST_SECONDS - 1
    assert not waste.saw("t", "m", "reasoning")
    clock.now += 1
    assert not waste.paused("t", "m")


def test_only_so_many_models_are_remembered(waste: Waste) -> None:
    begin(waste)
    for number in range(MOST):
        waste.saw("t", f"model {number}", "empty")
    assert not waste.paused("t", "m"), "the oldest is forgotten"
