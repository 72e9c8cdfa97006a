"""Payoff: the clause about break-even is what two whole bills say, and unknown where one of them is."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cascade.gate import Seen
from gateway.chat import Plan
from gateway.payoff import Terms, said
from pricing.money import Money
from pricing.price import MILLION, Price

PLAN = Plan("gkt", "cut-off", "why", "teacher", "student", guidance_tokens=40)
rates = st.integers(1, 200_000_000_000)
tokens = st.integers(1, 20_000)


def price(read: int, write: int) -> Price:
    return Price("big", "config", Money(read), Money(write))


@given(rates, rates, rates, rates, tokens, st.integers(41, 20_000))
def test_it_pays_iff_the_bills_say_so(p_in: int, p_out: int, q_in: int, q_out: int, prompt: int, length: int) -> None:
    """With a student that always finishes: guidance pays iff both bills together are below the teacher's whole one."""
    tried = Money(round(Fraction(q_in * (prompt + 40) + q_out * (length - 40), MILLION)))
    terms = Terms(price(p_in, p_out), price(q_in, q_out), prompt, length, prompt=prompt, tried=tried)
    alone = Fraction(p_in * prompt + p_out * length, MILLION)
    guided = Fraction(p_in * prompt + p_out * 40, MILLION) + tried.nano
    text = said(PLAN, terms, {0: Seen(100, 100)})
    assert ("does not pay here" in text) == (guided >= alone)
    assert ("pays nowhere at this length" in text) == (guided >= alone)
    found = re.search(r"for answers of (\d+) tokens or more", text)
    if found is None:
        assert q_out >= p_out
    elif abs(guided - alone) > 1:  # the student's bill is whole nano-dollars
        assert (length >= int(found[1])) == (guided < alone)


KNOWN = Terms(price(2_000_000_000, 10_000_000_000), price(10**8, 10**8), 300, 200, prompt=300, tried=Money(50_000))


def test_what_it_says() -> None:
    """G / F = (600 + 400) / (600 + 2000); the student's 50 beside it, in micro-dollars; 40 + 34 / 9.9."""
    assert said(PLAN, KNOWN, {0: Seen(50, 49)}) == (
        "break-even: guidance of 40 tokens costs 0.385 of the teacher's whole answer of 200 tokens (same_length), "
        "0.404 with the student's: it pays where the student finishes more than that alone, and for answers of 44 "
        "tokens or more; observed: 49 of 50 finished alone"
    )
    seldom = said(PLAN, KNOWN, {0: Seen(10, 4)})
    assert seldom.endswith(
        "4 of 10 finished alone; it does not pay here, and is given as asked: only a cascade closes its guidance"
    )
    assert said(PLAN, KNOWN, {}).endswith("; not observed yet")


@pytest.mark.parametrize(
    "terms",
    [
        KNOWN._replace(teacher=None),
        KNOWN._replace(read=None),
        KNOWN._replace(written=None),
        KNOWN._replace(written=0),
        KNOWN._replace(teacher=Price("big", "config", per_hour=Money.usd(2))),
        KNOWN._replace(teacher=price(0, 0)),
    ],
)
def test_what_is_not_known_is_said_to_be(terms: Terms) -> None:
    assert said(PLAN, terms, {}) == (
        "break-even: what guidance of 40 tokens costs of the teacher's answer is not known, nor when it pays; "
        "not observed yet"
    )


def test_a_student_whose_price_is_not_known_is_left_out() -> None:
    told = said(PLAN, KNOWN._replace(student=None, tried=None), {})
    assert "(same_length), without the student's part, which is not known: it pays" in told
    assert "tokens or more" not in told


def test_what_has_nothing_to_pay_for() -> None:
    assert said(PLAN, KNOWN._replace(needless=True), {}).endswith("kept from before and cost nothing that has to pay")
    assert said(PLAN, KNOWN._replace(complete=True), {}).endswith(
        "all of the teacher's answer, and leaves nothing to save"
    )
    for alone in ("teacher", "student"):
        assert said(replace(PLAN, strategy=alone, guidance_tokens=0), Terms(None), {}).startswith("break-even: none, ")
