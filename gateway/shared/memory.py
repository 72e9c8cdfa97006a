"""Memory: limiter and budget of one process. What a process holds ends with it, so that no place needs to expire."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.allowance import Allowance, Limits
from gateway.errors import Busy
from gateway.shared.budget import LATE_SECONDS, Origin, Reservation, Span, checked, over, tightest
from gateway.shared.limits import GRAIN, MINUTE, Kind, Levels, Taken, check_size, headers, refusal
from pricing.money import Money

IDLE_SECONDS = 3600.0
"""A subject that asked nothing for so long is forgotten; its buckets are full."""
ROOM = 1024
"""So many subjects are kept before the idle ones are looked for."""


@dataclass(slots=True)
class _Bucket:
    used: float = 0.0
    at: float = 0.0

    def level(self, now: float, limit: int) -> float:
        return max(0.0, self.used - (now - self.at) * limit / MINUTE)

    def add(self, now: float, limit: int, units: int) -> float:
        self.used, self.at = max(0.0, self.level(now, limit) + units), now
        return self.used


@dataclass(slots=True)
class _Subject:
    requests: _Bucket = field(default_factory=_Bucket)
    tokens: _Bucket = field(default_factory=_Bucket)
    places: set[str] = field(default_factory=set)
    seen: float = 0.0


class MemoryLimiter:
    """A `Limiter` for one process. `clock` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._subjects: dict[str, _Subject] = {}
        self._room = ROOM

    async def take(self, subject: str, limits: Limits, tokens: int) -> Taken:
        check_size(limits, tokens)
        now = self._clock()
        known = self._subject(subject, now)
        levels = _levels(known, limits, now, tokens)
        if levels.refused is not None:
            raise refusal(limits, levels, tokens)
        taken = Taken(subject, limits, tokens, secrets.token_hex(8), at=now)
        known.places.add(taken.id)
        per_minute, tokens_per_minute = limits.requests_per_minute, limits.tokens_per_minute
        levels = Levels(
            0.0 if per_minute is None else known.requests.add(now, per_minute, 1),
            0.0 if tokens_per_minute is None else known.tokens.add(now, tokens_per_minute, tokens),
        )
        taken.headers = headers(limits, levels)
        return taken

    async def give(self, taken: Taken, tokens: int | None) -> None:
        if taken.over:
            return
        taken.over = True
        now = self._clock()
        known = self._subject(taken.subject, now)
        known.places.discard(taken.id)
        limit = taken.limits.tokens_per_minute
        if limit is not None:
            known.tokens.add(now, limit, taken.correction(tokens, now))

    def _subject(self, name: str, now: float) -> _Subject:
        known = self._subjects.get(name)
        if known is None:
            if len(self._subjects) >= self._room:
                kept = {n: s for n, s in self._subjects.items() if s.places or now - s.seen < IDLE_SECONDS}
                self._subjects, self._room = kept, max(ROOM, 2 * len(kept))
            known = self._subjects[name] = _Subject()
        known.seen = now
        return known


def _levels(known: _Subject, limits: Limits, now: float, tokens: int) -> Levels:
    """Policy, the same as in `lua/take.lua`."""
    requests = used = 0.0
    refused: Kind | None = None
    if limits.concurrent is not None and len(known.places) >= limits.concurrent:
        refused = "concurrent"
    if limits.tokens_per_minute is not None:
        used = known.tokens.level(now, limits.tokens_per_minute)
        if used + tokens > limits.tokens_per_minute + GRAIN:
            refused = "tokens"
    if limits.requests_per_minute is not None:
        requests = known.requests.level(now, limits.requests_per_minute)
        if requests + 1 > limits.requests_per_minute + GRAIN:
            refused = "requests"
    return Levels(requests, used, refused)


class MemoryBudget:
    """A `Budget` for one process; it forgets what was spent when the process ends."""

    def __init__(self) -> None:
        self._used: dict[str, dict[Span, int]] = {}

    async def reserve(
        self, subject: str, budgets: Sequence[Allowance], amount: Money, now: float, origin: Origin | None = None
    ) -> Reservation:
        limits = tightest(budgets, now)
        reservation = Reservation.of(subject, amount, list(limits), origin)
        used = self._used.setdefault(subject, {})
        for span, allowance in limits.items():
            if used.get(span, 0) + amount.nano > allowance.limit.nano:
                raise over(allowance, span, Money(used.get(span, 0)), amount)
        if not used.keys() >= limits.keys():
            for old in [span for span in used if span.ends is not None and span.ends + LATE_SECONDS < now]:
                del used[old]
        for span in limits:
            used[span] = used.get(span, 0) + amount.nano
        return reservation

    async def settle(self, reservation: Reservation, spent: Money | None) -> None:
        change = Money.ZERO if spent is None else checked(spent) - reservation.amount
        if reservation.over:
            return
        reservation.over = True
        used = self._used.setdefault(reservation.subject, {})
        for span in reservation.spans:
            if span in used:  # else it was over so long ago that nobody asks any more
                used[span] += change.nano

    async def used(self, subject: str, budgets: Sequence[Allowance], now: float) -> Sequence[Money]:
        used = self._used.get(subject, {})
        return [Money(used.get(span, 0)) for allowance in budgets for span in tightest([allowance], now)]

    async def recover(self) -> int:
        return 0

    async def recount(self, subject: str, budgets: Sequence[Allowance], now: float) -> None:
        raise Busy("What this process counts, it alone knows: no ledger can tell it.")

    def seed(self, subject: str, used: Mapping[Span, int]) -> None:
        """Begin with these nano-dollars in periods that nothing is known of yet."""
        known = self._used.setdefault(subject, {})
        for span, nano in used.items():
            known.setdefault(span, nano)
