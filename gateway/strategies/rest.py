"""Rest: what a cascade did not ask for a chat that it has served, so that all answers to it are known side by side."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.chat import Climb, Exchange, Taken
from gateway.strategies.base import Upstreams
from gateway.strategies.draft import answer_of, draft
from gateway.strategies.solo import Solo, whole
from students.engine import Delta, Event, Finish


def unclimbed(exchange: Exchange) -> list[int]:
    """The rungs that a cascade for one answer did not climb, by their place; none of guidance.

    What students make of guidance is not calibrated from what is kept of it, so it is not paid for here.
    """
    if exchange.plan.policy is None or len(exchange.climbs) != 1:
        return []
    climbed = {taken.place for taken in exchange.climbs[0].taken}
    rungs = enumerate(exchange.plan.policy.rungs)
    return [place for place, rung in rungs if rung.kind == "draft" and place not in climbed]


def beside(exchange: Exchange) -> list[Climb]:
    """What the exchange that measures a cascade begins with: the drafts that there are, and a teacher yet unheard."""
    return [
        Climb(list(climb.drafts), climb.given, taken=list(climb.taken), former=len(climb.drafts), teacher=climb.teacher)
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
        for place in unclimbed(exchange):
            made = len(exchange.calls)
            heard = await draft(exchange, upstreams, place, measuring=True)
            climb.drafts.append(heard.draft)
            climb.taken.append(Taken(place, len(exchange.calls) - made))
        yield end
