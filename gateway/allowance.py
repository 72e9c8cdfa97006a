"""Allowance: what a caller may use, in requests, tokens, places and dollars."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from pricing.money import Money
from students.spec import Strict

MOST = Money(2**53 - 1)
"""The largest budget, $9,007,199.254740991: Redis compares as doubles, which hold whole numbers exactly up to here."""

PeriodName = Literal["day", "week", "month", "total"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one subject may have at once and per minute; None: as much as it likes.

    Raises `ValueError` for a limit below one.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or absent for no limit")

    def __bool__(self) -> bool:
        return self != NO_LIMITS

    def __or__(self, other: Limits) -> Limits:
        """These, and those of `other` where there is none here."""
        if self == NO_LIMITS or other == NO_LIMITS:  # nearly always; asked of every key that a page shows
            return other if self == NO_LIMITS else self
        return Limits(**(asdict(other) | {name: value for name, value in asdict(self).items() if value is not None}))


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be spent in one period of UTC. Raises `ValueError` below zero, above `MOST`, and for another period."""

    limit: Money
    period: PeriodName

    def __post_init__(self) -> None:
        if not Money.ZERO <= self.limit <= MOST:
            raise ValueError(f"a budget must lie between $0 and {MOST}")
        if self.period not in get_args(PeriodName):
            raise ValueError(f"a budget is for a {', '.join(get_args(PeriodName))}, not for {self.period!r}")

    @property
    def plain(self) -> dict[str, str]:
        """As `BudgetSpec` reads it."""
        return {"usd": self.limit.plain, "per": self.period}


class BudgetSpec(Strict):
    """Dollars for one period of UTC, as an operator writes them."""

    usd: str = Field(description="The exact amount, as a number or a text.")
    per: PeriodName = Field(description="Of UTC; weeks begin on Monday.")

    @field_validator("usd", mode="before")
    @classmethod
    def _exact(cls, value: Any) -> str:
        try:
            if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
                raise ValueError
            amount = Decimal(str(value))
            if not amount.is_finite():
                raise ValueError
        except (ValueError, InvalidOperation):
            raise ValueError("expected an amount of dollars") from None
        if not 0 <= amount <= MOST.dollars:
            raise ValueError(f"a budget must lie between $0 and {MOST}")
        # A few characters can name more digits than there is memory: nothing is computed with them before this.
        plain = amount.normalize()
        exponent = plain.as_tuple().exponent
        if plain != amount or not isinstance(exponent, int) or exponent < -9:
            raise ValueError("a budget has nine decimals at most")
        return Money.usd(plain).plain

    @property
    def allowance(self) -> Allowance:
        """The same, in exact money."""
        return Allowance(Money.usd(self.usd), self.per)


class Quota(Strict):
    """What one caller may use; None: see whoever has the field."""

    requests_per_minute: int | None = Field(None, ge=1, le=10**9, description="A bucket that refills all the time.")
    tokens_per_minute: int | None = Field(None, ge=1, le=10**12, description="Prompt and answer, as `usage` has them.")
    concurrent: int | None = Field(None, ge=1, le=10**6, description="Requests at once.")
    budgets: tuple[BudgetSpec, ...] | None = Field(
        None, max_length=16, description="Dollars: `{usd: 10, per: day}`; per day, week, month (UTC) or total."
    )

    @property
    def limits(self) -> Limits:
        """Without the dollars."""
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.concurrent)

    @property
    def allowances(self) -> tuple[Allowance, ...] | None:
        """The dollars; None where nothing is said of them."""
        return None if self.budgets is None else tuple(each.allowance for each in self.budgets)
