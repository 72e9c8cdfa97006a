"""`n` samples from an engine that gives one in a call: `n` calls, told as one answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from pricing.usage import Usage
from students.engine import Delta, Event, Finish, Prompt

Number = TypeVar("Number", int, float)

WAITING_EVENTS = 64
"""Events that wait for a slow reader before the calls wait too."""


async def samples(ask: Callable[[Prompt], AsyncGenerator[Event, None]], prompt: Prompt) -> AsyncGenerator[Event, None]:
    """Ask `prompt.n` times at once, for one sample each, and yield their deltas as they come, then one `Finish`.

    With a seed, sample `i` gets `seed + i`, so that samples differ and the whole can be repeated. The usage is that of
    one chat: the prompt counted once, the output of all samples; a bucket is None where any call left it unknown.
    The first call that fails ends the others, and its error is raised. Closing early closes all calls.
    """
    arrivals: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue(WAITING_EVENTS)

    async def sample(index: int) -> None:
        seed = prompt.sampling.seed
        sampling = prompt.sampling if seed is None else replace(prompt.sampling, seed=seed + index)
        try:
            async with aclosing(ask(replace(prompt, n=1, sampling=sampling))) as events:
                async for event in events:
                    await arrivals.put((index, event))
        except Exception as error:  # noqa: BLE001 - handed to the reader, who raises it
            await arrivals.put((index, error))

    tasks = [asyncio.create_task(sample(index)) for index in range(prompt.n)]
    finishes: dict[int, Finish] = {}
    try:
        while len(finishes) < prompt.n:
            index, event = await arrivals.get()
            if isinstance(event, Delta):
                event.index = index
                yield event
            elif isinstance(event, Finish):
                finishes[index] = event
            else:
                raise event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    yield _together([finishes[index] for index in range(prompt.n)])


def _together(finishes: Sequence[Finish]) -> Finish:
    usages = [finish.usage for finish in finishes]
    first = usages[0]
    usage = None
    if first is not None and all(usages):
        known = [usage for usage in usages if usage is not None]
        usage = Usage(
            input=first.input,
            cached=first.cached,
            cache_write=first.cache_write,
            output=_sum([usage.output for usage in known]),
            reasoning=_sum([usage.reasoning for usage in known]),
            seconds=_sum([usage.seconds for usage in known]),
            source=first.source,
        )
    return replace(finishes[0], reasons=tuple(finish.reason for finish in finishes), usage=usage)


def _sum(values: Sequence[Number | None]) -> Number | None:
    """The sum; None when any value is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
