"""Machine: what a machine at `$ per hour` costs while it works and while it waits.

A call at such a price pays for its share of the machine: calls that run at the same time pay for that time together
(`pricing.shares`). What they paid says nothing about idle time, and processes that ask one machine without knowing of
each other each pay for all of it. The machine's own account begins with the time during which at least one call ran.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import fsum
from typing import NamedTuple

from pricing.money import Money
from pricing.price import HOUR

RESOLUTION = 2e-6
"""Seconds by which the record of a moment may be wrong."""

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


class Stay(NamedTuple):
    """From when to when a call ran, and for how many of these seconds it was charged; None: for all of them."""

    began: float
    ended: float
    share: float | None = None

    def within(self, since: float, until: float) -> float:
        """What of its share lies between two moments, as if it were spread evenly over its time."""
        lasted = self.ended - self.began
        inside = max(0.0, min(self.ended, until) - max(self.began, since))
        return inside if self.share is None or lasted <= 0 else self.share * inside / lasted


def worked(stays: Sequence[Stay], since: float, until: float) -> float:
    """How long a machine worked between two moments, as far as its calls can tell.

    The sum of their shares, but not more than the time in which at least one ran: processes that know nothing of each
    other charge the same time twice. Less it may well be, by what an engine that measures calls itself knows of waits.
    """
    spans = busy_seconds(((stay.began, stay.ended) for stay in stays), since, until)
    shares = fsum(stay.within(since, until) for stay in stays)
    # Shares are exact, and moments are not: they are not what to correct shares by.
    return min(shares, max(0.0, until - since)) if shares <= spans + RESOLUTION * len(stays) else spans


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
    def of(cls, per_hour: Money, stays: Sequence[Stay], since: float, until: float, booked: Money) -> Machine:
        """The account from one moment to another; a range that ends before it begins has no seconds."""
        return cls(per_hour, max(0.0, until - since), worked(stays, since, until), booked)

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
