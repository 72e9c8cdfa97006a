"""The time of a machine, divided among calls that overlap at random."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pricing.machine import busy_seconds
from pricing.money import Money
from pricing.price import Price
from pricing.shares import Shares
from pricing.usage import Usage

NANO = 1_000_000_000
moments = st.integers(0, 3 * NANO) | st.integers(0, 50)
"""Seconds, and so close together that hardly anything can be divided."""

calls = st.lists(st.tuples(moments, moments).map(sorted), min_size=1, max_size=12)


def charged(of: list[list[int]]) -> list[int]:
    """What each call got, on one machine."""
    shares = Shares()
    events = sorted(
        [(begin, 0, each) for each, (begin, _) in enumerate(of)] + [(e, 1, i) for i, (_, e) in enumerate(of)]
    )
    begun: dict[int, int] = {}
    got: dict[int, int] = {}
    for now, ends, each in events:
        if ends:
            got[each] = shares.end(begun[each], now)
        else:
            begun[each] = shares.begin(now)
    assert shares.running == 0
    return [got[each] for each in range(len(of))]


def due(of: list[list[int]]) -> list[Fraction]:
    """The same by integrating: of each stretch without an event, everyone who runs in it gets an equal part."""
    got = [Fraction(0)] * len(of)
    for first, last in pairwise(sorted({moment for each in of for moment in each})):
        within = [each for each, (begin, end) in enumerate(of) if begin <= first and last <= end]
        for each in within:
            got[each] += Fraction(last - first, len(within))
    return got


@given(calls)
def test_shares_add_up_to_the_busy_time_exactly(of: list[list[int]]) -> None:
    busy = busy_seconds([(begin, end) for begin, end in of], 0, 4 * NANO)
    assert sum(charged(of)) == busy


@given(calls)
def test_each_share_is_the_time_divided_by_how_many_ran(of: list[list[int]]) -> None:
    for got, exact, (begin, end) in zip(charged(of), due(of), of, strict=True):
        assert abs(got - exact) <= len(of), "at most a nanosecond for each other call waits to be given out"
        assert 0 <= got <= end - begin + len(of)


@given(calls, st.integers(1, 10**13))
def test_what_calls_pay_is_what_the_busy_time_costs(of: list[list[int]], rate: int) -> None:
    """To half a nano-dollar a call, which is how far each of them is rounded."""
    price = Price("m", "config", per_hour=Money(rate))
    paid = [price.cost(Usage(seconds=nanoseconds / NANO)) for nanoseconds in charged(of)]
    assert None not in paid
    busy = Fraction(sum(charged(of)), NANO) * rate / 3600
    assert abs(Money.total(each for each in paid if each is not None).nano - busy) <= Fraction(len(of), 2)


def test_ten_at_once_pay_for_one_machine() -> None:
    of = [[0, 2 * NANO] for _ in range(10)]
    assert charged(of) == [NANO // 5] * 10


def test_who_runs_alone_pays_for_all_of_it() -> None:
    #  a alone for 1 s, a and b for 2 s, nobody for 1 s, c alone for 3 s
    assert charged([[0, 3 * NANO], [NANO, 3 * NANO], [4 * NANO, 7 * NANO]]) == [2 * NANO, NANO, 3 * NANO]


def test_a_clock_that_goes_backwards_stands_still() -> None:
    shares = Shares()
    first = shares.begin(100)
    second = shares.begin(40)
    assert shares.end(second, 60) == 0
    assert shares.end(first, 110) == 10
