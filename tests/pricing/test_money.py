"""Money: exact sums, one rounding, plain text."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.money import NANO, Money

amounts = st.integers(-(10**24), 10**24).map(Money)


@given(amounts, amounts, amounts)
def test_addition_is_exact(a: Money, b: Money, c: Money) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + Money.ZERO == a
    assert (a + b) - b == a
    assert a + -a == Money.ZERO


@given(st.lists(amounts))
def test_total_does_not_depend_on_the_order(all_amounts: list[Money]) -> None:
    assert Money.total(all_amounts) == Money.total(reversed(all_amounts))
    assert Money.total(all_amounts).nano == sum(amount.nano for amount in all_amounts)


@given(st.decimals(-(10**6), 10**6, allow_nan=False, allow_infinity=False))
def test_dollars_are_rounded_once_and_half_to_even(dollars: Decimal) -> None:
    money = Money.usd(dollars)
    off = Fraction(dollars) * NANO - money.nano
    assert abs(off) <= Fraction(1, 2)
    if abs(off) == Fraction(1, 2):
        assert money.nano % 2 == 0


@given(st.integers(-(10**15), 10**15).map(Money))
def test_text_is_the_exact_amount(money: Money) -> None:
    text = str(money)
    assert "e" not in text.lower()
    assert Money.usd(text.replace("$", "")) == money


@pytest.mark.parametrize(
    ("money", "text"),
    [
        (Money(312_000), "$0.000312"),
        (Money(-1_500_000_000), "-$1.5"),
        (Money(0), "$0"),
        (Money(1), "$0.000000001"),
        (Money(100 * NANO), "$100"),
    ],
)
def test_text(money: Money, text: str) -> None:
    assert str(money) == text


def test_a_float_goes_through_its_shortest_decimal_form() -> None:
    assert Money.usd(0.1) == Money(100_000_000)
    assert Money.usd(0.1) + Money.usd(0.2) == Money.usd(0.3)
    assert Money.usd("0.0000000005") == Money(0)
    assert Money.usd("0.0000000015") == Money(2)


def test_a_long_decimal_is_not_rounded_twice() -> None:
    assert Money.usd("0.00000000050000000000000000000000000000000001") == Money(1)


@pytest.mark.parametrize("dollars", ["nan", "inf", "two", ""])
def test_what_is_no_amount_is_refused(dollars: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        Money.usd(dollars)
