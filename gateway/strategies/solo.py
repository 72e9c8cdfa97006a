"""One model alone: the teacher, or the student. The two ends of every comparison."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from gateway.chat import Exchange, Seat, Stage
from gateway.strategies.base import Upstreams, merged, sampled
from gateway.strategies.seam import Trim
from gateway.strategies.voice import Choice, voiced
from students.engine import Ability, Event, Finish, Prompt
from students.outlet import Outlet


class Solo:
    """The model in `seat` writes the whole answer under the caller's own settings; a failure is the caller's to see.

    `stage`: what that is for.
    """

    def __init__(self, seat: Seat, stage: Stage = "answer") -> None:
        self._seat: Seat = seat
        self._stage: Stage = stage

    async def run(self, exchange: Exchange, upstreams: Upstreams) -> AsyncGenerator[Event, None]:
        chat, seat = exchange.chat, self._seat
        prompt, prefix = whole(exchange, upstreams, seat)
        choices = [Choice(index, Outlet(chat.sampling.stop), Trim(prefix)) for index in range(chat.n)]
        if chat.n == 1 or upstreams.can(seat, Ability.SAMPLES):
            streams = [voiced(upstreams.ask(seat, self._stage, prompt), choices)]
        else:
            streams = [
                voiced(upstreams.ask(seat, self._stage, one_of(prompt, choice.index)), [choice]) for choice in choices
            ]
        ends: dict[int, Finish] = {}
        async with aclosing(merged(streams)) as events:
            async for number, event in events:
                if isinstance(event, Finish):
                    ends[number] = event
                else:
                    yield event
        yield together([ends[number] for number in sorted(ends)])


def whole(exchange: Exchange, upstreams: Upstreams, seat: Seat, upstream: str | None = None) -> tuple[Prompt, str]:
    """The prompt for a whole answer under the caller's own settings, and the caller's own beginning that it goes on."""
    chat, plan, student = exchange.chat, exchange.plan, seat == "student"
    prefix = chat.prefix if upstreams.can(seat, Ability.CONTINUE, upstream) else ""
    prompt = Prompt(
        messages=chat.messages[:-1] if prefix else chat.messages,
        max_tokens=chat.max_tokens,
        prefix=prefix.rstrip(),
        sampling=sampled(chat.sampling, plan.student_sampling if student else None),
        n=chat.n,
        options=chat.options if student else {**chat.options, **chat.teacher_options},
        model=None if student else plan.teacher_model,
        stream=chat.stream,
    )
    return prompt, prefix


def one_of(prompt: Prompt, index: int) -> Prompt:
    """The prompt for one sample of several; those after the first get seeds of their own, or all would be the same."""
    if prompt.n == 1 and index == 0:
        return prompt
    seed = prompt.sampling.seed
    if seed is None or index == 0:
        return replace(prompt, n=1)
    return replace(prompt, n=1, sampling=replace(prompt.sampling, seed=seed + index))


def together(ends: list[Finish]) -> Finish:
    """One end for several answers to one prompt: the prompt counts once; an unknown output makes the sum unknown."""
    first = ends[0]
    if len(ends) == 1:
        return first
    reasons = tuple(reason for end in ends for reason in end.reasons)
    outputs = [end.usage.output if end.usage else None for end in ends]
    known = [output for output in outputs if output is not None]
    usage = replace(first.usage, output=sum(known), seconds=None) if first.usage and len(known) == len(ends) else None
    return replace(first, reasons=reasons, usage=usage)
