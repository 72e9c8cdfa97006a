"""What `gkt eval replay` reaches on recorded public answers, where they are at hand, as docs/tradeoff.md claims it.

The splits are those of the command, so these are its very numbers: at each target the mean retention over forty held
halves is at least that, for no more than the share of the teacher's cost that is claimed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest

from evals.calibrate import Goal
from evals.imports import SOURCES, Source, bring
from evals.recorded import Workload
from evals.report import splits
from tests.conftest import DATA

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # half a minute of a core for each target, and several on a machine that is busy
    pytest.mark.skipif(not (DATA / "gpt4o_gsm8k.jsonl").is_file(), reason="the recorded answers are not here"),
]

SPLITS = 40
NEAR = 0.002
"""How far a mean may be from the published one: libraries round products differently, and a candidate more or less."""

Load = Callable[[str], Workload]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A workload by its name, brought and read once."""

    @cache
    def loaded(name: str) -> Workload:
        folder = tmp_path_factory.mktemp(name)
        bring(DATA, next(source for source in SOURCES if source.name == name), folder)
        return Workload.load(folder)

    return loaded


class Row(NamedTuple):
    """What is published of a target: the reach that it is held against, and the means."""

    target: float
    reach: float
    retention: float
    share: float


@pytest.mark.parametrize(
    ("name", "refused", "rows"),
    [
        ("gsm8k", 0, [Row(0.98, 0.125, 0.9823, 0.1242), Row(0.95, 0.11, 0.9539, 0.0590)]),
        ("math-l5", 3, [Row(0.98, 0.55, 0.9907, 0.5109)]),
    ],
)
def test_the_published_reach(name: str, refused: int, rows: list[Row], load: Load) -> None:
    """At an even chance (confidence 0.5), as published; a split on which calibration refuses is the teacher alone."""
    over = splits(load(name), [Goal(row.target, 0.5) for row in rows], SPLITS)
    for row, found in zip(rows, over, strict=True):
        assert found.retention >= row.target
        assert found.share <= row.reach
        assert not found.misses(row.reach), "what the command's --target says"
        assert found.retention == pytest.approx(row.retention, abs=NEAR)
        assert found.share == pytest.approx(row.share, abs=NEAR)
        assert found.refused == refused


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_workload_can_be_read(source: Source, load: Load) -> None:
    workload = load(source.name)
    assert (workload.unscored, workload.missing) == (0, 0)
    assert len(workload.questions) in (1319, 721)
