"""Scorers: right, wrong, and what cannot be said."""

from __future__ import annotations

import pytest

from evals.asking import Told
from evals.results import Stage
from evals.scorers import ScorerName, score

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
