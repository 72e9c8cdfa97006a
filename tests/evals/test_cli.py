"""`gkt eval replay`, `gkt eval import` and `gkt calibrate`, from the files to the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from evals.cli import app
from evals.recorded import write
from gateway.cascade.policy import Policy
from tests.evals import made_run
from tests.evals.synthetic import MANIFEST, outcomes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "sums", MANIFEST, outcomes(400))
    return tmp_path / "sums"


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


@pytest.mark.slow
def test_a_target_that_is_reached_and_one_that_is_missed(folder: Path) -> None:
    reached = run("eval", "replay", folder, "--splits", 2, "--target", "rho=0.9:kappa=0.9")
    assert (reached.exit_code, "reached" in reached.stdout) == (0, True)
    for arm in ("teacher: big", "teacher, cut at", "student: third", "simple gate", "random mixing", "oracle"):
        assert arm in reached.stdout
    for number in ("APGR", "CPT 0.8", "AIQ", "no worse by 1 point", "a correct answer costs"):
        assert number in reached.stdout
    missed = run("eval", "replay", folder, "--splits", 2, "--target", "rho=0.9:kappa=0.001")
    assert missed.exit_code == 1
    assert "missed: rho=0.9" in missed.output


def test_json_holds_what_the_table_shows(folder: Path) -> None:
    told = json.loads(run("eval", "replay", folder, "--splits", 2, "--target", "rho=0.9", "--json").stdout)
    assert told["held"] + told["calibrated"] == 400
    name = "policy, rho 0.9 at 0.5"
    row = next(row for row in told["rows"] if row["arm"] == name)
    low, high = row["comparison"]["cost_share_interval"]
    assert low < row["comparison"]["cost_share"] < high
    assert told["floors"][name]["oracle"] < row["comparison"]["cost_share"] < told["floors"][name]["random"]
    assert Policy.model_validate(told["policies"][name]).rungs
    curve = told["curves"][name]
    assert 0.5 < curve["calls"]["apgr"] < 1.1
    assert curve["aiq_random"] < curve["aiq"] <= 1
    assert curve["dollars"].keys() == {"apgr", "cpt_50", "cpt_80"}
    assert row["beside"]["difference"] == pytest.approx(row["accuracy"] - told["rows"][0]["accuracy"])
    assert row["non_inferior"] == (row["beside"]["interval"][0] > -0.01)
    assert row["per_correct"] < told["rows"][0]["per_correct"]
    assert told["splits"][0]["count"] == 2


@pytest.mark.parametrize("target", ["0.98", "rho=x", "kappa=0.1", "rho=0.9:cost=1", "rho=2"])
def test_a_target_that_is_none_is_wrong_usage(folder: Path, target: str) -> None:
    result = run("eval", "replay", folder, "--target", target)
    assert result.exit_code == 2
    assert "is not like rho=0.98:kappa=0.125" in result.output


def test_a_directory_without_a_workload_is_refused_in_one_line(tmp_path: Path) -> None:
    result = run("eval", "replay", tmp_path)
    assert result.exit_code == 2
    assert "workload.yaml" in result.output


@pytest.mark.parametrize("labels", ["correct", "teacher"])
def test_calibrate_writes_a_policy_with_its_evidence(folder: Path, tmp_path: Path, labels: str) -> None:
    file = tmp_path / "policy.yaml"
    arguments = ("--retention", 0.9, "--confidence", 0.6, "--labels", labels, "--out", file)
    assert run("calibrate", folder, *arguments).exit_code == 0
    evidence = Policy.load(file).evidence
    assert evidence["labels"] == labels
    assert evidence["held"]["questions"] + evidence["questions"] == 400
    assert (evidence["teacher_accuracy"] == 1.0) is (labels == "teacher")


def test_calibrate_refuses_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    result = run("calibrate", folder, "--retention", 1.0, "--confidence", 0.999, "--out", tmp_path / "policy.yaml")
    assert result.exit_code == 1
    assert "do not support a retention of 1" in result.output
    assert not (tmp_path / "policy.yaml").exists()


def test_published_answers_are_brought_into_the_format(tmp_path: Path) -> None:
    """The importer on two questions in the published form."""
    from evals.imports import SOURCES, bring
    from evals.recorded import Workload

    data = tmp_path / "data"
    data.mkdir()
    source = SOURCES[1]
    prompts = [{"id": str(number), "prompt": f"What is {number} + 1?"} for number in range(2)]
    answers = [
        {"id": str(number), "model": model, "response": f'{{"answer": "{number + 1}"}}', "correct": True}
        for number in range(2)
        for model in (source.teacher, *source.students, "another-model")
    ]
    for name, rows in ((source.prompts, prompts), (source.answers[0], answers)):
        (data / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    bring(data, source, tmp_path / "out")
    workload = Workload.load(tmp_path / "out")
    assert len(workload.questions) == 2
    arm = workload.questions[1].arms[source.teacher]
    assert arm.answer is not None
    assert (arm.answer.value, arm.score) == ("2", 1.0)
    assert 5 < arm.read < 12
    assert yaml.safe_load((tmp_path / "out" / "workload.yaml").read_text())["prices"][source.teacher] == {
        "input": 3,
        "output": 15,
    }
    assert run("eval", "import", tmp_path / "nowhere", tmp_path / "out").exit_code == 2


def test_a_report_in_each_form(tmp_path: Path) -> None:
    folder = made_run.write(tmp_path / "run", made_run.run(), list(made_run.results()))
    shown = run("eval", "report", folder)
    assert shown.exit_code == 0
    assert "sums: big → small, no exemplars" in shown.output
    told = json.loads(run("eval", "report", folder, "--format", "json").output)
    assert [group["student"] for group in told["groups"]] == ["small"]
    assert run("eval", "report", folder, "--format", "markdown").output.startswith("# made up")
    assert run("eval", "report", folder, "--format", "html").output == f"{folder / 'report.html'}\n"
    assert (folder / "report.html").read_text("utf-8").rstrip().endswith("</html>")
    file = tmp_path / "report.txt"
    assert run("eval", "report", folder, "--out", file).exit_code == 0
    assert "All-in dollars" in file.read_text("utf-8")


def test_a_report_of_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    result = run("eval", "report", tmp_path)
    assert result.exit_code == 2
    assert "a run is a directory with a run.json" in " ".join(result.output.split())
