"""Shadows: what the teacher alone would have answered, asked after the client was served.

Here is who is shadowed, how many at once, and how their answers are compared; the pipeline runs them.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gateway.answers import COMPARED, Answer, Kind, agreement, final
from gateway.chat import Climb, Exchange
from gateway.errors import Busy
from gateway.ledger.entry import Ledger, shadow_id
from gateway.strategies.base import Upstreams
from gateway.strategies.rest import beside, unclimbed
from gateway.strategies.same import placed

AT_ONCE = 8
"""Shadows under way at once; what comes on top is skipped and put on record: measuring must not crowd out answering."""


def wanted(exchange: Exchange) -> bool:
    """Whether there is to be a shadow: it was drawn, and there is something to compare with.

    Not after a failure or for a client that left; not where the teacher's own answer was shown, which is a measured
    baseline already, unless a cascade left students unasked; and not for who brought a key of their own, which is not
    for our measurements.
    """
    if exchange.climbs:
        more = any(climb.given is not None for climb in exchange.climbs) or bool(unclimbed(exchange))
        # A teacher's answer that was shown was compared with no draft: only this tells whether they are the same.
        how = exchange.plan.comparing
        told = exchange.plan.answers not in COMPARED or not (how.checker or how.run)
        more |= not told and any(climb.teacher is not None for climb in exchange.climbs)
    else:
        more = any(call.seat == "student" and call.error is None for call in exchange.calls)
    return exchange.plan.shadow and exchange.outcome == "ok" and more and exchange.chat.provider_key is None


def shadow(exchange: Exchange) -> Exchange:
    """The exchange in which the teacher answers the chat of `exchange` by itself, unheard, beginning now.

    Of a cascade it has the drafts that were made, and is to have those that were not.
    """
    request_id = exchange.chat.id
    chat = replace(exchange.chat, id=shadow_id(request_id), provider_key=None)
    plan = replace(
        exchange.plan,
        why=f"shadow: the teacher alone, after {request_id} was served",
        pass_key=False,
        shadow=False,
        # Its own propensity is that of the request, whose arm and draw stand there.
        propensity=1.0,
        arm=None,
        shadow_propensity=None,
    )
    climbs = beside(exchange)
    made = Exchange(chat, exchange.caller, plan, time.time(), rules=exchange.rules, shadow_of=request_id, climbs=climbs)
    made.drafts = climbs[0].drafts if climbs else []
    return made


def agreed(exchange: Exchange, shadow: Exchange, kind: Kind | None) -> float | None:
    """How far what was shown agrees with what the teacher wrote alone; None where that cannot be told.

    Both texts are in memory at this moment, and only the number is kept. Several answers at once and answers that are
    no text are not compared. Of a cascade whose answers' form does not tell, what it found out about them counts.
    """
    shown, alone = "".join(exchange.answer), "".join(shadow.answer)
    if shadow.outcome != "ok" or exchange.chat.n > 1 or not (shown.strip() and alone.strip()):
        return None
    if kind in COMPARED and len(shadow.climbs) == 1 and shadow.climbs[0].given is not None:
        climb = shadow.climbs[0]
        draft = climb.drafts[climb.given].answer if climb.given is not None else None
        return None if draft is None and climb.teacher is None else float(draft == climb.teacher)
    return agreement(shown, alone, kind)


async def alike(exchange: Exchange, shadow: Exchange, kind: Kind | None, upstreams: Upstreams) -> float | None:
    """How far they agree where only a model, or running them, tells; None: there is nothing to find out, or no way."""
    if kind not in COMPARED or shadow.climbs or exchange.chat.n > 1:
        return None
    how, climb = shadow.plan.comparing, Climb()
    if not (how.checker if kind == "meaning" else how.run):
        return None
    found: list[Answer | None] = []
    for text in ("".join(exchange.answer), "".join(shadow.answer)):
        answer = await asyncio.to_thread(final, text, kind)
        found.append(await placed(shadow, upstreams, climb, answer, [*found], measuring=True))
    return None if found == [None, None] else float(found[0] == found[1])


async def compare(
    exchange: Exchange, shadow: Exchange, kind: Kind | None, ledger: Ledger, found: float | None = None
) -> None:
    """Put on record how far they agree, where that can be told. A ledger that does not answer has one fewer.

    `found`: what `alike` did find out already.
    """
    if found is None:
        # On a thread: answers may be long, and the loop has chats to answer.
        found = await asyncio.to_thread(agreed, exchange, shadow, kind)
    if found is not None:
        with suppress(Busy):
            await ledger.score(exchange.chat.id, "agreement", found)


class Shadows:
    """The shadows under way: at most `AT_ONCE`, none after `close`; and what is put on record of others."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._notes: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, run: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run a shadow beside everything else; False: there is no room, and it is not run."""
        if self._closed or len(self._tasks) >= AT_ONCE:
            return False
        _start(run, self._tasks)
        return True

    def note(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run what puts one that was skipped on record: it asks nobody, needs no room, and `close` leaves it alone."""
        _start(run, self._notes)

    def close(self) -> None:
        """Stop those under way, which are then settled as abandoned; `idle` waits for that."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    async def idle(self) -> None:
        """Returns when none is under way, and all that were skipped are on record."""
        while self._tasks or self._notes:
            await asyncio.wait(self._tasks | self._notes)


def _start(run: Callable[[], Coroutine[Any, Any, None]], among: set[asyncio.Task[None]]) -> None:
    # A context of its own: the request's ends with it, and a span of the request must not outlive it.
    task = asyncio.create_task(run(), context=contextvars.Context())
    among.add(task)
    task.add_done_callback(among.discard)
