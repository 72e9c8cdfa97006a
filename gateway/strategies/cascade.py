"""Cascade: students first, the teacher where it is worth its price. `gateway.cascade.policy` decides; this asks.

Nothing is shown before it is accepted, and nothing is glued: a draft is given as a whole, or the teacher's answer is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from gateway.cascade.policy import Decision, decide
from gateway.chat import Climb, Exchange
from gateway.strategies.base import Upstreams, merged
from gateway.strategies.draft import Heard, answer_of, climbed, listened, policy_of
from gateway.strategies.seam import Trim
from gateway.strategies.solo import one_of, together, whole
from gateway.strategies.voice import Choice, voiced
from students.engine import Delta, Event, Finish
from students.errors import EngineError
from students.outlet import Outlet


class Cascade:
    """Each of the answers that the caller asked for is a cascade of its own; they are climbed side by side.

    A rung whose student fails counts as a draft without an answer. Where the teacher fails before its first word, or
    is cut at the policy's limit, the best draft is given, if there is one.
    """

    async def run(self, exchange: Exchange, upstreams: Upstreams) -> AsyncGenerator[Event, None]:
        exchange.climbs = [Climb() for _ in range(exchange.chat.n)]
        exchange.drafts = exchange.climbs[0].drafts
        ends: dict[int, Finish] = {}
        choices = [_choice(exchange, upstreams, climb, index) for index, climb in enumerate(exchange.climbs)]
        async with aclosing(merged(choices)) as events:
            async for index, event in events:
                if isinstance(event, Finish):
                    ends[index] = event
                else:
                    yield event
        yield together([ends[index] for index in sorted(ends)])


async def _choice(exchange: Exchange, upstreams: Upstreams, climb: Climb, index: int) -> AsyncGenerator[Event, None]:
    """One answer: drafts until the policy is content with one, or wants the teacher's."""
    plan, policy = exchange.plan, policy_of(exchange.plan)
    heard: list[Heard] = []
    while (decision := decide(policy, climb.drafts, plan.closed)).action == "ask":
        heard.append(await climbed(exchange, upstreams, climb, len(heard), index=index))
    climb.why = f"rung {len(heard)} of {len(policy.rungs)}: {decision.why}"
    best = _best(decision, heard)
    if heard and heard[-1].draft.complete:  # the teacher's own answer, which is no draft that is given
        climb.teacher = heard[-1].draft.answer
        async for event in _given(exchange, heard[-1]):
            yield event
        return
    if decision.action == "accept" and best is not None:
        climb.given = best
        climb.why += f": {heard[best].draft.student}"
        async for event in _given(exchange, heard[best]):
            yield event
        return
    async with aclosing(_escalated(exchange, upstreams, climb, index, heard, best)) as events:
        async for event in events:
            yield event


def _best(decision: Decision, heard: list[Heard]) -> int | None:
    """The place of the draft to give, if any is one that can be given."""
    useful = [place for place, each in enumerate(heard) if each.useful]
    return decision.best if decision.best in useful else next(iter(useful), None)


async def _given(exchange: Exchange, heard: Heard) -> AsyncGenerator[Event, None]:
    for delta in heard.shown(exchange.chat):
        yield delta
    if heard.end is not None:
        yield heard.end


async def _escalated(
    exchange: Exchange, upstreams: Upstreams, climb: Climb, index: int, heard: list[Heard], best: int | None
) -> AsyncGenerator[Event, None]:
    """The teacher's answer as it comes; under the policy's limit once it is whole, for one that is cut is not given."""
    chat, plan = exchange.chat, exchange.plan
    limit = policy_of(plan).teacher.max_tokens
    prompt, own = whole(exchange, upstreams, "teacher")
    prompt = one_of(prompt, index)
    capped = limit is not None and (chat.max_tokens is None or limit < chat.max_tokens)
    if capped:
        prompt = replace(prompt, max_tokens=limit, stream=False)
    climb.why += ": the teacher"
    said: list[Delta] = []
    spoken = voiced(upstreams.ask("teacher", "answer", prompt), [Choice(index, Outlet(chat.sampling.stop), Trim(own))])
    try:
        if not capped:
            async with aclosing(spoken) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        climb.teacher = await answer_of(exchange, said, event.reason, own)
                    else:
                        said.append(event)
                    yield event
            return
        said, end = await listened(spoken)
    except EngineError as error:
        if said or best is None or plan.on_teacher_failure == "error":
            raise
        climb.why += f" failed ({type(error).__name__})"
    else:
        if end.reason != "length" or best is None:
            climb.teacher = await answer_of(exchange, said, end.reason, own)
            for delta in said:
                yield delta
            yield end
            return
        climb.why += f" was cut at {limit} tokens"
    climb.given = best
    climb.why += f", so the best draft: {heard[best].draft.student}"
    async for event in _given(exchange, heard[best]):
        yield event
