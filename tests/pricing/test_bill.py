"""Bill: lines add up; an unpriced one is counted and never 0."""

from __future__ import annotations

from dataclasses import replace

from pricing.bill import Bill, line
from pricing.money import Money
from pricing.price import Price
from pricing.usage import Usage

PRICE = Price("gpt-6-sol", "config", Money.usd(2), Money.usd(10))
TEACHER = line("teacher", "gpt-6-sol", Usage(312, 40), PRICE)
STUDENT = line("student", "smol", Usage(352, 410), None)


def test_a_line_is_priced_by_its_price() -> None:
    assert TEACHER.amount == Money.usd("0.001024")
    assert TEACHER.price is PRICE
    assert line("teacher", "gpt-6-sol", Usage(), PRICE).amount is None


def test_a_bill_with_an_unpriced_line_has_no_total() -> None:
    bill = Bill([TEACHER, STUDENT])
    assert STUDENT.amount is None
    assert bill.total is None
    assert bill.unpriced == 1
    assert bill.priced == Money.usd("0.001024")


def test_a_bill_adds_up() -> None:
    assert Bill([TEACHER, TEACHER]).total == Money.usd("0.002048")
    assert Bill().total == Money.ZERO


def test_one_notional_line_makes_the_bill_notional() -> None:
    assert not Bill([TEACHER]).notional
    assert Bill([TEACHER, replace(TEACHER, notional=True)]).notional
    assert line("teacher", "gpt-6-sol", Usage(1, 1), PRICE, notional=True).notional
