"""When a fallen child may be started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from students.child import LONGEST_PAUSE, STEADY_SECONDS, Pace, how

lives = st.lists(st.floats(0, 10 * STEADY_SECONDS))


def test_the_pauses_grow_from_nothing_to_half_a_minute() -> None:
    pace = Pace()
    assert [pace.fell(0.1) for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]


def test_a_steady_life_is_forgiven() -> None:
    pace = Pace()
    for _ in range(5):
        pace.fell(0.1)
    assert pace.fell(STEADY_SECONDS + 1) == 0
    assert pace.fell(0.1) == 1


@given(lives)
def test_a_pause_is_bounded_and_never_shorter_than_after_the_fall_before(lived: list[float]) -> None:
    pace, before = Pace(), 0.0
    for seconds in lived:
        pause = pace.fell(seconds)
        assert 0 <= pause <= LONGEST_PAUSE
        assert pause == 0 if seconds > STEADY_SECONDS else pause >= before
        before = pause


def test_a_thousand_falls_are_no_overflow() -> None:
    assert Pace(falls=100_000).fell(0) == LONGEST_PAUSE


def test_an_exit_code_in_words() -> None:
    assert (how(3), how(-9), how(-200)) == ("code 3", "SIGKILL", "signal 200")
