"""Price: the cost of inclusive buckets, rounded once; None when a part is unknown."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.money import Money
from pricing.price import Price
from pricing.usage import Usage

SOL = Price("gpt-6-sol", "config", Money.usd(2), Money.usd(10), Money.usd("0.2"), Money.usd("2.5"))
HOURLY = Price("my-70b", "config", per_hour=Money.usd(2))

counts = st.integers(0, 2_000_000)
rates = st.integers(0, 10**12).map(Money)
prices = st.builds(
    lambda i, o, c, w: Price("m", "config", i, o, c, w), rates, rates, st.none() | rates, st.none() | rates
)
parts = st.tuples(counts, counts, counts, counts)


def usage_of(plain: int, cached: int, written: int, output: int) -> Usage:
    return Usage(plain + cached + written, output, cached, written)


def exact(price: Price, plain: int, cached: int, written: int, output: int) -> Fraction:
    """The cost of exclusive buckets in nano-dollars, told in the plainest way."""
    assert price.input is not None
    assert price.output is not None
    cached_rate = price.input if price.cached is None else price.cached
    written_rate = price.input if price.cache_write is None else price.cache_write
    return sum(
        (
            Fraction(count * rate.nano, 10**6)
            for count, rate in (
                (plain, price.input),
                (cached, cached_rate),
                (written, written_rate),
                (output, price.output),
            )
        ),
        Fraction(0),
    )


@given(prices, parts)
def test_cost_is_the_sum_of_its_parts_rounded_once_half_to_even(price: Price, buckets: tuple[int, ...]) -> None:
    cost = price.cost(usage_of(*buckets))
    assert cost is not None
    assert cost.nano == round(exact(price, *buckets))


@given(prices, parts, st.integers(0, 3), st.integers(1, 1000))
def test_more_tokens_never_cost_less(price: Price, buckets: tuple[int, ...], which: int, more: int) -> None:
    larger = [count + (more if index == which else 0) for index, count in enumerate(buckets)]
    less, cost = price.cost(usage_of(*buckets)), price.cost(usage_of(*larger))
    assert less is not None
    assert cost is not None
    assert cost.nano >= less.nano


@given(parts)
def test_reporting_a_cheaper_cache_never_costs_more(buckets: tuple[int, ...]) -> None:
    usage = usage_of(*buckets)
    seen, unseen = SOL.cost(replace(usage, cache_write=0)), SOL.cost(replace(usage, cached=None, cache_write=0))
    assert seen is not None
    assert unseen is not None
    assert seen.nano <= unseen.nano


def test_a_known_bill() -> None:
    # 212 * 2 + 100 * 0.2 + 40 * 10 dollars per million
    assert SOL.cost(Usage(312, 40, cached=100)) == Money.usd("0.000844")
    # 12 * 2 + 200 * 0.2 + 100 * 2.5 + 40 * 10
    assert SOL.cost(Usage(312, 40, cached=200, cache_write=100)) == Money.usd("0.000714")


def test_ties_go_to_the_even_nano_dollar() -> None:
    half = Price("m", "config", Money(500_000), Money(0))
    assert [half.cost(Usage(tokens, 0)) for tokens in (1, 2, 3, 5)] == [Money(0), Money(1), Money(2), Money(2)]


def test_the_call_is_rounded_and_not_each_bucket() -> None:
    # Two halves of a nano-dollar are one: rounded one by one they would be none.
    half = Price("m", "config", Money(500_000), Money(500_000))
    assert half.cost(Usage(1, 1)) == Money(1)


def test_a_cache_rate_of_zero_is_a_rate() -> None:
    assert replace(SOL, cached=Money(0)).cost(Usage(100, 0, cached=100)) == Money(0)
    assert replace(SOL, cached=None).cost(Usage(100, 0, cached=100)) == Money.usd("0.0002")
    assert replace(SOL, cache_write=None).cost(Usage(100, 0, cache_write=100)) == Money.usd("0.0002")


@pytest.mark.parametrize(
    "usage",
    [
        Usage(None, 40),
        Usage(312, None),
        Usage(),
        Usage(10, 0, cached=11),
        Usage(10, 0, cached=6, cache_write=5),
        Usage(10, -1),
        Usage(10, 1, cached=-1),
    ],
)
def test_unknown_or_contradictory_counts_have_no_cost(usage: Usage) -> None:
    assert SOL.cost(usage) is None


def test_an_unknown_rate_matters_only_where_there_are_tokens() -> None:
    no_output = replace(SOL, output=None)
    assert no_output.cost(Usage(100, 1)) is None
    assert no_output.cost(Usage(100, 0)) == Money.usd("0.0002")
    assert replace(SOL, input=None).cost(Usage(1, 1)) is None


def test_a_price_without_any_rate_costs_nothing_known() -> None:
    assert Price("m", "litellm").cost(Usage(0, 0, seconds=1.0)) is None


def test_machine_time_needs_no_counts() -> None:
    assert HOURLY.cost(Usage(seconds=3600.0)) == Money.usd(2)
    assert HOURLY.cost(Usage(352, 410, seconds=2.9)) == Money(1_611_111)
    assert HOURLY.cost(Usage(352, 410)) is None
    assert HOURLY.cost(Usage(seconds=float("nan"))) is None
    assert HOURLY.cost(Usage(seconds=-1.0)) is None


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**7))
def test_tokens_and_time_are_rounded_together(tokens: int, output: int, millis: int) -> None:
    tokens_only = Price("m", "config", Money(333_333), Money(777_777))  # a fraction of a nano-dollar a token
    price = replace(tokens_only, per_hour=Money(7_777_777_777))
    cost = price.cost(Usage(tokens, output, seconds=millis / 1000))
    time = Fraction(7_777_777_777 * millis, 3_600_000)
    assert cost == Money(round(exact(tokens_only, tokens, 0, 0, output) + time))


def test_a_row_prices_only_prompts_of_its_length() -> None:
    short, long = replace(SOL, up_to=272_000), replace(SOL, over=272_000)
    assert short.cost(Usage(272_000, 1)) is not None
    assert short.cost(Usage(272_001, 1)) is None
    assert long.cost(Usage(272_000, 1)) is None
    assert long.cost(Usage(272_001, 1)) is not None
