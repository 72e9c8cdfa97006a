"""Formulas have one spelling, whoever wrote them, and different ones keep theirs."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers import Answer, final
from gateway.formula import DEEPEST, LONGEST, fractions, plain

SAME = [
    ["\\frac12", "\\dfrac12", "\\tfrac{1}{2}", "\\frac{1}2", "\\frac 1 2", "1/2"],
    ["\\sqrt2", "\\sqrt{2}", "\\sqrt 2", "√2", "sqrt(2)", "\\sqrt[2]{2}"],
    ["x^{2}", "x^2", "x ^ 2", "{x}^{2}", "$x^2$"],
    ["2^{10}", "2^10"],
    ["x^{n+1}", "x^(n+1)"],
    ["1\\frac{1}{2}", "1 \\dfrac12", "1 1/2", "3/2", "\\frac{3}{2}"],
    ["\\dfrac{\\sqrt3}{2}", "\\frac{\\sqrt{3}}{2}", "\\frac{\\sqrt3}2", "\\sqrt{3}/2", "sqrt(3)/2"],
    ["\\frac{x+1}{2}", "(x+1)/2"],
    ["2\\cdot\\sqrt{3}", "2 \\times \\sqrt3", "2*sqrt(3)", "2\\sqrt{3}"],
    ["\\left(0, \\frac{1}{2}\\right]", "(0,1/2]", "\\(  (0,\\tfrac12] \\)"],
    ["\\frac{\\pi}{6}", "\\pi/6", "π/6", "\\frac\\pi6"],
    ["10,000", "10{,}000"],
    ["10000", "10\\,000", "10 000"],
    ["90", "90^\\circ", "90^{\\circ}", "90°"],
    ["x\\leq3", "x \\le 3", "x ≤ 3"],
    ["\\text{east}", "east", "\\mathrm{east}", "\\textbf{east}"],
]
APART = [
    ("x^2", "x2"),
    ("x^{10}", "x^{1}0"),
    ("2\\cdot3", "23"),
    ("2*3", "23"),
    ("3 4", "34"),
    ("\\frac{3}{4x}", "\\frac{3}{4}x"),
    ("\\frac{x+1}{2}", "x+\\frac{1}{2}"),
    ("\\sqrt{2x}", "\\sqrt{2}x"),
    ("\\sqrt[3]{2}", "\\sqrt{2}"),
    ("1\\frac{1}{2}", "\\frac{11}{2}"),
    ("2\\frac{5}{2}", "25/2"),
    ("(0,1)", "[0,1]"),
    ("x_1", "x^1"),
    ("-x", "x"),
]


@pytest.mark.parametrize("spellings", SAME, ids=lambda each: each[0])
def test_one_formula_has_one_spelling(spellings: list[str]) -> None:
    assert len({plain(each) for each in spellings}) == 1


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_differs_stays_apart(one: str, other: str) -> None:
    assert plain(one) != plain(other)


@pytest.mark.parametrize("spellings", SAME, ids=lambda each: each[0])
def test_answers_in_boxes_are_equal(spellings: list[str]) -> None:
    found = {final(f"so it is \\boxed{{{each}}}, as was to be shown.") for each in spellings}
    assert len(found) == 1
    assert None not in found


@given(st.integers(0, 99), st.integers(1, 98), st.integers(2, 99), st.sampled_from(["", "-"]))
def test_a_mixed_number_is_a_sum(ones: int, over: int, under: int, sign: str) -> None:
    if over >= under:
        over, under = under - 1, over + 1
    value = (ones + Fraction(over, under)) * (-1 if sign else 1)
    for text in (f"{sign}{ones}\\frac{{{over}}}{{{under}}}", f"{sign}{ones} {over}/{under}"):
        assert final(f"\\boxed{{{text}}}") == Answer("number", str(value)), text


@given(st.text("{}^_\\frac12sqrt()[]x+ *$·", max_size=60))
def test_any_text_has_a_spelling_without_markup(text: str) -> None:
    assert not set(plain(text)) & set("$*`%")


@given(st.integers(-999, 999), st.integers(1, 999), st.sampled_from(["frac", "dfrac", "tfrac"]))
def test_fractions_in_prose(over: int, under: int, name: str) -> None:
    text = f"She takes \\{name}{{{over}}}{{{under}}} of the 7 cakes."
    assert fractions(text) == f"She takes {over}/{under} of the 7 cakes."
    assert final(f"It is \\{name}{{{over}}}{{{under}}} in all, as was asked for.", "number") == Answer(
        "number", str(Fraction(over, under))
    )


@pytest.mark.parametrize(
    "text", ["{" * 900, "\\frac" * 180, "\\sqrt" * 190, "{" * (DEEPEST + 9) + "x", "x" * LONGEST * 9]
)
def test_hostile_formulas_end(text: str) -> None:
    assert plain(text) is not None
