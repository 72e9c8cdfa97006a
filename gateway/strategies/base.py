"""What a strategy is, and what it may use.

A strategy never calls a model itself: it asks `Upstreams`, which writes every call down. It is pure policy: the same
code runs over real models, recorded ones and scripted ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from gateway.chat import Exchange, Seat, Stage
from gateway.strategies.prompts import Prompts
from students.engine import Ability, Event, Prompt, Sampling, Vector


class Upstreams(Protocol):
    """The models of one exchange, by seat."""

    prompts: Prompts

    def ask(self, seat: Seat, stage: Stage, prompt: Prompt, upstream: str | None = None) -> AsyncGenerator[Event, None]:
        """Put the call on record, ask the model in that seat, and yield its answer: `Delta`s, then one `Finish`.

        `upstream`: which of the plan's `students` sits there for this call; None: its `student`. The `checker` is the
        plan's. Raises `EngineError`.
        The caller closes the generator; closing it early stops the model.
        """
        ...

    def can(self, seat: Seat, ability: Ability, upstream: str | None = None) -> bool:
        """True when there is a model in that seat and it has that ability."""
        ...

    async def embed(self, stage: Stage, texts: Sequence[str], upstream: str) -> Sequence[Vector]:
        """Put the call on record, and ask the plan's checker for the embeddings of all texts. Raises `EngineError`."""
        ...

    async def passes(self, program: str, tests: str) -> bool | None:
        """Whether a program passes tests, run in a sandbox; None: they could not be run."""
        ...


class Strategy(Protocol):
    """One way to answer a chat."""

    def run(self, exchange: Exchange, upstreams: Upstreams) -> AsyncGenerator[Event, None]:
        """Yield the visible answer: `Delta`s, then one `Finish` whose usage is what the client should see.

        Writes what became of the guidance into `exchange.guidance`. Raises `EngineError` when no answer can come
        or go on. The caller closes the generator.
        """
        ...


def sampled(asked: Sampling, own: Sampling | None) -> Sampling:
    """The caller's sampling; where it says nothing, the route's `own` (None: the model's defaults hold)."""
    if own is None:
        return asked
    return Sampling(
        temperature=own.temperature if asked.temperature is None else asked.temperature,
        top_p=own.top_p if asked.top_p is None else asked.top_p,
        seed=own.seed if asked.seed is None else asked.seed,
        presence_penalty=own.presence_penalty if asked.presence_penalty is None else asked.presence_penalty,
        frequency_penalty=own.frequency_penalty if asked.frequency_penalty is None else asked.frequency_penalty,
        logit_bias=asked.logit_bias,
        stop=asked.stop,
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
    )


async def merged(streams: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of all streams as they come, each with the number of its stream; closes all of them.

    An error in one ends all.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for each in only:
                yield 0, each
        return
    queue: asyncio.Queue[tuple[int, Event | None, BaseException | None]] = asyncio.Queue(maxsize=64)

    async def pump(number: int, stream: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(stream):
                async for each in stream:
                    await queue.put((number, each, None))
        except BaseException as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Handed to the reader, who raises it; a cancellation that was not meant for this task is an error too.
            await queue.put((number, None, error))
        else:
            await queue.put((number, None, None))

    tasks = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            number, event, error = await queue.get()
            if error is not None:
                raise error
            if event is None:
                running -= 1
            else:
                yield number, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
