"""Sheets: what a reader is told, at a terminal and in Markdown."""

from __future__ import annotations

import re

import pytest

from evals.results import Cell, Result
from evals.sheets import UNKNOWN, arm, markdown, money, parts, plain
from evals.summary import Summary, summarise
from tests.evals.made_run import CELLS, NASTY, cell, result, results, run


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarise(run(), list(results()))


def cells(summary: Summary, sheet: int, name: str) -> dict[str, str]:
    """One row of a sheet of the first group, by the heads of its columns."""
    found = parts(summary)[0].sheets[sheet]
    row = next(row for row in found.rows if row[0] == name)
    return dict(zip(found.heads, row, strict=True))


def test_the_paper_s_columns_and_the_dollars_say_what_the_summary_holds(summary: Summary) -> None:
    held = next(each for each in summary.groups[0].rows if arm(each.cell) == "cut-off 40, batch 8")
    paper = cells(summary, 0, "cut-off 40, batch 8")
    assert held.accuracy is not None
    assert held.accuracy_interval is not None
    low, high = held.accuracy_interval
    assert paper["ACC (95 %)"] == f"{held.accuracy:.1%} ({low * 100:.1f} to {high * 100:.1f})".replace("%", " %")
    assert (paper["tokens, teacher"], paper["tokens, student"]) == ("40.0", "120.0")
    assert paper["speed-up, same batch"] == "1.54×"
    assert paper["Δ its text"].startswith("+")
    assert paper["Δ its text"].count(" to ") == 1
    assert cells(summary, 0, "cut-off 10, batch 8")["Δ its text"] == UNKNOWN, "that text alone was not run"
    assert cells(summary, 0, "concise 40, batch 8")["Δ its text"] == "–"
    assert paper["speed-up, batch 1"] == "12.31×"
    dollars = cells(summary, 1, "cut-off 40, batch 8")
    assert dollars["$ / 1,000 answers"] == "$0.63"
    assert dollars["cost share (95 %)"].startswith("31.5 %")
    assert dollars["baseline"] == "measured"
    evidence = cells(summary, 2, "cut-off 10, batch 8")
    assert (evidence["answers"], evidence["unscored"], evidence["failed"], evidence["paired"]) == ("60", "1", "1", "59")


def test_the_paper_s_batch_of_one_is_named_or_said_to_be_missing(summary: Summary) -> None:
    assert "sums/teacher/big/0shot/x1" in parts(summary)[0].sheets[0].note
    without = [each for each in CELLS if each.name != "sums/teacher/big/0shot/x1"]
    other = summarise(run(without), list(results(without)))
    assert "the teacher one question at a time was not run" in parts(other)[0].sheets[0].note
    assert cells(other, 0, "cut-off 40, batch 8")["speed-up, batch 1"] == UNKNOWN


def test_a_teacher_asked_to_be_concise_stands_beside_guidance() -> None:
    arms = [cell("teacher"), cell("student"), cell("cut-off", 40), cell("teacher-concise")]
    made = summarise(run(arms), list(results(arms)))
    names = [row[0] for row in parts(made)[0].sheets[0].rows]
    assert names == ["teacher", "teacher, asked to be concise", "student", "cut-off 40"]
    brief = cells(made, 1, "teacher, asked to be concise")
    assert (brief["baseline"], brief["cost share (95 %)"][:6]) == ("measured", "60.0 %")
    assert brief["lift"] not in (UNKNOWN, "–"), "it is compared with random mixing as guidance is"


def unpriced(each: Cell, item: int) -> Result:
    return result(each, item, 1.0, cost=None, seconds=None)


def test_unknown_is_said() -> None:
    both = [cell("teacher"), cell("student"), cell("cut-off", 40)]
    made = summarise(run(both), [unpriced(each, item) for each in both for item in range(3)])
    dollars, paper = cells(made, 1, "cut-off 40"), cells(made, 0, "cut-off 40")
    for head in ("$ / 1,000 answers", "cost share (95 %)", "random mix, same $", "lift", "$ / correct"):
        assert dollars[head] == UNKNOWN, head
    assert paper["time"] == paper["speed-up, batch 1"] == UNKNOWN
    assert cells(made, 2, "cut-off 40")["spent"] == UNKNOWN
    assert "$0" not in re.sub(r"\$0\.1", "", plain(made))


def test_what_is_missing_is_a_warning() -> None:
    told = [result(cell("cut-off", 40), item, 1.0) for item in range(3)]
    (part,) = parts(summarise(run([cell("cut-off", 40), cell("hint", 40)]), told))
    assert [warning.split(":")[0] for warning in part.warnings] == [
        "The teacher alone was not run",
        "The student alone was not run",
        "Without any answer yet",
    ]
    assert parts(summarise(run(), list(results())))[0].warnings == []


def test_none_correct_is_not_a_price() -> None:
    both = [cell("teacher"), cell("student")]
    told = [result(each, item, float(each is both[0])) for each in both for item in range(3)]
    assert cells(summarise(run(both), told), 1, "student")["$ / correct"] == "none correct"


def test_markdown_has_every_table_and_no_name_can_break_one(summary: Summary) -> None:
    text = markdown(summary)
    tables = re.findall(r"^\| arm .*\n\| ---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert len(tables) == 4
    assert tables[0].count("\n") == len(CELLS)
    nasty = markdown(summarise(run([cell("teacher", task=f"a|b\n{NASTY}")]), []))
    assert "<script>" not in nasty
    assert "a\\|b " in nasty


def test_the_same_stands_in_a_file(summary: Summary) -> None:
    text = plain(summary)
    for part in parts(summary):
        assert part.name in text
    assert "\x1b" not in text


def test_money_below_what_can_be_said_is_not_zero() -> None:
    assert money(0.3) == "below $0.000000001"
    assert money(0) == "$0"
    assert money(None) == UNKNOWN


def test_what_is_spent_at_most_is_marked(summary: Summary) -> None:
    """Requests failed of which nobody knows what they cost."""
    guided = CELLS[5]
    lost = result(guided, 2, None, error="upstream_timeout", unscored="failed", cost=None, most=1_000_000_000)
    told = summarise(run(), [*results(), lost, result(guided, 2, 1.0)])
    spent = cells(told, 2, "cut-off 40, batch 8")["spent"]
    assert spent.startswith("≤ $1.")
    assert not cells(told, 2, "cut-off 60, batch 8")["spent"].startswith("≤")
    assert "counted at the most" in parts(told)[0].sheets[2].note
    assert "counted at the most" not in parts(summary)[0].sheets[2].note
