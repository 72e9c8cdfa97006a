"""Answers: the one form of a final answer, and how far two texts agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers import Answer, Kind, agreement, final


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", "18"),
        ("$1,234.50", "2469/2"),
        ("-$10,000", "-10000"),
        ("18 dollars", "18"),
        ("She earns $5, so 3 * 5 = 15.\n#### 15", "15"),
        ("#### 6th place", None),
        ("so \\boxed{\\frac{3}{4}} of it", "3/4"),
        ("so \\boxed{ x = 0.75 }", "3/4"),
        ("The answer is 42. That is a lot.", "42"),
        ("**Final answer:** 7", "7"),
        ('```json\n{"reasoning": "9 * 2", "answer": "18"}\n```', "18"),
        ('Here it is: {"reasoning": "9\n* 2", "answer": 18}', "18"),
        ('{"reasoning": "\\(x\\)", "answer": "-15"', "-15"),
        ("12 − 3 is what I get. #### −3", "-3"),
        ("The answer is $18 for 2 days.", "18"),
        ("The answer is about 18 dollars, not 20", "18"),
        ("The answer is $\\frac{3}{4}$.", "3/4"),
        ("The answer is usually one that is given in 3 cases", None),
        ("The answer is 3 or 4", None),
        ("The answer is 1 hour and 5 minutes for each", None),
        ("#### Each child got 5 books.", "5"),
        ("\\boxed{\\$18}", "18"),
    ],
)
def test_numbers_that_say_where_they_are(text: str, value: str | None) -> None:
    found = final(text)
    assert (found.value if found and found.kind == "number" else None) == value


@pytest.mark.parametrize(
    "text", ["B", "(B)", "B) bank", "\\boxed{B}", "The answer is (B) bank. It is ...", "\\boxed{\\text{(B) x}}"]
)
def test_choices(text: str) -> None:
    assert final(text) == Answer("choice", "B")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (c)", "C"),
        ("The answer is option (C) - listen to music.", "C"),
        ("C\n\nBecause nobody would look for it in (A).", "C"),
        ("**C.**\n\nNobody would.", "C"),
        ("Therefore, C is correct.", "C"),
        ("It is not (A), so (C) train station is the best answer, rather than (B).", "C"),
        ("The answer is A bank", "A"),
        ("The answer is (C) since (A) fails", "C"),
        ("A is not correct, and nobody says what is.", None),
        ("A revolving door is the best way into a bank.", None),
        ("\\boxed{C Heat}", "C"),
    ],
)
def test_choices_that_are_looked_for(text: str, letter: str | None) -> None:
    assert final(text, "choice") == (Answer("choice", letter) if letter else None)


def test_a_word_is_no_choice_unless_choices_are_looked_for() -> None:
    assert final("The answer is (c)") == Answer("choice", "C")
    assert final("The answer is a bank") == Answer("text", "abank")
    assert final("The answer is A bank") == Answer("text", "abank")
    assert final("e") == Answer("text", "e")


def test_without_a_mark_a_kind_says_what_to_look_for() -> None:
    text = "There are 3 boxes of 6.\n\nTherefore, Janet makes $18 every day at the farmers' market, as was asked."
    assert final(text) is None
    assert final(text, "number") == Answer("number", "18")
    assert final("It may be (A), or rather\n(C) train station, where trains are.", "choice") == Answer("choice", "C")
    assert final("\\boxed{d}", "choice") == Answer("choice", "D")
    assert final("#### 6th place", "number") == Answer("number", "6")
    assert final("A long story\nwithout any.", "number") is None
    assert agreement("The sky is blue because of its air.\n", "the sky is *blue* because of its air", "text") == 1.0
    assert (
        agreement("The sky is blue because of its air, of course.", "The sky is grey, as is usual here.", "text") == 0
    )
    assert agreement("The sky is blue because of its air, of course.", "The sky is grey, and that is usual.") is None


def test_json_is_compared_as_data() -> None:
    assert final('{"b": 1, "a": [2]}') == Answer("json", '{"a":[2],"b":1}')
    assert agreement('{"b": 1, "a": 2}', '```json\n{"a": 2, "b": 1}\n```') == 1.0
    assert agreement('{"a": 1, "b": 2}', '{"a": 1, "b": 3, "c": 4}') == pytest.approx(1 / 3)
    assert agreement('{"a": true}', '{"a": 1}') == 0.0
    assert agreement("{}", "{}") == 1.0
    assert final('{"answer": "7", "b": 1}', "json") == Answer("json", '{"answer":"7","b":1}')


def test_meanings_and_programs_have_no_form_but_their_words() -> None:
    assert final("It is so,\n for it is.", "meaning") == Answer("meaning", "It is so, for it is.")
    assert final(" \n", "meaning") is None
    assert agreement("It is so.", "It  is so.\n", "meaning") == 1.0
    assert agreement("It is so.", "So it is.", "meaning") is None, "nobody was asked"
    code = "First:\n```python\ndef f(n):\n    return n\n```\nand run it:\n```python\nprint(f(1))\n```\n```text\n1\n```"
    assert final(code, "code") == Answer("code", "def f(n):\n    return n")
    assert final("```\nprint(1)\n```", "code") == Answer("code", "print(1)")
    assert final("```bash\nls\n```", "code") is None
    assert final("Use a loop.", "code") is None
    assert agreement(code, "```py\ndef f(n): return n\n```", "code") is None


def test_agreement() -> None:
    assert agreement("#### 18", "\\boxed{18.0}") == 1.0
    assert agreement("#### 18", "\\boxed{19}") == 0.0
    assert agreement("(B) bank", "The answer is B.") == 1.0
    assert agreement("Paris", "paris.") == 1.0
    story = "Once upon a time\nthere was a king."
    assert agreement(story, "Another tale\nof a queen.") is None
    assert agreement(story, "Once upon a time there\nwas a king.\n") == 1.0
    assert agreement(story, "#### 3") == 0.0


@given(st.integers(-(10**12), 10**12))
def test_one_number_in_many_spellings(n: int) -> None:
    spellings = [f"#### {n}", f"\\boxed{{{n:,}}}", f"The answer is ${n}$.", f'{{"answer": "{n}.0"}}']
    assert {final(text) for text in spellings} == {Answer("number", str(n))}


@given(
    st.text(max_size=300), st.text(max_size=300), st.sampled_from(("number", "choice", "json", "text", "meaning", None))
)
def test_any_two_texts(one: str, other: str, kind: Kind | None) -> None:
    found = agreement(one, other, kind)
    assert found is None or 0 <= found <= 1
    assert found == agreement(other, one, kind)
    assert agreement(one, one, kind) == 1.0


@pytest.mark.parametrize(
    "text", ["{" * 100_000, "\\boxed{" * 20_000, "1," * 60_000, "[" * 50_000, "answer is " * 10_000]
)
def test_hostile_texts_end_soon(text: str) -> None:
    final(text)
    final(text, "number")
