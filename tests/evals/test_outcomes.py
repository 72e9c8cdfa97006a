"""A run's answers as a workload: what was measured on one's own models is what a policy is calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from evals.cli import app
from evals.outcomes import workload
from evals.recorded import Workload
from evals.results import Result, Run
from gateway.errors import ConfigError
from tests.evals import made_run

PRICES = {"big": {"input": "2", "output": "10"}, "small": {"input": "0.1", "output": "0.2"}}


def run(**changes: Any) -> Run:
    told = made_run.run()
    return msgspec.structs.replace(told, **{"prices": PRICES, **changes})


def rows() -> list[Result]:
    """All answered, so that every question is one of the workload's."""
    return [made_run.result(cell, item, float(item % 2)) for cell in made_run.CELLS for item in range(20)]


def test_whole_answers_and_guided_ones_are_its_arms(tmp_path: Path) -> None:
    folder = made_run.write(tmp_path / "run", run(), rows())
    made = workload(folder, None, None, tmp_path / "out")
    assert (made.teacher, made.students) == ("big", ["small"])
    assert [(each.student, each.tokens) for each in made.guided] == [("small", 10), ("small", 40), ("small", 60)]
    found = Workload.load(tmp_path / "out")
    assert (len(found.questions), found.unscored, found.missing) == (20, 0, 0)
    arms = found.questions[3].arms
    assert arms.keys() == {"big", "small", "small@10", "small@40", "small@60"}
    assert (arms["big"].read, arms["big"].written, arms["big"].cost) == (100, 160, 2 * 100 + 10 * 160)
    guided = arms["small@40"]
    assert guided.begun == 2 * 100 + 10 * 40
    assert guided.cost == pytest.approx(0.1 * 140 + 0.2 * 120)
    assert (guided.written, guided.guidance, guided.complete, guided.score) == (160, 40, False, 1.0)


def test_a_teacher_that_ended_and_an_answer_that_was_asked_again(tmp_path: Path) -> None:
    cells = {cell.name: cell for cell in made_run.CELLS}
    cut = next(cell for cell in made_run.CELLS if cell.strategy == "cut-off" and cell.guidance_tokens == 60)
    ended = made_run.result(cells[cut.name], 3, 1.0)
    ended = msgspec.structs.replace(ended, stages=ended.stages[:1])
    again = msgspec.structs.replace(made_run.result(made_run.CELLS[2], 3, 0.0), error="upstream_timeout", score=None)
    folder = made_run.write(tmp_path / "run", run(), [again, *rows(), ended])
    workload(folder, "sums", "big", tmp_path / "out")
    arms = next(each for each in Workload.load(tmp_path / "out").questions if each.id == "3").arms
    assert (arms["small@60"].complete, arms["small@60"].told, arms["small@60"].cost) == (True, True, 0.0)
    assert arms["small"].score == 1.0


@pytest.mark.parametrize(
    ("changes", "words", "said"),
    [
        ({}, ("other", None), "the run has these for task: sums; say which one with --task"),
        ({}, (None, "huge"), "these for teacher: big"),
        ({"prices": {"big": PRICES["big"]}}, (None, None), "no price of small by the token"),
        (
            {"cells": [cell for cell in made_run.CELLS if cell.student is None]},
            (None, None),
            "no student answered sums",
        ),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, changes: dict[str, Any], words: tuple[Any, Any], said: str) -> None:
    folder = made_run.write(tmp_path / "run", run(**changes), rows())
    with pytest.raises(ConfigError, match=said):
        workload(folder, *words, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    folder = made_run.write(tmp_path / "run", run(), rows())
    told = CliRunner().invoke(app, ["eval", "workload", str(folder), str(tmp_path / "out")], env={"COLUMNS": "200"})
    assert told.exit_code == 0, told.output
    assert "teacher big; students small; guided: small from 10 tokens" in told.output
