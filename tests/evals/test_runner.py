"""The runner over a gateway in this process: its results, its budget, and what becomes of a run that was killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evals.asking import Asker, Told, in_process
from evals.recording import only, record
from evals.results import RESULTS, Cell, Result, Stage, read
from evals.runner import Options, most, run
from evals.tasks import Task, load
from gateway.config import Config
from gateway.errors import ConfigError
from pricing.money import Money

pytestmark = pytest.mark.anyio

COUNT = 12
RECORDED = "First count them all, one after the other, with great care and on paper. The answer is {}."
CELLS = (
    Cell("gsm8k", "teacher", teacher="big", concurrency=4),
    Cell("gsm8k", "student", student="small", concurrency=4),
    Cell("gsm8k", "cut-off", 6, "big", "small", concurrency=4),
    Cell("gsm8k", "cut-text", 6, "big", concurrency=4),
)


def sums(folder: Path, count: int = COUNT) -> Task:
    """Sums, with a recording of a teacher that knows all but every fourth."""
    rows = [{"question": f"What is {n} + {n}?", "gold": 2 * n} for n in range(count)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    said = [{"id": n, "response": RECORDED.format(2 * n + (n % 4 == 0)), "model": "big-1"} for n in range(count)]
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said), "utf-8")
    task = load("gsm8k", folder / "sums.jsonl")
    ids = record(task, folder / "said.jsonl", folder / "tape.jsonl")
    return only(task, ids)


def config(folder: Path, **teacher: Any) -> Config:
    return Config.parse(
        {
            "ledger": {"url": "sqlite://"},
            "upstreams": {
                "big": {"kind": "replay", "model": "big-1", "file": str(folder / "tape.jsonl"), **teacher},
                "small": {"kind": "scripted", "model": "small-1", "says": "The answer is 6."},
            },
            "routes": {"gkt": {"strategy": "cut-off", "teacher": "big", "student": "small"}},
            "prices": {"big-1": {"input": 2, "output": 10}, "small-1": {"input": 0.1, "output": 0.1}},
        }
    )


async def test_a_grid_is_asked_scored_and_priced(tmp_path: Path) -> None:
    task, out = sums(tmp_path), tmp_path / "run"
    async with in_process(config(tmp_path)) as asker:
        bound = most([task], CELLS, asker, Options())
        ended = await run("sums", [task], CELLS, out, asker, Options(notes=["made up"]))
    assert (ended.missing, ended.why) == (0, None)
    made, results = read(out)
    assert made.tasks["gsm8k"]["questions"] == COUNT
    cells = {cell.strategy: [each for each in results if each.cell == cell.name] for cell in CELLS}
    assert {name: len(each) for name, each in cells.items()} == dict.fromkeys(cells, COUNT)
    assert sum(each.score or 0 for each in cells["teacher"]) == COUNT * 3 / 4
    assert sum(each.score or 0 for each in cells["student"]) == 1
    assert sum(each.score or 0 for each in cells["cut-text"]) == 0
    for each in cells["cut-off"]:
        assert each.answer.startswith(each.guidance)
        assert each.guidance.startswith("First count them")
        assert [stage.seat for stage in each.stages] == ["teacher", "student"]
        assert each.cost == sum(stage.cost or 0 for stage in each.stages)
        assert each.cost < (each.baseline or 0)
    for alone, guided in zip(cells["cut-text"], cells["cut-off"], strict=True):
        assert (alone.item, alone.answer, alone.cost) == (guided.item, guided.guidance, guided.stages[0].cost)
    assert len({tuple(each.item for each in rows) and len(rows) for rows in cells.values()}) == 1
    spent = sum(stage.cost or 0 for each in results if each.cell != CELLS[3].name for stage in each.stages)
    assert bound is not None
    assert 0 < spent <= bound.nano


async def test_what_is_there_is_not_asked_again(tmp_path: Path) -> None:
    task, out = sums(tmp_path), tmp_path / "run"
    async with in_process(config(tmp_path)) as asker:
        await run("sums", [task], CELLS[:1], out, asker, Options(limit=5))
        before = (out / RESULTS).read_bytes()
        await run("sums", [task], CELLS[:1], out, asker, Options(limit=5))
        assert (out / RESULTS).read_bytes() == before
        with pytest.raises(ConfigError, match="a run with other tasks"):
            await run("sums", [task], CELLS[:1], out, asker, Options(limit=6))
        with pytest.raises(ConfigError, match="a run with other cells"):
            await run("sums", [task], CELLS[:2], out, asker, Options(limit=5))


async def test_a_torn_line_is_asked_again(tmp_path: Path) -> None:
    task, out = sums(tmp_path), tmp_path / "run"
    async with in_process(config(tmp_path)) as asker:
        await run("sums", [task], CELLS[:1], out, asker)
        whole = (out / RESULTS).read_bytes()
        (out / RESULTS).write_bytes(whole[:-7])
        assert (await run("sums", [task], CELLS[:1], out, asker)).missing == 0
    _, results = read(out)
    assert len({each.key for each in results}) == len(results) == COUNT


class Priced(Asker):
    """Costs what it is told to, at most `dearest`, and counts."""

    def __init__(self, costs: list[int], dearest: int) -> None:
        super().__init__("http://127.0.0.1:1", "none", bound=lambda _: Money(dearest))
        self.costs, self.paid, self.at_once = costs, 0, 0

    async def ask(self, body: Mapping[str, Any]) -> Told:
        cost = self.costs.pop()
        self.at_once += 1
        await asyncio.sleep(0)
        self.paid += cost
        return Told("The answer is 1.", stages=(Stage("answer", "teacher", "m", 1, 1, cost, None, None),), cost=cost)


@pytest.mark.parametrize("budget", [0, 99, 100, 450, 1000, 5000])
async def test_a_budget_is_never_passed(tmp_path: Path, budget: int) -> None:
    task = sums(tmp_path, 40)
    costs = [n * 37 % 100 + 1 for n in range(40)]
    asker = Priced(costs, 100)
    ended = await run("sums", [task], CELLS[:1], tmp_path / "run", asker, Options(budget=Money(budget)))
    await asker.aclose()
    assert asker.paid <= budget
    assert (ended.missing == 0) == (budget == 5000)
    if ended.missing:
        assert "does not hold another question" in str(ended.why)
        assert budget - asker.paid < 400, "four at once may hold what they do not need"


async def test_a_gateway_elsewhere_knows_no_budget(tmp_path: Path) -> None:
    asker = Asker("http://127.0.0.1:1", "none")
    with pytest.raises(ConfigError, match="give its key a budget"):
        await run("sums", [sums(tmp_path)], CELLS, tmp_path / "run", asker, Options(budget=Money.usd(1)))
    await asker.aclose()


async def test_failures_are_written_down_and_asked_again(tmp_path: Path) -> None:
    task, out = sums(tmp_path), tmp_path / "run"
    away = Asker("http://127.0.0.1:1", "none")
    ended = await run("sums", [task], CELLS[:1], out, away)
    await away.aclose()
    assert ended.missing == COUNT
    _, results = read(out)
    assert {(each.score, each.unscored) for each in results} == {(None, "the request failed: APIConnectionError")}
    async with in_process(config(tmp_path)) as asker:
        assert (await run("sums", [task], CELLS[:1], out, asker)).missing == 0


PROGRAM = """
import asyncio, sys
from pathlib import Path
from evals.asking import in_process
from evals.runner import run
from tests.evals.test_runner import CELLS, config, sums

async def main(folder):
    task = sums(folder)
    async with in_process(config(folder, delay=0.02)) as asker:
        await run("sums", [task], CELLS, folder / "run", asker)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_run_that_is_killed_goes_on(tmp_path: Path) -> None:
    """What was answered is not asked again: only what was under way may be paid twice."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    path = tmp_path / "run" / RESULTS

    def lines() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    first = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 60
    while lines() < 5:
        assert time.monotonic() < ends
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = lines()
    assert kept < COUNT * len(CELLS)
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, timeout=120, check=True)
    _, results = read(tmp_path / "run")
    assert len(results) == len({each.key for each in results}) == COUNT * len(CELLS)
    assert all(isinstance(each, Result) and each.error is None for each in results)
