"""Usage: inclusive buckets."""

from __future__ import annotations

from pricing.usage import Usage


def test_visible_is_output_without_reasoning() -> None:
    assert Usage(10, 40, reasoning=30).visible == 10
    assert Usage(10, 40).visible == 40
    assert Usage(10, None, reasoning=3).visible is None


def test_nothing_is_known_at_first() -> None:
    assert Usage() == Usage(None, None, None, None, None, None, "reported")


def test_two_together_are_as_sure_as_the_less_sure() -> None:
    one, other = Usage(10, 4, cached=3, seconds=1.0), Usage(20, 5, reasoning=2, seconds=0.5, source="counted")
    assert one.plus(other) == other.plus(one) == Usage(30, 9, 3, None, 2, 1.5, "counted")
    assert one.plus(Usage(source="estimated")) == Usage(None, None, 3, None, None, None, "estimated")
