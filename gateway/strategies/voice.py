"""Voice: what one model says, as a reader of the choice may see it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from gateway.strategies.seam import Join
from students.engine import Delta, Event, Finish
from students.outlet import Outlet


@dataclass(slots=True)
class Choice:
    """One of the answers that the caller asked for (`n`): its number, its way out, and how the next words join it."""

    index: int
    outlet: Outlet
    join: Join = field(default_factory=Join)

    def end(self, reason: str) -> str:
        """The finish reason that a reader sees."""
        return "stop" if self.outlet.stopped else reason


async def voiced(events: AsyncGenerator[Event, None], choices: Sequence[Choice]) -> AsyncGenerator[Event, None]:
    """The events of one model, its choice `i` shown as `choices[i]`: joined, scanned for stop strings, renumbered.

    Ends in one `Finish` with a reason for each choice. When every choice has met a stop string the model is stopped
    too, and the `Finish` carries no usage. Closes `events`.
    """
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finish):
                for choice in choices:
                    for piece in (choice.outlet.feed(choice.join.finish()), choice.outlet.finish()):
                        if piece.text or piece.logprobs:
                            yield Delta(piece.text, choice.index, piece.logprobs)
                reasons = [*event.reasons, *["stop"] * (len(choices) - len(event.reasons))]
                event.reasons = tuple(map(Choice.end, choices, reasons))
                yield event
                return
            choice = choices[event.index]
            if choice.outlet.stopped:
                continue
            piece = choice.outlet.feed(choice.join.feed(event.text), event.logprobs)
            if piece.text or piece.logprobs or event.fields:
                yield Delta(piece.text, choice.index, piece.logprobs, event.fields)
            if choice.outlet.stopped and all(each.outlet.stopped for each in choices):
                break
        else:
            return
    yield Finish(("stop",) * len(choices))
