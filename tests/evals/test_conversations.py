"""Conversations: which answers a page holds, beside which teacher's answer."""

from __future__ import annotations

import pytest

from evals.conversations import shown
from evals.results import Cell
from tests.evals.made_run import CELLS, cell, result, results, run

TEACHER, GUIDED = cell("teacher"), cell("cut-off", 40)


@pytest.mark.parametrize(
    ("own", "teacher", "outcome"),
    [
        (0.0, 1.0, "lost"),
        (1.0, 0.0, "won"),
        (1.0, 1.0, "right"),
        (0.0, 0.0, "wrong"),
        (None, 1.0, "unscored"),
        (1.0, None, "unscored"),
    ],
)
def test_an_answer_stands_beside_the_teacher_s(own: float | None, teacher: float | None, outcome: str) -> None:
    told = [result(TEACHER, 0, teacher, answer="alone"), result(GUIDED, 0, own)]
    made = shown(run([TEACHER, GUIDED]), told)
    row = next(each for each in made.rows if each["cell"] == 1)
    assert row["outcome"] == outcome
    assert row["score"] == own
    assert made.texts[row["teacher"]["text"]] == ("teacher", "alone")
    assert [made.texts[place] for place in row["prompt"]] == [("system", "Solve it."), ("user", "Question 0?")]
    assert row["guided"] == len("First, take")


def test_without_the_teacher_s_answer_there_is_none() -> None:
    (row,) = shown(run([GUIDED]), [result(GUIDED, 0, 1.0)]).rows
    assert (row["outcome"], row["teacher"]) == ("alone", None)


def test_the_teacher_beside_it_is_of_the_same_task_exemplars_and_batch() -> None:
    teachers = [
        TEACHER,
        cell("teacher", concurrency=8),
        cell("teacher", exemplars=8),
        cell("teacher", task="other"),
    ]
    told = [result(each, 0, 1.0, answer=each.name) for each in teachers]
    guided: dict[Cell, str] = {
        GUIDED: teachers[0].name,
        cell("cut-off", 40, concurrency=8): teachers[1].name,
        cell("cut-off", 40, concurrency=4): teachers[1].name,
        cell("cut-off", 40, exemplars=8): teachers[2].name,
        cell("student", task="other"): teachers[3].name,
    }
    made = shown(run([*teachers, *guided]), [*told, *(result(each, 0, 0.0) for each in guided)])
    said = [made.texts[row["teacher"]["text"]][1] for row in made.rows if row["cell"] >= len(teachers)]
    assert said == list(guided.values())


def test_a_hint_is_no_part_of_the_answer() -> None:
    hint = cell("hint", 40)
    (row,) = shown(run([hint]), [result(hint, 0, 1.0, guidance="Add them.")]).rows
    assert (row["guided"], row["hint"]) == (0, "Add them.")


def test_parts_that_are_no_text_are_named() -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    made = shown(run([GUIDED]), [result(GUIDED, 0, 1.0, prompt=[{"role": "user", "content": parts}])])
    assert made.texts == [("user", "What is it?\n[image_url]")]


def test_past_the_limit_agreement_is_left_out_first_and_counted() -> None:
    told = list(results())
    whole = shown(run(), told)
    assert len(whole.rows) == whole.total == len(told)
    some = shown(run(), told, limit=60_000)
    assert 0 < len(some.rows) < some.total == len(told)
    disagree = {"lost", "won"}
    kept = [row["outcome"] in disagree for row in some.rows]
    assert sum(kept) == min(len(kept), sum(row["outcome"] in disagree for row in whole.rows))
    assert shown(run(), told, limit=10).rows == []


def test_messages_are_held_once() -> None:
    made = shown(run(), list(results()))
    assert len(set(made.texts)) == len(made.texts)
    assert sum(text == ("system", "Solve it.") for text in made.texts) == 1
    assert made.cells[0] == ("sums: big", "teacher, batch 8")
    assert len(made.cells) == len(CELLS)


def test_of_a_repeated_answer_the_later_is_shown() -> None:
    told = [result(GUIDED, 0, None, error="upstream_timeout", answer=""), result(GUIDED, 0, 1.0, answer="7")]
    made = shown(run([GUIDED]), told)
    assert [row["answer"] for row in made.rows] == ["7"]
    assert made.total == 1
