"""What was seen of guidance stays known while the ledger is away, and only of the policies that hold."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.acceptance import NEWEST, Acceptance
from gateway.cascade.kept import Kept
from gateway.cascade.policy import Policy, Rung, Teacher
from gateway.errors import Busy
from gateway.ledger.entry import Ledger

pytestmark = pytest.mark.anyio


def policy(tokens: int) -> Policy:
    weights: dict[str, Any] = {"gain": {"one": -1.0}, "cost": {"one": 1.0}}
    guidance: dict[str, Any] = {"kind": "guidance", "guidance_tokens": tokens} if tokens else {}
    rungs = [Rung(student="a", next={"one": 1.0}, **weights), Rung(student="a", **guidance, **weights)]
    return Policy(name="t", teacher=Teacher(model="big"), worth=0.1, prefer=["a"], rungs=rungs)


class Records:
    """A ledger with two requests of a route, both of which its guidance kept from the teacher; or one that is away."""

    def __init__(self) -> None:
        self.away = False
        self.asked: list[str] = []

    async def climbed(self, route: str, since: float, limit: int) -> list[list[Kept]]:
        self.asked.append(route)
        if self.away:
            raise Busy("away")
        return [[Kept(0, "a", 9, 0, "number"), Kept(1, "a", 9, 0, "number", guidance=8)]] * 2


async def test_what_is_seen_is_of_the_policy_that_was_looked_for() -> None:
    acceptance, records, guided, plain = Acceptance(), Records(), policy(8), policy(0)
    ledger = cast("Ledger", records)
    await acceptance.refresh(ledger, {"r": guided, "other": plain})
    assert records.asked == ["r"], "a policy without guidance is asked nothing"
    assert acceptance.seen("r", guided) == {1: (2, 2)}
    assert acceptance.seen("r", policy(9)) == {}
    assert acceptance.seen("other", plain) == {}
    records.away = True
    await acceptance.refresh(ledger, {"r": guided})
    assert acceptance.seen("r", guided) == {1: (2, 2)}, "what was known stays"
    await acceptance.refresh(ledger, {"r": policy(9)})
    assert acceptance.seen("r", guided) == {}


def test_of_fixed_guidance_the_newest_count() -> None:
    acceptance = Acceptance()
    assert acceptance.finished("r", "hint") == (0, 0)
    for number in range(NEWEST + 3):
        acceptance.saw("r", "hint", kept=number != 1 and number != NEWEST)
    assert acceptance.finished("r", "hint") == (NEWEST, NEWEST - 1), "the second is long ago"
    assert acceptance.finished("r", "cut-off") == (0, 0)
