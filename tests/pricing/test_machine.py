"""A machine's account: the union of its calls' times, and what is busy and idle of its cost."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pricing.machine import Machine, Span, Stay, busy_seconds, worked
from pricing.money import Money

moments = st.integers(0, 40).map(float)
spans = st.lists(st.tuples(moments, moments), max_size=12)
"""Whole seconds, so that every sum is exact; some end before they begin."""


def covered(of: list[Span], since: float, until: float) -> int:
    """The same by counting: so many whole seconds lie within a span."""
    return sum(any(begin <= at and at + 1 <= end for begin, end in of) for at in range(int(since), int(until)))


@given(spans, moments, moments)
def test_the_union_is_what_counting_finds(of: list[Span], since: float, until: float) -> None:
    assert busy_seconds(of, since, until) == covered(of, since, until)


@given(spans, moments, moments, st.randoms())
def test_order_and_repetition_do_not_matter(of: list[Span], since: float, until: float, chance: Random) -> None:
    again = [*of, *of[::2]]
    chance.shuffle(again)
    assert busy_seconds(again, since, until) == busy_seconds(of, since, until)


@given(spans, moments, moments, moments)
def test_neighbouring_ranges_add_up(of: list[Span], a: float, b: float, c: float) -> None:
    first, middle, last = sorted((a, b, c))
    parts = busy_seconds(of, first, middle) + busy_seconds(of, middle, last)
    assert parts == busy_seconds(of, first, last)


@given(spans, spans, moments, moments)
def test_more_calls_are_never_less_busy_and_never_more_than_all_the_time(
    of: list[Span], more: list[Span], since: float, until: float
) -> None:
    alone, together = busy_seconds(of, since, until), busy_seconds([*of, *more], since, until)
    assert 0 <= alone <= together <= max(0.0, until - since)
    assert together <= alone + sum(max(0.0, end - begin) for begin, end in more)


@given(spans, moments, moments, st.integers(0, 10**12))
def test_cost_is_work_and_idleness_to_the_nano_dollar(of: list[Span], since: float, until: float, rate: int) -> None:
    machine = Machine.of(Money(rate), [Stay(*each) for each in of], since, until, Money(1))
    assert machine.working + machine.idle == machine.cost
    assert machine.idle.nano >= 0
    assert (machine.utilisation is None) == (until <= since)
    assert machine.utilisation is None or 0 <= machine.utilisation <= 1


def test_two_at_once_are_one_machine() -> None:
    """Three calls in an hour at 3.60 dollars: two together from 0 to 100 s, one from 50 to 150 s."""
    stays = [Stay(0, 100, 25 + 50 / 3), Stay(0, 100, 25 + 50 / 3), Stay(50, 150, 50 + 50 / 3)]
    machine = Machine.of(Money.usd("3.6"), stays, 0, 3_600, Money.usd("0.15"))
    assert machine.busy == 150
    assert machine.utilisation == 150 / 3_600
    assert machine.cost == Money.usd("3.6")
    assert machine.working == Money.usd("0.15")
    assert machine.idle == Money.usd("3.45")
    assert machine.booked == machine.working, "each call paid for its share"


def test_processes_that_know_nothing_of_each_other_do_not_make_it_busier() -> None:
    """Each of two booked all ten seconds; and an engine that measured itself knows of four that it waited."""
    assert worked([Stay(0, 10, 10), Stay(0, 10, 10)], 0, 60) == 10
    assert worked([Stay(0, 10, 4), Stay(0, 10, 2)], 0, 60) == 6
    assert worked([Stay(0, 10), Stay(5, 15)], 0, 60) == 15, "of old calls only the length is known"


def test_of_a_call_across_the_end_that_part_counts() -> None:
    assert worked([Stay(-10, 10, 8)], 0, 60) == 4
    assert worked([Stay(50, 70, 8)], 0, 60) == 4
    assert worked([Stay(70, 80, 8)], 0, 60) == 0


@given(spans, moments, moments)
def test_it_never_works_longer_than_somebody_ran(of: list[Span], since: float, until: float) -> None:
    stays = [Stay(begin, end) for begin, end in of]
    assert worked(stays, since, until) <= busy_seconds(of, since, until) + 1e-3
    assert worked(stays, since, until) <= max(0.0, until - since)
