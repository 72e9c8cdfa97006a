"""Guidance in a cascade: calibrated where answers under it are known, climbed where it pays, seen where it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals import fit, traffic
from evals.calibrate import Goal, calibrate
from evals.fit import Shape
from evals.recorded import Arm, Manifest, Question, Rate, Workload, write
from evals.replay import play, totals
from gateway.bootstrap import open_gateway
from gateway.cascade.policy import Policy
from gateway.chat import Caller, Exchange
from gateway.config import Config
from gateway.shadows import AT_ONCE
from tests.evals import guided
from tests.evals.guided import MANIFEST, STUDENTS
from tests.gateway.conftest import make_chat

pytestmark = pytest.mark.anyio

GOAL = Goal(0.93, 0.6)


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    folder = tmp_path_factory.mktemp("sums")
    write(folder, MANIFEST, guided.rows(600))
    return Workload.load(folder)


def judged(policy: Policy, manifest: Manifest, questions: Sequence[Question]) -> tuple[float, float]:
    scores, costs = totals(play(policy, manifest, question) for question in questions)
    teacher = [question.arms["big"] for question in questions]
    return sum(scores) / sum(arm.score for arm in teacher), sum(costs) / sum(arm.cost for arm in teacher)


class TestCalibrated:
    def test_guidance_that_pays_is_on_the_ladder_and_says_why(self, workload: Workload) -> None:
        seen, held = workload.halves()
        policy = calibrate(seen, MANIFEST, GOAL)
        plain = MANIFEST.model_copy(update={"guided": []})
        without = calibrate(seen, plain, GOAL)
        rungs = [rung for rung in policy.rungs if rung.kind == "guidance"]
        assert rungs
        assert Policy.model_validate(policy.model_dump()) == policy
        first = rungs[0].observed
        assert first is not None
        assert first.kept > first.needed > 0
        assert not any(rung.kind == "guidance" for rung in without.rungs)
        rho, kappa = judged(policy, MANIFEST, held)
        assert rho > 0.9
        assert kappa < judged(without, plain, held)[1] - 0.05, "it saves what it was taken for"

    def test_guidance_that_costs_as_much_as_the_teacher_is_not(self, workload: Workload) -> None:
        """Where reading is all that costs, first words cost what the whole answer does."""
        dear = MANIFEST.model_copy(update={"prices": {**MANIFEST.prices, "big": Rate(input=1000, output=0.1)}})
        questions = [
            Question(each.id, {name: repriced(arm, name, dear) for name, arm in each.arms.items()})
            for each in workload.questions
        ]
        policy = calibrate(questions, dear, GOAL)
        assert not any(rung.kind == "guidance" for rung in policy.rungs)

    def test_the_rule_over_columns_is_the_rule_that_decides(self, workload: Workload) -> None:
        questions = workload.questions
        ladder = ("small", "other", "small@8", "other@8", "other@16")
        shape = Shape(ladder, ("other@16", "small@8", "other@8", *STUDENTS), (30, None, None, 40, None), 40)
        unit = float(np.mean([question.arms["big"].cost for question in questions]))
        rungs = fit.steps(questions, MANIFEST, shape, unit)
        moved = set()
        for worth in (0.02, 0.2, 0.6):
            weighings = fit.fit(rungs, worth)
            walked = fit.walk(rungs, weighings, worth)
            told: list[dict[str, Any]] = []
            for name, limit, step, weighing in zip(ladder, shape.limits, rungs, weighings, strict=True):
                student, _, tokens = name.partition("@")
                rung: dict[str, Any] = {"student": student, "max_tokens": limit}
                if tokens:
                    rung |= {"kind": "guidance", "guidance_tokens": int(tokens)}
                for part in ("gain", "cost", "next"):
                    of = getattr(weighing, part)
                    rung[part] = None if of is None else dict(zip(step.names, map(float, of), strict=True))
                told.append(rung)
            policy = Policy.model_validate(
                {
                    "name": "sums",
                    "kind": "number",
                    "teacher": {"model": "big", "max_tokens": 40},
                    "worth": worth,
                    "prefer": shape.prefer,
                    "rungs": told,
                }
            )
            for row, question in enumerate(questions):
                played = play(policy, MANIFEST, question)
                assert (played.score, played.drafts - 1) == (walked.score[row], walked.ended[row])
                assert played.escalated == walked.escalated[row]
                assert played.cost == pytest.approx(float(walked.cost[row]) * unit)
                moved.add((played.drafts, played.escalated, played.by))
        assert {("teacher", False), ("teacher", True), ("student", False)} <= {(by, up) for _, up, by in moved}
        assert {drafts for drafts, _, _ in moved} >= {2, 3, 4, 5}


def repriced(arm: Arm, name: str, manifest: Manifest) -> Arm:
    big = manifest.prices["big"]
    if arm.guidance:
        return replace(arm, begun=big.cost(arm.read, min(arm.guidance, arm.written)))
    return replace(arm, cost=big.cost(arm.read, arm.written)) if name == "big" else arm


async def served(config: Mapping[str, Any], count: int, *, draw: float) -> list[Exchange]:
    """Ask so many questions of a gateway over the scripted models, each with its shadow, where there is one."""
    chats = [
        make_chat("sums", request_id=str(number), messages=[{"role": "user", "content": guided.PROMPT.format(number)}])
        for number in range(count)
    ]
    asked: list[Exchange] = []
    engines: dict[str, Any] = dict(guided.models())
    async with open_gateway(Config.parse(dict(config)), engines=engines, environ={}, draw=lambda: draw) as gateway:

        async def heard(exchange: Exchange) -> None:
            async with aclosing(gateway.answer(exchange)) as events:
                async for _ in events:
                    pass

        for first in range(0, count, AT_ONCE):
            opened = [gateway.open(chat, Caller()) for chat in chats[first : first + AT_ONCE]]
            asked += opened
            await asyncio.gather(*map(heard, opened))
            await gateway.shadows.idle()
    return asked


COUNT = 240


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ledger of a gateway whose guidance was closed, with a shadow for every request."""
    folder = tmp_path_factory.mktemp("served")
    name = guided.written(folder, guided.start())
    asyncio.run(served(guided.configured(folder, name, shadow=1), COUNT, draw=0.0))
    return folder


class TestFromTraffic:
    def test_shadows_climb_what_was_closed_and_every_answer_is_as_it_was_recorded(
        self, ledger: Path, tmp_path: Path
    ) -> None:
        """Tokens, dollars and what equals what: to the nano-dollar, guidance apart from the students' own part."""
        write(tmp_path / "sums", MANIFEST, guided.rows(COUNT))
        recorded = Workload.load(tmp_path / "sums").by_agreement()
        config = Config.parse(guided.configured(ledger, "policy.yaml"))
        found, evidence = traffic.load(config, "sums", None, None).labelled("agreement")
        assert evidence["left_out"] == {}
        assert found.manifest.guided == MANIFEST.guided
        assert found.manifest.students == list(STUDENTS)
        assert [each.id for each in found.questions] == [each.id for each in recorded.questions]
        for one, other in zip(found.questions, recorded.questions, strict=True):
            assert one.arms.keys() == other.arms.keys()
            for name, arm in one.arms.items():
                of = other.arms[name]
                assert (arm.score, arm.written, arm.guidance, arm.complete) == (
                    of.score,
                    of.written,
                    of.guidance,
                    of.complete,
                ), name
                assert arm.told >= of.told
                assert arm.cost == pytest.approx(of.cost, abs=1e-9)
                if not other.arms["small@8"].complete:  # of what had ended nobody asks for more
                    assert arm.begun == pytest.approx(of.begun, abs=1e-9), name

    def test_it_calibrates_what_the_recording_does(self, ledger: Path, tmp_path: Path) -> None:
        write(tmp_path / "sums", MANIFEST, guided.rows(COUNT))
        config = Config.parse(guided.configured(ledger, "policy.yaml"))
        found, _ = traffic.load(config, "sums", None, None).labelled("agreement")
        one, other = (
            calibrate(each.halves()[0], each.manifest, Goal(0.9, 0.6))
            for each in (found, Workload.load(tmp_path / "sums").by_agreement())
        )
        assert [rung.model_dump() for rung in one.rungs] == [rung.model_dump() for rung in other.rungs]
        assert any(rung.kind == "guidance" for rung in one.rungs)


async def test_what_is_served_is_what_was_calibrated(workload: Workload, tmp_path: Path) -> None:
    """Every entry costs what the replay says, to the nano-dollar; and the receipt says why."""
    seen, _ = workload.halves()
    policy = calibrate(seen, MANIFEST, GOAL)
    (tmp_path / "policy.yaml").write_text(policy.dump())
    exchanges = await served(guided.configured(tmp_path, "policy.yaml"), 80, draw=0.9)
    by_id = {question.id: question for question in workload.questions}
    climbed = 0
    for exchange in exchanges:
        played = play(policy, MANIFEST, by_id[exchange.chat.id])
        spent = sum(call.line.amount.nano for call in exchange.calls if call.line and call.line.amount)
        assert spent == pytest.approx(played.cost * 1000, abs=1)
        assert len(exchange.climbs[0].drafts) == played.drafts
        climbed += any(draft.guidance for draft in exchange.climbs[0].drafts)
    assert climbed > 5


@pytest.mark.parametrize(("length", "opened"), [(25, True), (8, False)])
async def test_a_gateway_sees_in_its_ledger_whether_guidance_pays(ledger: Path, length: int, opened: bool) -> None:
    """Of rungs that were closed, for nothing was known of them, shadows have shown what they would have kept."""
    policy = guided.start() | {"evidence": {"mean_teacher_tokens": {"input": 5, "output": length}}}
    told = guided.configured(ledger, guided.written(ledger, policy, "again.yaml"))
    async with open_gateway(Config.parse(told), engines=dict(guided.models()), environ={}) as gateway:
        by = gateway.planner
        ladder = by.ladders["sums"].policy
        seen = by.acceptance.seen("sums", ladder)
        plan = by.plan(make_chat("sums"), Caller())
        assert by.acceptance.seen("sums", Policy.model_validate(policy)) == {}, "of another policy nothing was seen"
    write(ledger / "sums", MANIFEST, guided.rows(COUNT))
    played = [play(ladder, MANIFEST, question) for question in Workload.load(ledger / "sums").questions]
    for place in range(2, 6):
        came = [each for each in played if each.drafts > place]
        assert seen.get(place, (0, 0)) == (len(came), sum(not each.escalated for each in came))
    assert (2 not in plan.closed) == opened
    if not opened:
        assert plan.closed[2].startswith("guidance of 8 tokens keeps ")
        assert plan.barred == frozenset(), "so that shadows go on looking"
