"""Budget: dollars per day, week, month or in total, reserved for the worst case before a call and settled after it.

A reservation counts at its bound from the moment it is made until it is settled, and for ever if its process dies:
what may have been spent is spent until somebody knows better. So there is nothing to sweep, and not a cent is lost.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from gateway.allowance import MOST, Allowance, PeriodName
from gateway.errors import OverBudget
from pricing.money import Money

LATE_SECONDS = 8 * 86_400
"""How long a period that is over is kept, for reservations that are settled late."""


@dataclass(frozen=True, slots=True)
class Span:
    """One period: its key (`day:2026-11-24`, `week:2026-W48`, `month:2026-11`, `total`) and when it ends.

    `ends` is in seconds since the epoch; None: never.
    """

    key: str
    ends: int | None


@dataclass(slots=True, eq=False)
class Reservation:
    """Money that is put aside: `amount`, in each of `spans`, which stay those of the moment it was reserved in."""

    subject: str
    amount: Money
    spans: tuple[Span, ...]
    id: str
    over: bool = False

    @classmethod
    def of(cls, subject: str, amount: Money, spans: Sequence[Span]) -> Reservation:
        """A new one, under an id of its own. Raises `ValueError` for a negative amount."""
        if amount < Money.ZERO:
            raise ValueError("a reservation cannot be negative")
        return cls(subject, amount, tuple(spans), secrets.token_hex(12))


class Budget(Protocol):
    """Keeps the spending of subjects under their allowances, for one process or for all replicas."""

    async def reserve(self, subject: str, budgets: Sequence[Allowance], amount: Money, now: float) -> Reservation:
        """Put `amount`, the most that the request can cost, aside in all periods or in none.

        `now` is in seconds since the epoch and says which periods. Only periods with an allowance are counted.
        Raises `OverBudget`; `Busy` when nobody can say. Every reservation must be settled.
        """
        ...

    async def settle(self, reservation: Reservation, spent: Money | None) -> None:
        """Count `spent` instead of the reserved amount, in the periods of the reservation; None: the amount stays.

        More than was reserved is counted too: it was spent. A second call does nothing. Never raises for a
        budget that is out of reach: it is told later. Raises `ValueError` below zero and above `MOST`.
        """
        ...

    async def used(self, subject: str, budgets: Sequence[Allowance], now: float) -> Sequence[Money]:
        """What is spent or put aside in the current period of each allowance. Raises `Busy` when nobody can say."""
        ...


def span(period: PeriodName, now: float) -> Span:
    """The period of UTC that holds `now`; weeks are those of ISO 8601."""
    if period == "total":
        return Span("total", None)
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        key, ends = f"{today:%Y-%m-%d}", today + timedelta(days=1)
    elif period == "week":
        year, week, weekday = today.isocalendar()
        key, ends = f"{year}-W{week:02d}", today + timedelta(days=8 - weekday)
    else:
        key, ends = f"{today:%Y-%m}", (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return Span(f"{period}:{key}", int(ends.timestamp()))


def tightest(budgets: Sequence[Allowance], now: float) -> dict[Span, Allowance]:
    """The smallest allowance of each period, in the order given."""
    found: dict[Span, Allowance] = {}
    for allowance in budgets:
        when = span(allowance.period, now)
        known = found.get(when)
        if known is None or allowance.limit < known.limit:
            found[when] = allowance
    return found


def over(allowance: Allowance, when: Span, used: Money, amount: Money) -> OverBudget:
    """What a request is told that does not fit into `allowance`."""
    period = "in total" if when.ends is None else f"per {allowance.period}"
    renewed = "" if when.ends is None else f" The next {allowance.period} begins {_utc(when.ends)}."
    return OverBudget(
        f"You exceeded your budget of {allowance.limit} {period}: {used} is spent or put aside for requests under way, "
        f"and this request may cost up to {amount}.{renewed}"
    )


def checked(spent: Money) -> Money:
    """The same amount; raises `ValueError` for one that nobody can have spent on a call."""
    if not Money.ZERO <= spent <= MOST:
        raise ValueError(f"what was spent must lie between $0 and {MOST}, not {spent}")
    return spent


def _utc(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%MZ}"
