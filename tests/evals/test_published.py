"""What `gkt eval replay` reaches on recorded public answers, where they are at hand.

Fewer splits than the numbers of docs/tradeoff.md, hence looser bounds here; the command has the full ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.calibrate import Goal
from evals.imports import SOURCES, bring
from evals.recorded import Workload
from evals.report import splits
from tests.conftest import DATA

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "gpt4o_gsm8k.jsonl").is_file(), reason="the recorded answers are not here"),
]


def load(name: str, folder: Path) -> Workload:
    bring(DATA, next(source for source in SOURCES if source.name == name), folder)
    return Workload.load(folder)


@pytest.mark.parametrize(
    ("name", "retention", "share"), [("gsm8k", 0.98, 0.14), ("gsm8k", 0.95, 0.09), ("math-l5", 0.98, 0.55)]
)
def test_a_policy_keeps_the_accuracy_for_less(name: str, retention: float, share: float, tmp_path: Path) -> None:
    found = splits(load(name, tmp_path), Goal(retention, 0.6), 3)
    assert found.retention > retention - 0.015
    assert found.share < share
    assert found.refused == 0


def test_every_workload_can_be_read(tmp_path: Path) -> None:
    for source in SOURCES:
        workload = load(source.name, tmp_path / source.name)
        assert (workload.unscored, workload.missing) == (0, 0)
        assert len(workload.questions) in (1319, 721)
