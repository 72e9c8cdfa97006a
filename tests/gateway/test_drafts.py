"""Drafts on record: what a cascade asked, and what its shadow asked beside it, so that all answers are known."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.bootstrap import open_gateway
from gateway.cascade.kept import Kept
from gateway.cascade.policy import Policy, Rung, Teacher
from gateway.cascade.signals import read
from gateway.config import Config
from gateway.ledger import rollup
from gateway.ledger.sql import SqlLedger
from students.errors import Unavailable
from students.scripted import Scripted
from tests.gateway.conftest import House

pytestmark = pytest.mark.anyio

STUDENTS = ("one", "two", "three")
PRICES = {"big": {"input": 2, "output": 10}, **{name: {"input": 0.1, "output": 0.1} for name in STUDENTS}}


def policy(*, eager: bool = False) -> Policy:
    """Ask on until two agree, else the teacher; `eager`: the teacher after the first draft."""
    ahead: Mapping[str, float] = {"one": 1.0} if not eager else {"one": -1.0}
    rungs: list[dict[str, Any]] = [
        {"student": "one", "gain": {"one": 1.0}, "next": ahead},
        {"student": "two", "gain": {"alone": 1.0}, "next": {"alone": 2.0}, "max_tokens": 50},
        {"student": "three", "gain": {"alone": 1.0}},
    ]
    made = [Rung(cost={"one": 1.0}, **rung) for rung in rungs]
    return Policy(name="t", kind="number", teacher=Teacher(model="big"), worth=0.1, prefer=list(STUDENTS), rungs=made)


@dataclass
class Cast(House):
    models: Mapping[str, Scripted]

    async def settled(self) -> Mapping[str, Any]:
        """The request's entry when its shadow is over."""
        await self.gateway.shadows.idle()
        return await self.entry()

    def asked(self, name: str) -> int:
        return len(self.models[name].prompts)


Stage = Callable[..., Any]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    @asynccontextmanager
    async def opened(
        *, eager: bool = False, draw: float = 0.0, says: Mapping[str, Scripted | str], **route: Any
    ) -> AsyncGenerator[Cast, None]:
        models = {
            name: said if isinstance(said, Scripted) else Scripted(name, said, model=name)
            for name, said in says.items()
        }
        file = tmp_path / "policy.yaml"
        file.write_text(policy(eager=eager).dump(), "utf-8")
        made = Config.parse(
            {
                "ledger": {"url": "sqlite://"},
                "prices": PRICES,
                "upstreams": {name: {"kind": "scripted", "model": name} for name in models},
                "routes": {"gkt": {"strategy": "cascade", "teacher": "big", "policy": str(file), "shadow": 1, **route}},
            }
        )
        async with open_gateway(made, engines=dict(models), environ={}, draw=lambda: draw) as gateway:
            yield Cast(gateway, models)

    return opened


def kept(entry: Mapping[str, Any]) -> list[Kept]:
    return msgspec.convert(entry["drafts"], list[Kept])


def amounts(entry: Mapping[str, Any], drafts: list[Kept]) -> int:
    """What the calls of these drafts cost."""
    of = {call["id"]: call["amount"] for call in entry["calls"]}
    return sum(of[call] for draft in drafts for call in draft.calls)


AGREED = {"big": "The answer is 7.5.", "one": "It is 18.", "two": "Eighteen, 18", "three": "The answer is 7.5."}


async def test_a_shadow_has_the_teacher_and_the_rungs_that_were_not_climbed(stage: Stage) -> None:
    async with stage(says=AGREED) as home:
        answer = await home.ask()
        assert answer.text == "It is 18."
        assert home.asked("three") == home.asked("big") == 0
        entry = await home.settled()
        assert [home.asked(name) for name in AGREED] == [1, 1, 1, 1]
        (row,) = await home.gateway.ledger.savings()
        assert isinstance(home.gateway.ledger, SqlLedger)
        with home.gateway.ledger.store.transaction() as connection:
            assert rollup.differences(connection) == []
    shadow = entry["shadow"]
    served, rest = kept(entry), kept(shadow)
    assert [(each.place, each.model, each.group, each.odd, each.given, each.limit) for each in served] == [
        (0, "one", 0, False, True, None),
        (1, "two", 0, False, False, 50),
    ]
    assert [(each.place, each.model, each.group, each.odd, each.given) for each in rest] == [
        (2, "three", 1, True, False),
        (None, "big", 1, True, False),
    ]
    assert [each.output for each in served] == [3, 2]
    assert read([each.draft for each in served], STUDENTS) == read(answer.exchange.drafts, STUDENTS)
    assert "Eighteen" not in str(entry)
    assert (entry["shadow_drawn"], entry["shadow_propensity"]) == (True, 1.0)
    # What it cost is all of it there, and only the teacher's answer is the measured baseline.
    assert amounts(entry, served) == entry["spent"]
    assert amounts(shadow, rest) == shadow["spent"]
    assert shadow["measured"]["cost"] == amounts(shadow, rest[1:])
    assert {call["stage"] for call in shadow["calls"]} == {"measurement"}
    assert {name: each.nano for name, each in row.baseline_by_method.items()} == {"measured": amounts(shadow, rest[1:])}
    assert row.measurement.nano == shadow["spent"]
    assert entry["scores"]["agreement"]["value"] == 0.0


async def test_the_teacher_is_not_asked_twice(stage: Stage) -> None:
    """Its answer was shown after the first draft; the shadow has the other students, and the baseline is the bill's."""
    async with stage(eager=True, says=AGREED) as home:
        assert (await home.ask()).text == AGREED["big"]
        entry = await home.settled()
        assert [home.asked(name) for name in AGREED] == [1, 1, 1, 1]
        (row,) = await home.gateway.ledger.savings()
    served, rest = kept(entry), kept(entry["shadow"])
    assert [(each.place, each.group, each.given) for each in served] == [(0, 0, False), (None, 1, True)]
    assert [(each.place, each.group, each.given) for each in rest] == [(1, 0, False), (2, 1, False)]
    assert entry["shadow"]["measured"] is None
    assert entry["baseline"]["method"] == "measured"
    assert entry["baseline"]["likely"] == amounts(entry, served[1:])
    assert row.shadows == {"ok": 1}
    assert row.measurement.nano == entry["shadow"]["spent"] == amounts(entry["shadow"], rest)


async def test_where_all_were_asked_nothing_is_left_to_measure(stage: Stage) -> None:
    says = {**AGREED, "two": "It is 19.", "three": "It is 20."}
    async with stage(says=says) as home:
        assert (await home.ask()).text == AGREED["big"]
        entry = await home.settled()
    assert entry["shadow"] is None
    assert entry["shadow_drawn"] is True
    assert [(each.place, each.group) for each in kept(entry)] == [(0, 0), (1, 1), (2, 2), (None, 3)]


async def test_a_shadow_that_was_not_drawn_is_known(stage: Stage) -> None:
    async with stage(says=AGREED, draw=0.7, shadow=0.5) as home:
        await home.ask()
        entry = await home.settled()
    assert (entry["shadow"], entry["shadow_drawn"], entry["shadow_propensity"]) == (None, False, 0.5)
    assert len(kept(entry)) == 2


async def test_a_student_that_fails_has_no_answer(stage: Stage) -> None:
    broken = Scripted("three", "It is 18.", model="three", error=Unavailable("away"))
    async with stage(says={**AGREED, "three": broken}) as home:
        await home.ask()
        entry = await home.settled()
    three, teacher = kept(entry["shadow"])
    assert (three.place, three.group, three.output) == (2, None, 0)
    assert (teacher.place, teacher.group, teacher.given) == (None, 1, False)


async def test_a_teacher_that_fails_leaves_no_measurement(stage: Stage) -> None:
    broken = Scripted("big", "It is 18.", model="big", error=Unavailable("away"))
    async with stage(says={**AGREED, "big": broken}) as home:
        await home.ask()
        entry = await home.settled()
        assert home.asked("three") == 0
    assert (entry["shadow"]["outcome"], entry["shadow"]["measured"]) == ("failed", None)
    assert kept(entry["shadow"]) == []


async def test_several_answers_at_once_are_not_kept(stage: Stage) -> None:
    async with stage(says=AGREED) as home:
        await home.ask(n=2)
        entry = await home.settled()
    assert kept(entry) == kept(entry["shadow"]) == []
    assert entry["shadow"]["measured"]["teacher_output"] == 8


async def test_a_shadows_answers_are_numbered_after_the_teachers(stage: Stage) -> None:
    """What a student says that the shadow asks is no other answer than the teacher's, where it says the same."""
    says = {"big": "It is 7.", "one": "It is 1.", "two": "It is 2.", "three": "It is 7."}
    async with stage(eager=True, says=says) as home:
        await home.ask()
        entry = await home.settled()
    known = {each.model: each.group for each in [*kept(entry), *kept(entry["shadow"])]}
    assert known == {"one": 0, "big": 1, "two": 2, "three": 1}
