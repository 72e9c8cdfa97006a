"""The format of recorded outcomes: what is written is read back, and what is wrong is refused with its place."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from evals.recorded import MANIFEST as FILE
from evals.recorded import Manifest, Outcome, Workload, write
from gateway.errors import ConfigError
from tests.evals.synthetic import MANIFEST, outcomes

RATE = {"input": 1, "output": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, MANIFEST, outcomes(20))
    return tmp_path


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def put(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_is_written_is_read_back(folder: Path) -> None:
    workload = Workload.load(folder)
    assert workload.manifest == MANIFEST
    assert (len(workload.questions), workload.unscored, workload.missing) == (20, 0, 0)
    first = next(outcomes(1))
    arm = workload.questions[0].arms["big"]
    assert (arm.score, arm.read, arm.written) == (float(bool(first.correct)), 100, first.output_tokens)
    assert arm.cost == pytest.approx(2.5 * 100 + 10 * first.output_tokens)


def test_a_fraction_of_correct_and_logprobs_count(folder: Path) -> None:
    rows = lines(folder)
    rows[0] |= {"correct": 0.25, "logprobs": [-0.5, -1.5]}
    put(folder, rows)
    arm = Workload.load(folder).questions[0].arms[rows[0]["model"]]
    assert (arm.score, arm.logprob, arm.least) == (0.25, -1.0, -1.5)


def test_a_group_says_what_form_does_not(folder: Path) -> None:
    manifest = yaml.safe_load((folder / "workload.yaml").read_text())
    (folder / "workload.yaml").write_text(yaml.safe_dump(manifest | {"answer": "meaning"}))
    rows = lines(folder)
    first = [row for row in rows if row["id"] == rows[0]["id"]]
    for place, row in enumerate(first):
        row |= {"response": f"In words of its own, {place}.", "group": int(place > 1)}
    put(folder, rows)
    arms = Workload.load(folder).questions[0].arms
    answers = [arms[row["model"]].answer for row in first]
    assert None not in answers
    assert [answer == answers[0] for answer in answers] == [True, True, False, False]
    assert answers[2] == answers[3]


def test_what_cannot_be_scored_or_compared_is_left_out_and_counted(folder: Path) -> None:
    rows = lines(folder)
    rows[0]["correct"] = None
    put(folder, [row for row in rows if (row["id"], row["model"]) != (7, "third")])
    workload = Workload.load(folder)
    assert (len(workload.questions), workload.unscored, workload.missing) == (18, 1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"correct": 1.5}, "correct is 1.5"),
        ({"output_tokens": -1}, "fewer than 0"),
        ({"gold": 3}, "unknown field"),
        ({"response": None}, "Expected `str`"),
        ({"id": 0}, "a second answer"),
    ],
)
def test_a_faulty_line_is_named(folder: Path, change: dict[str, Any], said: str) -> None:
    rows = lines(folder)
    rows[4] |= change
    put(folder, rows)
    with pytest.raises(ConfigError, match=said) as caught:
        Workload.load(folder)
    assert "answers.jsonl:5" in str(caught.value)


def test_all_models_were_asked_the_same(folder: Path) -> None:
    rows = lines(folder)
    rows[5]["prompt"] = "Another?"
    put(folder, rows)
    with pytest.raises(ConfigError, match=r"answers\.jsonl:6: question 1 has another prompt"):
        Workload.load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prices": {"big": RATE}}, "no price for small"),
        ({"students": []}, "students"),
        ({"students": ["big"]}, "two roles"),
        ({"teachr": "big"}, "teachr"),
        ({"files": ["*.csv"]}, "no file matches"),
        ({"teacher": "huge", "prices": dict.fromkeys((*MANIFEST.models, "huge"), RATE)}, "no answers of huge"),
    ],
)
def test_a_faulty_manifest_is_refused(folder: Path, change: dict[str, Any], said: str) -> None:
    told = yaml.safe_load((folder / FILE).read_text())
    (folder / FILE).write_text(yaml.safe_dump({**told, **change}))
    with pytest.raises(ConfigError, match=said):
        Workload.load(folder)


def test_a_directory_without_a_manifest_is_no_workload(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"workload\.yaml"):
        Workload.load(tmp_path)


def test_the_example_of_the_documentation_is_in_the_format() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tradeoff.md").read_text("utf-8")
    shown = dict(re.findall(r"^```(yaml workload\.yaml|json)\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    manifest = Manifest.model_validate(yaml.safe_load(shown["yaml workload.yaml"]))
    assert msgspec.json.decode(shown["json"], type=Outcome).model in manifest.models


def test_the_halves_are_by_the_parity_of_a_digest(folder: Path) -> None:
    even, odd = Workload.load(folder).halves()
    assert {int(sha256(f"sums{each.id}".encode()).hexdigest(), 16) % 2 for each in even} == {0}
    assert {int(sha256(f"sums{each.id}".encode()).hexdigest(), 16) % 2 for each in odd} == {1}
    assert len(even) + len(odd) == 20


def test_random_splits_halve_the_questions_and_repeat(folder: Path) -> None:
    workload = Workload.load(folder)
    first, again = ([[each.id for each in one] for one, _ in workload.splits(5)] for _ in range(2))
    assert first == again
    assert len({tuple(one) for one in first}) == 5
    for one, other in workload.splits(5):
        assert {each.id for each in [*one, *other]} == {each.id for each in workload.questions}
        assert len(one) == len(other) == 10


def test_without_labels_the_teacher_is_right(folder: Path) -> None:
    for question in Workload.load(folder).by_agreement().questions:
        assert question.arms["big"].score == 1.0
        for arm in question.arms.values():
            assert arm.score == float(arm.answer == question.arms["big"].answer)
