"""Upstreams: the models by name, and the desk through which alone strategies reach them.

Every call is put on record before it is made, and written down while it happens.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from gateway.chat import Call, Exchange, Need, Seat, Stage
from gateway.ledger.entry import Ledger
from gateway.strategies.prompts import Prompts
from pricing.book import PriceBook
from pricing.money import Money
from pricing.usage import Usage
from students.engine import Ability, Engine, Event, Finish, Prompt
from students.errors import EngineError

TEMPLATE_TOKENS = 32
"""More than a chat template adds around one message."""

BYTES = 4
"""The most bytes that one character has."""

UNMEASURED: frozenset[Need] = frozenset({"images", "audio"})


@dataclass(frozen=True, slots=True)
class Upstream:
    """A configured model. `stand_in` names the upstream that really answers in its place; None: it answers itself.

    `model` is the name that prices and receipts know. `max_output` bounds the tokens of an answer whose caller set no
    limit, `max_seconds` the time of any answer. `seller` is the price book's provider; None: the name decides.
    """

    name: str
    engine: Engine
    model: str
    max_output: int
    max_seconds: float
    seller: str | None = None
    stand_in: str | None = None


class Desk:
    """The models of one exchange, by seat; writes every `Call` into the exchange and the ledger."""

    __slots__ = ("_book", "_exchange", "_ledger", "_upstreams", "prompts")

    def __init__(
        self, exchange: Exchange, upstreams: Mapping[str, Upstream], book: PriceBook, ledger: Ledger, prompts: Prompts
    ) -> None:
        self._exchange = exchange
        self._upstreams = upstreams
        self._book = book
        self._ledger = ledger
        self.prompts = prompts

    def can(self, seat: Seat, ability: Ability) -> bool:
        """True when there is a model in that seat and it has that ability."""
        name = self._name(seat)
        return name is not None and ability in self._upstreams[name].engine.abilities

    async def ask(self, seat: Seat, stage: Stage, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Put the call on record, ask, and yield the answer. See `gateway.strategies.base.Upstreams.ask`."""
        name = self._name(seat)
        if name is None:
            raise LookupError(f"the plan has no {seat}")  # the planner has checked
        upstream = self._upstreams[name]
        call = self._call(upstream, seat, stage, prompt)
        self._exchange.calls.append(call)
        await self._ledger.intend(call)
        if upstream.stand_in is not None and prompt.model is not None:
            prompt = replace(prompt, model=None)  # the stand-in is asked for itself, and known as what it stands for
        began = time.perf_counter()
        ended = False
        try:
            async with aclosing(upstream.engine.stream(prompt)) as events:
                async for event in events:
                    if call.first_token is None:
                        call.first_token = time.perf_counter() - began
                    if isinstance(event, Finish):
                        call.usage, call.finish, call.tier = event.usage, event.reason, event.service_tier
                        if upstream.stand_in is not None and event.usage is not None:
                            call.usage = replace(event.usage, cached=None)  # its cache is not the teacher's
                        ended = True
                    else:
                        call.spoken.append(event.text)
                    yield event
        except EngineError as error:
            call.error = type(error).__name__
            raise
        finally:
            call.duration = time.perf_counter() - began
            call.cut = not ended and call.error is None

    def _name(self, seat: Seat) -> str | None:
        return self._exchange.plan.teacher if seat == "teacher" else self._exchange.plan.student

    def _call(self, upstream: Upstream, seat: Seat, stage: Stage, prompt: Prompt) -> Call:
        exchange = self._exchange
        model = prompt.model or upstream.model
        return Call(
            id=f"{exchange.chat.id}/{len(exchange.calls)}",
            request_id=exchange.chat.id,
            stage=stage,
            seat=seat,
            upstream=upstream.name,
            model=model,
            stand_in=upstream.stand_in,
            started=time.time(),
            bound=self._bound(upstream, model, prompt),
            asked=exchange.chat.model,
            route=exchange.plan.route,
            strategy=exchange.plan.strategy,
            caller=exchange.caller.id,
            prompt=prompt,
        )

    def _bound(self, upstream: Upstream, model: str, prompt: Prompt) -> Money | None:
        """The most this call can cost: no vocabulary has tokens shorter than a byte.

        None when it has no price, or holds pictures or sound, whose tokens their size does not tell.
        """
        chat = self._exchange.chat
        if not chat.needs.isdisjoint(UNMEASURED):
            return None
        size = chat.size + TEMPLATE_TOKENS * (len(prompt.messages) + 1) + BYTES * len(prompt.prefix)
        if prompt.messages is not chat.messages:  # a strategy added its own words to the last ones
            size += BYTES * sum(len(str(message.get("content"))) for message in prompt.messages[-2:])
        price = self._book.price(model, provider=upstream.seller, input_tokens=size)
        if price is None:
            return None
        output = (prompt.max_tokens or upstream.max_output) * prompt.n
        return price.cost(Usage(size, output, seconds=upstream.max_seconds))
