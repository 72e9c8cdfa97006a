"""Budget: dollars per day, week, month or in total, reserved for the worst case before a call and settled after it.

A reservation counts at its bound from the moment it is made until it is settled: what may have been spent is spent
until somebody knows better. If its process dies, that is whoever books its request in the ledger, at the most that its
calls can have cost; then it counts as that.
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


@dataclass(frozen=True, slots=True)
class Origin:
    """What money is put aside for: a request, and the run of its process in the ledger.

    `own_key`: the caller's own key pays the teacher, so that its calls do not count.
    """

    request_id: str
    run: int
    own_key: bool = False


@dataclass(slots=True, eq=False)
class Reservation:
    """Money that is put aside: `amount`, in each of `spans`, which stay those of the moment it was reserved in.

    Without an `origin` it cannot be settled for a process that dies.
    """

    subject: str
    amount: Money
    spans: tuple[Span, ...]
    id: str
    origin: Origin | None = None
    over: bool = False

    @classmethod
    def of(cls, subject: str, amount: Money, spans: Sequence[Span], origin: Origin | None = None) -> Reservation:
        """A new one, under an id of its own. Raises `ValueError` for a negative amount."""
        if amount < Money.ZERO:
            raise ValueError("a reservation cannot be negative")
        return cls(subject, amount, tuple(spans), secrets.token_hex(12), origin)


class Budget(Protocol):
    """Keeps the spending of subjects under their allowances, for one process or for all replicas."""

    async def reserve(
        self, subject: str, budgets: Sequence[Allowance], amount: Money, now: float, origin: Origin | None = None
    ) -> Reservation:
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

    async def recover(self) -> int:
        """Settle what ended processes left put aside to what the ledger has of their requests; how many. See `charges`.

        0 where the ledger does that itself, and where nobody else can leave anything. Raises `Busy`.
        """
        ...

    async def recount(self, subject: str, budgets: Sequence[Allowance], now: float) -> None:
        """Make `used` what the ledger has booked of `subject` in the current periods, and what is put aside beside it.

        Atomic towards requests under way. Raises `Busy` when it cannot be, and where there is no ledger to ask.
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


def begins(period: PeriodName, now: float) -> float | None:
    """The first moment of the period of UTC that holds `now`; None: there is none."""
    if period == "total":
        return None
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    back = {"day": 0, "week": today.weekday(), "month": today.day - 1}[period]
    return (today - timedelta(days=back)).timestamp()


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
