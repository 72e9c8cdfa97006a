"""Machine: what a machine at `$ per hour` costs while it works and while it waits.

A call at such a price pays for its own seconds. Calls that run at the same time pay for the same seconds each, so the
sum of what was booked can be more than the machine cost while it was busy, and says nothing about idle time. The
machine's own account begins with the time during which at least one call ran.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from pricing.money import Money
from pricing.price import HOUR

Span = tuple[float, float]
"""When a call began and ended, in seconds since the epoch."""


def busy_seconds(spans: Iterable[Span], since: float, until: float) -> float:
    """How long at least one of `spans` ran between two moments: the length of their union, never of their sum.

    A span that ends before it begins counts as nothing, and so does one outside; one across an end counts inside.
    """
    total, counted = 0.0, since  # everything before `counted` is in `total` or was idle
    for begin, end in sorted(spans):
        first, last = max(begin, counted), min(end, until)
        if last > first:
            total += last - first
            counted = last
    return total


@dataclass(frozen=True, slots=True)
class Machine:
    """The account of a machine over `elapsed` seconds, of which it was `busy`. `booked`: what its calls paid.

    `cost` is `working + idle`, to the nano-dollar.
    """

    per_hour: Money
    elapsed: float
    busy: float
    booked: Money

    @classmethod
    def of(cls, per_hour: Money, spans: Iterable[Span], since: float, until: float, booked: Money) -> Machine:
        """The account from one moment to another; a range that ends before it begins has no seconds."""
        return cls(per_hour, max(0.0, until - since), busy_seconds(spans, since, until), booked)

    @property
    def utilisation(self) -> float | None:
        """What part of the time it was busy; None when no time has passed."""
        return self.busy / self.elapsed if self.elapsed else None

    @property
    def cost(self) -> Money:
        """Of all the seconds, whoever used them."""
        return _of(self.per_hour, self.elapsed)

    @property
    def working(self) -> Money:
        """Of the busy seconds, each once."""
        return _of(self.per_hour, self.busy)

    @property
    def idle(self) -> Money:
        """Of the seconds in which nothing ran."""
        return self.cost - self.working


def _of(per_hour: Money, seconds: float) -> Money:
    return Money(round(Fraction(str(seconds)) * per_hour.nano / HOUR))
