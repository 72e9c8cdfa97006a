"""Break-even: the algebra says what comparing two whole bills says."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.breakeven import (
    Rates,
    break_even_length,
    guided,
    needed_accept_rate,
    pays_per_correct,
    per_token,
    saves,
    teacher_alone,
    tolerable_fallbacks,
)
from pricing.money import Money
from pricing.price import Price
from pricing.usage import Usage

money = st.integers(0, 10**11).map(Money)
rates = st.builds(Rates, money, money, money, money)
tokens = st.integers(0, 5000)

TEACHER = Price("gpt-4o", "config", Money.usd("2.5"), Money.usd(10))
STUDENT = Price("llama", "config", Money.usd("0.1"), Money.usd("0.1"))


def two_bills(rates: Rates, i: int, p: int, g: int, length: int) -> tuple[Fraction, Fraction]:
    """Teacher alone, and guidance with a student, written out bucket by bucket in dollars."""
    alone = rates.teacher_in.dollars * i + rates.teacher_out.dollars * length
    with_student = (
        rates.teacher_in.dollars * i
        + rates.teacher_out.dollars * g
        + rates.student_in.dollars * (p + g)
        + rates.student_out.dollars * (length - g)
    )
    return Fraction(alone), Fraction(with_student)


@given(rates, tokens, tokens, tokens, tokens)
def test_the_formula_agrees_with_the_two_bills(rates: Rates, i: int, p: int, g: int, more: int) -> None:
    alone, with_student = two_bills(rates, i, p, g, g + more)
    assert saves(rates, prompt=p, guidance=g, length=g + more) == (more > 0 and with_student < alone)


@given(rates, tokens, tokens, tokens, tokens)
def test_exactly_at_break_even_nothing_is_saved(rates: Rates, i: int, p: int, g: int, more: int) -> None:
    even = break_even_length(rates, prompt=p, guidance=g)
    if even is None:
        assert rates.student_out >= rates.teacher_out
    else:
        below, above = int(even), int(even) + 1
        assert not saves(rates, prompt=p, guidance=g, length=below)
        assert saves(rates, prompt=p, guidance=g, length=above)


@given(rates, tokens, tokens, tokens, tokens, tokens)
def test_a_hint_is_read_by_a_student_that_writes_the_whole_answer(
    rates: Rates, i: int, p: int, g: int, length: int, more: int
) -> None:
    even = break_even_length(rates, prompt=p, guidance=g, again=True)
    for tokens_written in (length, g + more):
        alone, hint = (teacher_alone(rates, input_tokens=i, length=each) for each in (tokens_written, g))
        student = Fraction(rates.student_in.nano * (p + g) + rates.student_out.nano * tokens_written, 10**6)
        if even is None:
            assert rates.student_out >= rates.teacher_out
        else:
            assert (tokens_written > even) == (hint + student < alone)


@given(rates, tokens, tokens, tokens, tokens)
def test_costs_are_the_two_bills(rates: Rates, i: int, p: int, g: int, more: int) -> None:
    alone, with_student = two_bills(rates, i, p, g, g + more)
    assert teacher_alone(rates, input_tokens=i, length=g + more) * 10**6 == alone * 10**9
    if more:
        assert guided(rates, input_tokens=i, prompt=p, guidance=g, length=g + more) * 10**6 == with_student * 10**9


@given(rates, tokens, tokens, tokens)
def test_an_answer_within_the_guidance_is_the_teachers_alone(rates: Rates, i: int, p: int, length: int) -> None:
    cost = guided(rates, input_tokens=i, prompt=p, guidance=length, length=length)
    assert cost == teacher_alone(rates, input_tokens=i, length=length)
    assert not saves(rates, prompt=p, guidance=length, length=length)


@given(rates, tokens, tokens, tokens)
def test_the_costs_are_what_prices_say(rates: Rates, i: int, p: int, length: int) -> None:
    teacher = Price("t", "config", rates.teacher_in, rates.teacher_out)
    assert teacher.cost(Usage(i, length)) == Money(round(teacher_alone(rates, input_tokens=i, length=length)))


def test_a_known_break_even() -> None:
    rates = Rates.of(TEACHER, STUDENT)
    assert rates is not None
    # 40 + (300 + 40) * 0.1 / (10 - 0.1)
    assert break_even_length(rates, prompt=300, guidance=40) == 40 + Fraction(34, 1) / Fraction("9.9")


def test_never_when_the_student_writes_at_the_teachers_price() -> None:
    rates = Rates(Money(1), Money(10), Money(0), Money(10))
    assert break_even_length(rates, prompt=0, guidance=0) is None
    assert not saves(rates, prompt=0, guidance=0, length=10**9)


def test_rates_are_unknown_when_any_price_is() -> None:
    hourly = Price("my-70b", "config", per_hour=Money.usd(2))
    assert Rates.of(TEACHER, hourly) is None
    assert Rates.of(Price("x", "config", output=Money(1)), STUDENT) is None


def test_a_machine_priced_by_its_measured_speed() -> None:
    hourly = Price("my-70b", "config", per_hour=Money.usd(2), row="config: my-70b")
    price = per_token(hourly, input_per_second=10_000, output_per_second=500)
    assert price is not None
    assert (price.input, price.output) == (Money(55_555_556), Money(1_111_111_111))
    assert price.per_hour is None
    assert price.row == "config: my-70b at 10000 and 500 tokens per second"
    assert Rates.of(TEACHER, price) is not None
    assert per_token(TEACHER, input_per_second=1, output_per_second=1) is None
    with pytest.raises(ValueError, match="above 0"):
        per_token(hourly, input_per_second=0, output_per_second=500)


@given(money, money, tokens, tokens, tokens, st.integers(0, 10**9).map(Money), st.fractions(0, 1))
def test_hint_then_escalate_agrees_with_the_expected_bill(
    p_in: Money, p_out: Money, i: int, g: int, length: int, student: Money, accepted: Fraction
) -> None:
    teacher = Price("t", "config", p_in, p_out)
    needed = needed_accept_rate(teacher, input_tokens=i, guidance=g, length=length, student=student)
    alone = Fraction(p_in.nano * i + p_out.nano * length, 10**6)
    hint = Fraction(p_in.nano * i + p_out.nano * g, 10**6)
    if needed is None:
        assert alone == 0
    else:
        assert (accepted > needed) == (hint + student.nano + (1 - accepted) * alone < alone)


def test_unknown_teacher_has_no_accept_rate() -> None:
    assert needed_accept_rate(Price("t", "config"), input_tokens=1, guidance=1, length=1) is None


@given(st.floats(0, 2), st.floats(0, 1))
def test_fallbacks_agree_with_the_whole_bill(ratio: float, fallbacks: float) -> None:
    gap = ratio + fallbacks - 1
    if abs(gap) > 1e-9:
        assert (fallbacks < tolerable_fallbacks(ratio)) == (gap < 0)


@given(st.integers(0, 200), st.integers(0, 100), st.integers(0, 100), st.integers(1, 100))
def test_per_correct_answer_agrees_with_dollars_over_correct(ratio: int, fall: int, guided_ok: int, alone: int) -> None:
    pays = pays_per_correct(
        ratio / 128, fall / 128, accuracy_guided=guided_ok / 128, accuracy_teacher=alone / 128
    )  # exact in binary
    if guided_ok == 0:
        assert not pays
    else:
        assert pays == (Fraction(ratio + fall, guided_ok) < Fraction(128, alone))
