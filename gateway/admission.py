"""Admission: what a caller may use is taken before its request, and what it did not use given back after it.

A request that is refused here was never an exchange: nothing was asked, and nothing is booked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from gateway.allowance import MOST, Allowance, Quota
from gateway.chat import Caller, Chat, Exchange
from gateway.errors import Busy, Forbidden, OverBudget, RateLimited
from gateway.ledger.entry import Entry
from gateway.shared.budget import Origin, Reservation
from gateway.shared.build import Shared
from gateway.shared.limits import Taken
from gateway.shared.refusals import Refusals
from pricing.money import Money

TOKEN_CHARACTERS = 4
"""How many characters one token of a prompt has, for the estimate that is taken before anybody has counted."""

ANSWER_TOKENS = 512
"""The estimate of an answer whose caller set no limit; the true number replaces it when the answer is over."""

log = structlog.get_logger("gateway.admission")

Spent = tuple[Allowance, Money]
"""A budget, and what is spent of it or put aside in its current period."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one request holds."""

    taken: Taken | None = None
    reservation: Reservation | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """`x-ratelimit-*` for its answer."""
        return {} if self.taken is None else self.taken.headers

    def __bool__(self) -> bool:
        return self.taken is not None or self.reservation is not None


NOTHING = Held()


class Admission:
    """Admits the requests of one gateway under the limits and budgets of their callers.

    `refusals` counts those by caller and by what refused: `requests`, `tokens`, `concurrent`, `budget`, or `away` when
    nobody could say. Whoever made it closes it, later; None: one of its own.
    """

    def __init__(self, shared: Shared, refusals: Refusals | None = None, run: int | None = None) -> None:
        """`run` is this process in the ledger; None: what it leaves put aside, nobody settles for it."""
        self.shared = shared
        self.refusals = Refusals() if refusals is None else refusals
        self._run = run
        self._giving: set[asyncio.Task[None]] = set()

    async def admit(self, exchange: Exchange, quota: Quota, worst_case: Callable[[], Money | None]) -> Held:
        """Take what the request needs, or refuse it: then it holds nothing, and counts as one of its minute's requests
        where a budget refused it. `quota` is for what the caller's key does not say itself.

        `worst_case` says the most that the request can cost whoever runs the gateway; it is asked for callers with a
        budget alone. Raises `RateLimited`, `OverBudget`, `Forbidden` where a budget cannot be kept because that is not
        known, and `Busy` when nobody can say. What it returns must be given back.
        """
        caller, chat = exchange.caller, exchange.chat
        limits = caller.limits | quota.limits
        budgets = self.budgets(caller, quota)
        if not limits and not budgets:
            return NOTHING
        amount = worst_case() if budgets else Money.ZERO
        if amount is None:
            raise Forbidden(
                "Your key has a budget, and nobody can say what this request may cost at most: a model that it may "
                "ask has no price, or it holds images or sound.",
                code="unbounded_cost",
            )
        taken: Taken | None = None
        reservation: Reservation | None = None
        try:
            if limits:
                estimate = 0 if limits.tokens_per_minute is None else estimated(chat)
                taken = await self.shared.limiter.take(caller.id, limits, estimate)
            if budgets:
                origin = None if self._run is None else Origin(chat.id, self._run, exchange.own_key)
                reservation = await self.shared.budget.reserve(caller.id, budgets, amount, time.time(), origin)
        except BaseException as error:
            if isinstance(error, (RateLimited, OverBudget, Busy)):
                self.refusals.add(caller.id, reason(error))
            if taken is not None:
                await asyncio.shield(self._begin(self.shared.limiter.give(taken, 0)))
            raise
        return Held(taken, reservation)

    async def give_back(self, held: Held, exchange: Exchange, entry: Entry | None) -> None:
        """The request is over; without an entry nobody knows what it took.

        Goes on to its end even when whoever waits for it is cancelled.
        """
        if held:
            amount = None if entry is None else spent(exchange, entry)
            tokens = None if entry is None else _used_tokens(entry)
            await asyncio.shield(self._begin(self._settle(held, amount, tokens)))

    @staticmethod
    def budgets(caller: Caller, quota: Quota) -> tuple[Allowance, ...]:
        """The budgets that hold for the caller: those of its key, else those of `quota`."""
        return quota.allowances or () if caller.budgets is None else caller.budgets

    async def used(self, caller: Caller, quota: Quota) -> Sequence[Spent]:
        """Each budget of the caller, and how much of it is gone. Raises `Busy` when nobody can say."""
        budgets = self.budgets(caller, quota)
        found = await self.shared.budget.used(caller.id, budgets, time.time()) if budgets else ()
        return list(zip(budgets, found, strict=True))

    async def aclose(self) -> None:
        """Returns when everything is given back."""
        while self._giving:
            await asyncio.wait(self._giving)

    async def _settle(self, held: Held, amount: Money | None, tokens: int | None) -> None:
        if amount is not None and amount > MOST:  # an upstream that reports nonsense: more than any budget holds
            log.error("more was spent than a budget can count", usd=amount.plain)
            amount = MOST
        try:
            if held.reservation is not None:
                await self.shared.budget.settle(held.reservation, amount)
        finally:
            if held.taken is not None:
                await self.shared.limiter.give(held.taken, tokens)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._giving.add(task)
        task.add_done_callback(self._giving.discard)
        return task


def estimated(chat: Chat) -> int:
    """The tokens that a request may take, before anybody has counted: its words, and the answer it asks for."""
    words = sum(len(text) for message in chat.messages for text in _texts(message.get("content")))
    answer = ANSWER_TOKENS if chat.max_tokens is None else chat.max_tokens
    return -(-words // TOKEN_CHARACTERS) + answer * chat.n


def spent(exchange: Exchange, entry: Entry) -> Money | None:
    """What the request did cost whoever runs the gateway; None when a call has no price.

    What the caller's own key paid at the provider is not in it.
    """
    amounts = [
        call.line.amount if call.line else None
        for call in entry.calls
        if not (exchange.own_key and call.seat == "teacher")
    ]
    return None if None in amounts else Money.total(amount for amount in amounts if amount is not None)


def reason(error: RateLimited | OverBudget | Busy) -> str:
    """What refused, in a word."""
    if isinstance(error, RateLimited):
        return error.limit or "tokens"
    return "budget" if isinstance(error, OverBudget) else "away"


def _used_tokens(entry: Entry) -> int | None:
    if entry.visible_input is None or entry.visible_output is None:
        return None
    return entry.visible_input + entry.visible_output


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
