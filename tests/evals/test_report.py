"""Over splits: policies stand beside the simple gate, random mixing and the oracle, and refusing is no feat."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evals.calibrate import Goal
from evals.recorded import Manifest, Outcome, Rate, Workload, write
from evals.replay import gate
from evals.report import half, splits
from gateway.errors import ConfigError
from tests.evals.synthetic import MANIFEST, outcomes


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    folder = tmp_path_factory.mktemp("sums")
    write(folder, MANIFEST, outcomes(400))
    return Workload.load(folder)


def test_the_floors_and_the_gate_are_of_the_same_halves(workload: Workload) -> None:
    [found] = splits(workload, [Goal(0.95, 0.6)], 3)
    assert found.oracle is not None
    assert found.random is not None
    assert found.oracle < found.share < found.random
    assert found.promised is not None
    assert found.promised > 0.95
    costs = []
    for _, held in workload.splits(3):
        teacher = sum(question.arms["big"].cost for question in held)
        costs.append(sum(gate(MANIFEST, question).cost for question in held) / teacher)
    assert found.gate[1] == pytest.approx(sum(costs) / 3)
    reached = replace(found, retention=0.96, refused=0)
    assert [reached.misses(most) for most in (None, found.share, found.share - 0.01)] == [False, False, True]
    assert replace(reached, retention=0.94).misses(None)


def test_a_goal_that_every_split_refuses_is_missed(workload: Workload) -> None:
    [found] = splits(workload, [Goal(1.0, 0.999)], 2)
    assert (found.refused, found.retention, found.share, found.promised) == (2, 1.0, 1.0, None)
    assert found.misses(None), "the teacher alone keeps everything, and no policy was found"


def made(folder: Path, count: int, *, price: float = 10, right: bool = True) -> Workload:
    prices = {"big": Rate(input=0, output=price), "small": Rate(input=0.1, output=0.1)}
    manifest = Manifest(name="few", teacher="big", students=["small"], prices=prices, answer="number")
    rows = [
        Outcome(number, model, "?", f"{number}", right, 10, 10) for number in range(count) for model in manifest.models
    ]
    write(folder, manifest, rows)
    return Workload.load(folder)


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too few questions to split into halves"):
        half(made(tmp_path / "one", 1), [Goal(0.9, 0.6)])
    for workload in (made(tmp_path / "free", 300, price=0), made(tmp_path / "wrong", 300, right=False)):
        half(workload, [Goal(0.9, 0.6)])
        with pytest.raises(ConfigError, match="never right in a half of the questions, or costs nothing"):
            splits(workload, [Goal(0.9, 0.6)], 2)
