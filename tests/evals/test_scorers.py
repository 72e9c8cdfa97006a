"""Scorers: right, wrong, and what cannot be said."""

from __future__ import annotations

import pytest

from evals.asking import Told
from evals.results import Stage
from evals.scorers import NOT_RUN, ScorerName, score
from gateway.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("name", "answer", "reference", "found", "points"),
    [
        ("number", "So he has 1,080 left. The answer is 1,080.", "1080", "1080", 1.0),
        ("number", "The answer is 12.50", "12.5", "25/2", 1.0),
        ("number", "I cannot tell.", "3", None, 0.0),
        ("choice", "It is cold, so the answer is (B).", "(B)", "B", 1.0),
        ("choice", "Perhaps (A), no: the answer is (C).", "(B)", "C", 0.0),
        ("text", "We get $\\boxed{\\frac{3}{2}}$.", "\\boxed{1.5}", "3/2", 1.0),
        ("text", "Paris", "paris", "paris", 1.0),
        ("json", '{"a": 1, "b": 2}', '{"b": 2, "a": 1}', '{"a":1,"b":2}', 1.0),
        ("exact", " yes\n", "yes", "yes", 1.0),
        ("exact", "Yes", "yes", "Yes", 0.0),
    ],
)
async def test_answers_are_read_and_compared(
    name: ScorerName, answer: str, reference: str, found: str | None, points: float
) -> None:
    scored = await score(name, "?", answer, reference, None)
    assert (scored.found, scored.score, scored.unscored) == (found, points, None)


async def test_what_has_no_reference_is_unscored() -> None:
    assert (await score("number", "?", "3", None, None)).unscored == "there is no reference"
    assert (await score("number", "?", "3", "none at all", None)).unscored == "the reference is no number"


@pytest.mark.parametrize(
    ("said", "points", "unscored"),
    [
        ("CORRECT", 1.0, None),
        ("**wrong**.", 0.0, None),
        ("It is correct, I think", None, "the judge's verdict is not readable"),
        ("", None, "the judge's verdict is not readable"),
        ("<think>It says WRONG, but\n</think>\nThe facts are there.\n\n`CORRECT`\n", 1.0, None),
        ("<think>It may be CORRECT\nCORRECT", None, "the judge's verdict is not readable"),
    ],
)
async def test_a_judge_says_one_word(said: str, points: float | None, unscored: str | None) -> None:
    asked: list[str] = []
    call = Stage("answer", "teacher", "judge", 90, 1, 1200, None, None)

    async def judge(prompt: str) -> Told:
        asked.append(prompt)
        return Told(said, stages=(call,))

    scored = await score("judge", "Who?", "Me.", "Me, of course.", judge)
    assert (scored.score, scored.unscored) == (points, unscored)
    assert [(stage.stage, stage.cost) for stage in scored.stages] == [("judge", 1200)]
    assert all(text in asked[0] for text in ("Who?", "Me.", "Me, of course."))


async def test_a_judge_that_fails_scores_nothing_and_an_empty_answer_asks_none() -> None:
    async def judge(_: str) -> Told:
        return Told(error="upstream_timeout")

    assert (await score("judge", "?", "a", "b", judge)).unscored == "the judge failed: upstream_timeout"
    assert (await score("judge", "?", " ", "b", judge)).score == 0.0
    with pytest.raises(ValueError, match="needs a model that judges"):
        await score("judge", "?", "a", "b", None)


async def test_a_judge_that_was_cut_off_says_so() -> None:
    async def judge(_: str) -> Told:
        return Told("", cut=True)

    scored = await score("judge", "?", "a", "b", judge)
    assert (scored.unscored, scored.later) == ("the judge was cut off before its verdict", False)


AREA = 'from math import pi\n\ndef area(r):\n    "Of a circle."\n'
ROUND = "def check(f):\n    assert round(f(1), 2) == 3.14\n\ncheck(area)"
DOUBLE = "```python\ndef double(x):\n    return 2 * x\n```"


@pytest.mark.parametrize(
    ("question", "answer", "reference", "points"),
    [
        ("?", f"Sure:\n{DOUBLE}\nUse it:\n```python\nprint(double(2))\n```", "assert double(2) == 4", 1.0),
        ("?", DOUBLE, "assert double(2) == 5", 0.0),
        ("?", "def double(x):\n    return 2 * x", "def test_it():\n    assert double(2) == 4", 1.0),
        ("?", DOUBLE, "def test_it():\n    assert double(2) == 5", 0.0),
        ("?", "I cannot.", "assert double(2) == 4", 0.0),
        ("?", " ", "assert double(2) == 4", 0.0),
        # As HumanEval asks: the imports are the question's, and an answer may be the body alone.
        (AREA, "```python\ndef area(r):\n    return pi * r * r\n```", ROUND, 1.0),
        (AREA, "    return pi * r * r\n", ROUND, 1.0),
        (AREA, "return pi * r\n", ROUND, 1.0),
        (AREA, "return 3 * r\n", ROUND, 0.0),
    ],
)
async def test_a_program_is_right_when_its_tests_pass(
    question: str, answer: str, reference: str, points: float
) -> None:
    scored = await score("code", question, answer, reference, None, Sandbox())
    assert (scored.score, scored.unscored, scored.later) == (points, None, False)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("assert (", "the tests are no Python"),
        ("x = 1", "there are no tests"),
        ("def check(f):\n    assert f(1)", "the tests call nothing"),
        ("def test_it(f):\n    assert f(1)", "a test takes arguments"),
    ],
)
async def test_tests_that_cannot_fail_score_nothing(reference: str, said: str) -> None:
    scored = await score("code", "?", DOUBLE, reference, None, Sandbox())
    assert scored.score is None
    assert str(scored.unscored).startswith(said)


async def test_programs_are_not_run_unasked() -> None:
    scored = await score("code", "?", DOUBLE, "assert double(2) == 4", None)
    assert (scored.score, scored.unscored, scored.later) == (None, NOT_RUN, True)
