"""Bill: what one request spent, line by line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage


@dataclass(frozen=True, slots=True)
class Line:
    """One call's position on a bill.

    `amount` is None when it cannot be known (no price, or no usage): such a line is counted as unpriced and never
    taken as 0. `notional` marks money that was not really spent: a stand-in sat in the teacher's seat and its
    tokens are priced as if they had been the teacher's. `bound` marks an amount that is the most the call can
    have cost, booked because the truth was lost with a process.
    """

    stage: str
    model: str
    usage: Usage
    price: Price | None
    amount: Money | None
    notional: bool = False
    bound: bool = False


@dataclass(frozen=True, slots=True)
class Bill:
    """The lines of one request, in the order of its calls."""

    lines: Sequence[Line] = ()

    @property
    def total(self) -> Money | None:
        """The sum of all lines, or None when any of them is unpriced."""
        return None if self.unpriced else self.priced

    @property
    def priced(self) -> Money:
        """The sum of the lines whose amount is known."""
        return Money.total(line.amount for line in self.lines if line.amount is not None)

    @property
    def unpriced(self) -> int:
        """How many lines have no known amount."""
        return sum(line.amount is None for line in self.lines)

    @property
    def notional(self) -> bool:
        """True when any line is money that a stand-in did not really spend."""
        return any(line.notional for line in self.lines)


def line(stage: str, model: str, usage: Usage, price: Price | None, *, notional: bool = False) -> Line:
    """Price `usage` at `price`; the amount is None when either is unknown."""
    return Line(stage, model, usage, price, price.cost(usage) if price else None, notional)
