"""`gkt eval run`: from the command line to cells, and from cells to a run that says what it is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from evals.asking import Asker, in_process
from evals.results import Cell, read
from evals.run_command import Grid, execute, loaded
from evals.runner import Options
from gateway.errors import ConfigError
from pricing.money import Money
from tests.evals.test_runner import CELLS, COUNT, config, sums

pytestmark = pytest.mark.anyio


def test_a_grid_has_each_cell_once() -> None:
    arms = ("teacher", "teacher-concise", "student", "cut-off", "cut-text", "cascade")
    grid = Grid(arms, (20, 40), ("big",), ("a", "b"), (0, 2), 4)
    cells = grid.cells(["gsm8k"])
    assert len(cells) == 2 * (1 + 1 + 2 + 4 + 2 + 1)
    assert Cell("gsm8k", "teacher-concise", None, "big", None, 2, 4) in cells
    assert Cell("gsm8k", "cut-off", 40, "big", "b", 2, 4) in cells
    assert Cell("gsm8k", "cut-text", 20, "big", None, 0, 4) in cells
    assert Cell("gsm8k", "cascade", None, None, None, 0, 4) in cells


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (Grid(("guess",), (), (), (), (0,), 1), "no strategy 'guess'; there are: teacher"),
        (Grid(("cut-off",), (40,), ("big",), (), (0,), 1), "'cut-off' needs a --teacher, a --student or --tokens"),
        (Grid(("cut-off",), (), ("big",), ("a",), (0,), 1), "'cut-off' needs a --teacher, a --student or --tokens"),
    ],
)
def test_what_a_strategy_lacks_is_said(grid: Grid, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        grid.cells(["gsm8k"])


def test_tasks_are_named_with_their_files(tmp_path: Path) -> None:
    sums(tmp_path)
    (task,) = loaded([f"gsm8k={tmp_path / 'sums.jsonl'}"], [])
    assert len(task.items) == COUNT
    with pytest.raises(ConfigError, match="'gsm8k' is not like gsm8k=FILE"):
        loaded(["gsm8k"], [])
    with pytest.raises(ConfigError, match="named twice"):
        loaded([f"gsm8k={tmp_path / 'sums.jsonl'}"] * 2, [])
    with pytest.raises(ConfigError, match="pip install datasets"):
        loaded(["gsm8k=hub:openai/gsm8k@main:test"], [])


async def run(folder: Path, cells: list[Cell], *, agreed: bool = True) -> tuple[bool, list[Money | None]]:
    bounds: list[Money | None] = []

    def asked(bound: Money | None) -> bool:
        bounds.append(bound)
        return agreed

    task, out = sums(folder), Console(file=io.StringIO())
    async with in_process(config(folder)) as asker:
        ended = await execute([task], cells, folder / "run", Options(limit=3), asker=asker, out=out, agreed=asked)
    return ended is not None, bounds


async def test_a_run_says_what_its_models_cost_and_who_was_recorded(tmp_path: Path) -> None:
    ran, bounds = await run(tmp_path, list(CELLS))
    assert ran
    made, results = read(tmp_path / "run")
    assert made.prices == {"big-1": {"input": "2", "output": "10"}, "small-1": {"input": "0.1", "output": "0.1"}}
    assert made.notes == ["big: recorded answers, played back; times that hold them are unknown."]
    spent = sum(stage.cost or 0 for each in results if each.cell != CELLS[3].name for stage in each.stages)
    assert bounds[0] is not None
    assert spent <= bounds[0].nano


async def test_nothing_is_asked_before_it_is_agreed_to(tmp_path: Path) -> None:
    ran, bounds = await run(tmp_path, list(CELLS), agreed=False)
    assert not ran
    assert len(bounds) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "cell",
    [Cell("gsm8k", "concise", 6, "big", "small"), Cell("gsm8k", "hint", 6, "big", "small"),
     Cell("gsm8k", "teacher-concise", teacher="big"),
     Cell("gsm8k", "cut-off", 6, "big", "small", exemplars=2), Cell("gsm8k", "teacher", teacher="big", exemplars=1)],
)  # fmt: skip
async def test_a_recording_is_not_asked_for_what_it_did_not_say(tmp_path: Path, cell: Cell) -> None:
    with pytest.raises(ConfigError, match="'big' plays back recorded answers"):
        await run(tmp_path, [cell])


async def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no upstream 'bigger'; there are: big, small"):
        await run(tmp_path, [Cell("gsm8k", "teacher", teacher="bigger")])


async def test_of_a_gateway_elsewhere_nothing_is_known(tmp_path: Path) -> None:
    asker = Asker("http://127.0.0.1:1", "none")
    bounds: list[Money | None] = []

    def no(bound: Money | None) -> bool:
        bounds.append(bound)
        return False

    out = Console(file=io.StringIO())
    assert await execute([sums(tmp_path)], CELLS, tmp_path / "run", Options(), asker=asker, out=out, agreed=no) is None
    assert bounds == [None]
    await asker.aclose()
