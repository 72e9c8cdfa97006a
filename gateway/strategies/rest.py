"""Rest: what a cascade did not ask for a chat that it has served, so that all answers to it are known side by side."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from gateway.chat import Climb, Exchange
from gateway.strategies.base import Upstreams
from gateway.strategies.draft import answer_of, climbed
from gateway.strategies.same import placed
from gateway.strategies.solo import Solo, whole
from students.engine import Delta, Event, Finish


def unclimbed(exchange: Exchange) -> list[int]:
    """The rungs that a cascade for one answer did not climb and could have, by their place.

    None that goes on from first words in which the teacher had ended: what it would come to is known.
    """
    plan = exchange.plan
    if plan.policy is None or len(exchange.climbs) != 1:
        return []
    (climb,) = exchange.climbs
    known = {taken.place for taken in climb.taken} | plan.barred
    if climb.opening is not None and climb.opening.guidance.complete:
        known |= {place for place, rung in enumerate(plan.policy.rungs) if rung.kind == "guidance"}
    return [place for place in range(len(plan.policy.rungs)) if place not in known]


def beside(exchange: Exchange) -> list[Climb]:
    """What the exchange that measures a cascade begins with: the drafts that there are, and a teacher yet unheard."""
    answered = [call for call in exchange.calls if call.seat == "teacher" and call.stage == "answer" and not call.error]
    return [
        replace(
            climb,
            drafts=list(climb.drafts),
            why="",
            taken=list(climb.taken),
            former=len(climb.drafts),
            resort=answered[-1] if answered and climb.given is None else None,
            stood=climb.teacher,
        )
        for climb in exchange.climbs
    ]


class Rest:
    """The teacher's whole answer, where none of its was shown, and then the rungs that were not climbed.

    Runs on an exchange that began with `beside`. Its answer is the teacher's; where that is not asked, it is empty.
    """

    def __init__(self) -> None:
        self._teacher = Solo("teacher", "measurement")

    async def run(self, exchange: Exchange, upstreams: Upstreams) -> AsyncGenerator[Event, None]:
        (climb,) = exchange.climbs
        end = Finish(("stop",))
        if climb.given is not None:
            said: list[Delta] = []
            async with aclosing(self._teacher.run(exchange, upstreams)) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        end = event
                        break
                    said.append(event)
                    yield event
            climb.teacher = await answer_of(exchange, said, end.reason, whole(exchange, upstreams, "teacher")[1])
        # A served teacher's answer was told as it came, and compared with nothing.
        known = [draft.answer for draft in climb.drafts]
        climb.teacher = await placed(exchange, upstreams, climb, climb.teacher, known, measuring=True)
        while left := unclimbed(exchange):
            await climbed(exchange, upstreams, climb, left[0], measuring=True)
        yield end
