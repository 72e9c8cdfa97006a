"""Answers that only a model can compare: a shadow compares the teacher's too, and calibrating reads the same groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evals import traffic
from evals.recorded import Question, Workload
from gateway.bootstrap import open_gateway
from gateway.cascade.policy import Policy, Rung, Teacher
from gateway.config import Config
from students.scripted import Scripted
from tests.fakes import Embeddings, served
from tests.gateway.conftest import House

pytestmark = pytest.mark.anyio

SKY = "The sky is blue because air scatters blue light the most."
ALIKE = "Because air scatters blue light the most, the sky is blue."
AGAIN = "Air scatters blue light the most because the sky is blue."
OTHER = "Nobody knows; ask an astronomer about the colour of the night."
PRICES = {
    "big": {"input": 2, "output": 10},
    "one": {"input": 0.1, "output": 0.1},
    "two": {"input": 0.2, "output": 0.2},
    "embed-small": {"input": 1000, "output": 0},
}


async def read(folder: Path, says: Mapping[str, str]) -> tuple[Question, Mapping[str, Any], Mapping[str, Any]]:
    """One request with its shadow: the question that calibrating reads, the request, and its shadow."""
    rungs = [
        Rung(student="one", gain={"one": 1.0}, cost={"one": 1.0}, next={"one": 2.0}),
        Rung(student="two", gain={"alone": 1.0}, cost={"one": 1.0}),
    ]
    policy = Policy(name="t", kind="meaning", teacher=Teacher(model="big"), worth=0.1, prefer=["one"], rungs=rungs)
    (folder / "policy.yaml").write_text(policy.dump(), "utf-8")
    async with served(Embeddings()) as fake:
        route = {"strategy": "cascade", "teacher": "big", "policy": str(folder / "policy.yaml"), "shadow": 0.5}
        embedder = {"kind": "openai_api", "model": "embed-small", "base_url": fake.url}
        meaning = {"by": "embedding", "upstream": "embedder"}
        made = Config.parse(
            {
                "ledger": {"url": f"sqlite:///{folder / 'ledger.db'}"},
                "prices": PRICES,
                "upstreams": {**{name: {"kind": "scripted", "model": name} for name in says}, "embedder": embedder},
                "routes": {"gkt": {**route, "meaning": meaning}},
            }
        )
        engines = {name: Scripted(name, said, model=name) for name, said in says.items()}
        async with open_gateway(made, engines=engines, environ={}, draw=lambda: 0.1) as gateway:
            home = House(gateway)
            await home.ask()
            await gateway.shadows.idle()
            entry = await home.entry()
    found: Workload = traffic.load(made, "gkt", None, None).workload
    assert found.manifest.answer == "meaning"
    (question,) = found.questions
    return question, entry, entry["shadow"]


def cost(calls: Any, *upstreams: str) -> float:
    return float(sum(call["amount"] for call in calls if call["upstream"] in upstreams) / 1000)


async def test_a_shadow_compares_the_teacher_with_the_drafts(tmp_path: Path) -> None:
    question, entry, shadow = await read(tmp_path, {"one": SKY, "two": ALIKE, "big": AGAIN})
    arms = question.arms
    assert arms["one"].answer == arms["two"].answer == arms["big"].answer
    seats = [(call["stage"], call["seat"]) for call in entry["calls"]]
    assert seats == [("answer", "student"), ("answer", "student"), ("answer", "checker")]
    assert [(call["stage"], call["seat"]) for call in shadow["calls"]] == [
        ("measurement", "teacher"),
        ("measurement", "checker"),
    ]
    assert arms["one"].cost == cost(entry["calls"], "one")
    assert arms["two"].cost == cost(entry["calls"], "two", "embedder"), "the check is a part of what a draft costs"
    assert arms["big"].cost == cost(shadow["calls"], "big"), "and not of what the teacher does"
    assert arms["two"].read == next(call["usage"]["input"] for call in entry["calls"] if call["upstream"] == "two")


async def test_a_teacher_that_was_shown_is_compared_by_the_shadow_and_not_before(tmp_path: Path) -> None:
    question, entry, shadow = await read(tmp_path, {"one": SKY, "two": OTHER, "big": ALIKE})
    assert [call["seat"] for call in entry["calls"]] == ["student", "student", "checker", "teacher"]
    assert [(call["stage"], call["seat"]) for call in shadow["calls"]] == [("measurement", "checker")]
    arms = question.arms
    assert arms["big"].answer == arms["one"].answer != arms["two"].answer
    assert arms["big"].cost == cost(entry["calls"], "big")


async def test_one_that_says_something_else_stays_apart(tmp_path: Path) -> None:
    question, _, _ = await read(tmp_path, {"one": SKY, "two": ALIKE, "big": OTHER})
    arms = question.arms
    assert arms["one"].answer == arms["two"].answer
    assert arms["big"].answer not in (None, arms["one"].answer)


async def test_what_is_the_very_same_costs_nobody_a_call(tmp_path: Path) -> None:
    question, entry, shadow = await read(tmp_path, {"one": SKY, "two": OTHER, "big": SKY})
    assert question.arms["big"].answer == question.arms["one"].answer
    assert len(entry["calls"]) == 4
    assert shadow["calls"] == []
