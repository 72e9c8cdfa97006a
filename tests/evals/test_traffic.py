"""Calibrating from the ledger: the same policy as from the answers themselves, and nothing that was not drawn."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from typer.testing import CliRunner, Result

from evals import traffic
from evals.cli import app
from evals.recorded import Workload
from gateway.cascade.kept import Kept
from gateway.cascade.policy import Policy
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.ledger.drafted import Asked, Drafted, Rate
from gateway.ledger.reading import ledger_at
from gateway.ledger.schema import entries
from tests.evals.served import configured, outcomes, recorded, serve

GOAL = ("--retention", "0.9", "--confidence", "0.6")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workload of 220 questions, and a ledger of a gateway that was asked them."""
    made = tmp_path_factory.mktemp("traffic")
    of = outcomes(220)
    recorded(made, of)
    asyncio.run(serve(configured(made), of))
    return made


def test_the_ledgers_policy_is_that_of_the_recorded_answers(folder: Path, tmp_path: Path) -> None:
    config = folder / "config.yaml"
    told = [
        run("calibrate", folder / "sums", "--labels", "teacher", *GOAL, "--out", tmp_path / "file.yaml"),
        run("calibrate", "--ledger", "--route", "sums", "--config", config, *GOAL, "--out", tmp_path / "ledger.yaml"),
    ]
    assert [each.exit_code for each in told] == [0, 0], told[1].output
    of_file, of_ledger = (Policy.load(tmp_path / f"{name}.yaml") for name in ("file", "ledger"))
    assert replace_evidence(of_ledger) == replace_evidence(of_file)
    for name in ("questions", "retention_low", "cost_share", "held", "prices", "mean_teacher_tokens", "target"):
        assert of_ledger.evidence[name] == of_file.evidence[name], name
    assert of_ledger.evidence["labels"] == "agreement"
    assert (of_ledger.evidence["route"], of_ledger.evidence["requests"], of_ledger.evidence["shadowed"]) == (
        "sums",
        220,
        220,
    )
    assert of_ledger.evidence["left_out"] == {}
    assert of_ledger.evidence["window"]["first"] <= of_ledger.evidence["window"]["last"]


def replace_evidence(policy: Policy) -> Policy:
    return policy.model_copy(update={"evidence": {}})


def test_every_answer_is_as_it_was_recorded(folder: Path) -> None:
    """Equal answers are equal, odd ones odd; tokens and dollars are those of the recording, to the nano-dollar."""
    workload = Workload.load(folder / "sums").by_agreement()
    found = traffic.load(Config.load(folder / "config.yaml"), "sums", None, None)
    assert (found.rate.propensity, found.rate.requests, found.stand_in) == (1.0, 220, False)
    agreed, _ = found.labelled("agreement")
    assert [each.id for each in agreed.questions] == [each.id for each in workload.questions]
    assert agreed.manifest.prices == workload.manifest.prices
    for one, other in zip(agreed.questions, workload.questions, strict=True):
        assert one.arms.keys() == other.arms.keys()
        for model, arm in one.arms.items():
            of = other.arms[model]
            assert (arm.score, arm.read, arm.written, arm.logprob) == (of.score, of.read, of.written, of.logprob)
            assert arm.cost == pytest.approx(of.cost, abs=1e-9)
        answers = [(one.arms[model].answer, other.arms[model].answer) for model in one.arms]
        for mine, theirs in answers:
            assert [mine == each for each, _ in answers] == [theirs == each for _, each in answers]


def test_the_routes_target_is_the_default_and_the_old_policy_is_kept(folder: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    out = tmp_path / "policy.yaml"
    assert run("calibrate", "--ledger", "--route", "sums", "--config", folder / "config.yaml", *GOAL, "--out", out)
    before = out.read_text()
    (folder / "low.yaml").write_text(before)
    settings["routes"]["sums"] |= {"target": {"retention": 0.85}, "policy": "low.yaml"}
    (folder / "other.yaml").write_text(yaml.safe_dump(settings))
    arguments = ("--route", "sums", "--config", folder / "other.yaml", "--confidence", 0.6, "--out", out)
    told = run("calibrate", "--ledger", *arguments)
    assert told.exit_code == 0, told.output
    assert Policy.load(out).evidence["target"] == {"retention": 0.85, "confidence": 0.6}
    assert [Policy.load(each).evidence["revision"] for each in (tmp_path / "policy.1.yaml", out)] == [1, 2]
    assert (tmp_path / "policy.1.yaml").read_text() == before
    assert "policy.1.yaml" in told.stdout


def test_too_little_says_how_many_requests_would_do(folder: Path, tmp_path: Path) -> None:
    arguments = ("--route", "sums", "--config", folder / "config.yaml", "--out", tmp_path / "policy.yaml")
    told = run("calibrate", "--ledger", *arguments, "--retention", 0.99, "--confidence", 0.99)
    assert told.exit_code == 1
    assert "do not support a retention of 0.99" in told.output
    assert re.search(
        r"about \d+ would, all else equal; 220 requests brought these, so about \d,\d+ would do", told.output
    )
    assert not list(tmp_path.iterdir())
    few = run("calibrate", "--ledger", *arguments, "--since", last(folder, 100))
    assert few.exit_code == 1
    assert re.search(r"nothing is claimed below 100; 100 requests brought these, so about 1\d\d would do", few.output)


def last(folder: Path, count: int) -> float:
    """The moment from which on there are so many requests."""
    with ledger_at(f"sqlite:///{folder}/ledger.db") as connection:
        at: list[float] = [row.at for row in connection.execute(entries.select().where(entries.c.shadow_of.is_(None)))]
    return sorted(at)[-count]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ledger",), "say either DIR, or --ledger and --route NAME"),
        (("DIR", "--ledger", "--route", "sums"), "say either DIR, or --ledger and --route NAME"),
        (("DIR", "--since", "2026-01-01"), "--since and --until are for --ledger"),
        (("DIR", "--labels", "feedback"), "feedback is not for this source"),
        (("--ledger", "--route", "sums", "--labels", "correct"), "correct is not for this source"),
        (("--ledger", "--route", "nobody"), "there is no route 'nobody'"),
    ],
)
def test_wrong_usage_is_said(folder: Path, words: tuple[str, ...], said: str) -> None:
    told = [str(folder / "sums") if word == "DIR" else word for word in words]
    result = run("calibrate", *told, *(("--config", folder / "config.yaml") if "--ledger" in words else ()))
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


# Requests by hand: three students, a teacher, and what is known of them.

PRICE: Mapping[str, Any] = {"input": 100_000_000, "output": 200_000_000, "per_hour": None}


def request(number: int, groups: Mapping[str, int | None], *, score: float | None = None, **rest: Any) -> Drafted:
    """One whose answers have these group numbers; the first student's was shown."""
    answers = [
        Kept(
            None if model == "big" else place,
            model,
            20,
            group,
            None if group is None else "number",
            given=place == 0,
            calls=(f"{number}/{place}",),
        )
        for place, (model, group) in enumerate(groups.items())
    ]
    calls = {call: Asked(10, 5_000, PRICE) for each in answers for call in each.calls}
    return replace(Drafted(str(number), 1.8e9 + number, answers, calls, score, False), **rest)


RATE = Rate(0.05, 1.8e9, 100, 5)
ALIKE = {"small": 0, "other": 0, "big": 0}
APART = {"small": 0, "other": 1, "big": 2}


def scores(of: Workload) -> list[dict[str, float]]:
    return [{model: arm.score for model, arm in question.arms.items()} for question in of.questions]


def test_feedback_says_what_follows_from_it_and_counts_what_does_not() -> None:
    requests = [
        request(0, APART, score=1.0),  # right, so all others are wrong
        request(1, ALIKE, score=0.0),  # wrong, and so is whoever said the same
        request(2, {"small": 0, "other": 1, "big": 1}, score=0.0),  # nobody knows of the others: the teacher is taken
        request(3, {"small": 0, "other": 1, "big": 0}, score=0.0),  # the other may be right: counted wrong
        request(4, ALIKE, score=0.75),
        request(5, APART),  # nobody said anything
        request(6, {"small": None, "other": 1, "big": 1}, score=0.0),  # an answer with no form to compare by
        request(7, {"small": 0, "other": 1, "big": None}, score=1.0),
    ]
    found = traffic.read(requests, [RATE], "sums", "number")
    workload, evidence = found.labelled("feedback")
    assert [each.id for each in workload.questions] == ["0", "1", "2", "3", "4"]
    assert scores(workload) == [
        {"small": 1.0, "other": 0.0, "big": 0.0},
        {"small": 0.0, "other": 0.0, "big": 0.0},
        {"small": 0.0, "other": 1.0, "big": 1.0},
        {"small": 0.0, "other": 0.0, "big": 0.0},
        {"small": 0.75, "other": 0.75, "big": 0.75},
    ]
    assert (evidence["guessed"], evidence["unscored"], evidence["labels"]) == (2, 3, "feedback")
    agreed, _ = found.labelled("agreement")
    assert [each.id for each in agreed.questions] == ["0", "1", "2", "3", "4", "5", "6"]
    with pytest.raises(ConfigError, match="has feedback"):
        traffic.read(requests[5:6], [RATE], "sums", "number").labelled("feedback")


def test_requests_that_were_drawn_otherwise_do_not_weigh_the_same() -> None:
    rates = [RATE, Rate(0.2, 1.8e9 + 50, 10, 2)]
    with pytest.raises(ConfigError, match=r"several rates .*0\.05 since .*--since 2027-01-15T08:00:50Z"):
        traffic.read([request(0, ALIKE)], rates, "sums", "number")
    with pytest.raises(ConfigError, match=r"shadow: 0\.05"):
        traffic.read([], [], "sums", "number")


def test_what_is_not_known_is_left_out_and_counted() -> None:
    unpriced = {"0/0": Asked(10, None, None), "0/1": Asked(10, 5, PRICE), "0/2": Asked(10, 5, PRICE)}
    uncounted = {f"1/{place}": Asked(None, 5, PRICE) for place in range(3)}
    requests = [
        request(0, ALIKE, calls=unpriced),
        request(1, ALIKE, calls=uncounted),
        request(2, {"small": 0, "other": 0}),
        request(3, {"big": 0}),
        request(4, {"small": 0, "big": 0}),
        request(5, ALIKE),
        request(6, APART),
    ]
    found = traffic.read(requests, [RATE], "sums", "number")
    assert [each.id for each in found.workload.questions] == ["5", "6"]
    assert found.left_out == {
        "with a call that has no price": 1,
        "with a call whose tokens are not known": 1,
        "without the teacher's answer": 1,
        "without a student's draft": 1,
        "without a draft of every student, or with another teacher": 1,
    }
    assert found.workload.missing == 5
    with pytest.raises(ConfigError, match="all is known: 1 with a call that has no price"):
        traffic.read(requests[:1], [RATE], "sums", "number")


def test_a_limit_of_the_policy_is_one_of_the_data() -> None:
    """Longer answers than the shortest limit are cut; guidance is no draft; a teacher that was cut is asked anew."""
    one, other = request(0, ALIKE), request(1, ALIKE)
    small = replace_kept(one.answers[0], limit=64)
    long = replace_kept(other.answers[0], limit=256, output=200)
    cut = Kept(None, "big", 8, limit=8, calls=("1/2",))
    guided = Kept(9, "small", 40, guidance=48, told=True, calls=("1/0",))
    found = traffic.read(
        [
            replace(one, answers=[small, *one.answers[1:]]),
            replace(other, answers=[long, cut, guided, *other.answers[1:]]),
        ],
        [RATE],
        "sums",
        "number",
    )
    assert found.workload.manifest.limits == {"small": 64}
    arms = found.workload.questions[1].arms
    assert (arms["small"].written, arms["big"].written) == (200, 20)


def replace_kept(kept: Kept, **changes: Any) -> Kept:
    return msgspec.structs.replace(kept, **changes)


def test_a_model_by_the_hour_costs_what_its_words_came_to() -> None:
    hourly = {f"0/{place}": Asked(10, 4_000, {"input": None, "output": None, "per_hour": 2}) for place in range(3)}
    found = traffic.read([request(0, ALIKE, calls=hourly)], [RATE], "sums", "number")
    assert found.workload.manifest.prices["small"].output == pytest.approx(4.0 / 20)
    assert found.workload.manifest.prices["small"].input == 0
