"""Usage: inclusive buckets."""

from __future__ import annotations

from pricing.usage import Usage


def test_visible_is_output_without_reasoning() -> None:
    assert Usage(10, 40, reasoning=30).visible == 10
    assert Usage(10, 40).visible == 40
    assert Usage(10, None, reasoning=3).visible is None


def test_nothing_is_known_at_first() -> None:
    assert Usage() == Usage(None, None, None, None, None, None, "reported")
