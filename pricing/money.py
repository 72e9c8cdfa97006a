"""Money: whole nano-dollars, so that sums agree to the last digit in Python, SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import ClassVar

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True, order=True)
class Money:
    """An amount of US dollars, held as a whole number of nano-dollars (1e-9 USD). May be negative.

    A price per token is often a fraction of a nano-dollar; prices are therefore held per million tokens
    (see `pricing.book`) and an amount is rounded once, half to even, when a call is priced.
    """

    nano: int = 0

    ZERO: ClassVar[Money]

    @classmethod
    def usd(cls, dollars: str | int | float | Decimal) -> Money:
        """The amount nearest to `dollars` (a float goes through its shortest decimal form, so 0.1 is 0.1)."""
        # A Fraction rounds half to even and once; a Decimal would first round its product to the context's digits.
        return cls(round(Fraction(Decimal(str(dollars))) * NANO))

    @classmethod
    def total(cls, amounts: Iterable[Money]) -> Money:
        """The exact sum; `Money.ZERO` for no amounts."""
        return cls(sum(amount.nano for amount in amounts))

    @property
    def dollars(self) -> Decimal:
        """The exact amount in dollars."""
        return Decimal(self.nano) / NANO

    def __add__(self, other: Money) -> Money:
        return Money(self.nano + other.nano)

    def __sub__(self, other: Money) -> Money:
        return Money(self.nano - other.nano)

    def __neg__(self) -> Money:
        return Money(-self.nano)

    def __bool__(self) -> bool:
        return self.nano != 0

    @property
    def plain(self) -> str:
        """The exact amount in dollars as a decimal number, without sign of currency or exponent: `0.000312`, `-1.5`."""
        if self.nano < 0:
            return f"-{(-self).plain}"
        # In twice the time of this an f-string does the same; a page and its CSV say tens of thousands of amounts.
        return ("%d.%09d" % divmod(self.nano, NANO)).rstrip("0").rstrip(".")  # noqa: UP031 - see above

    def __str__(self) -> str:
        """Plain dollars, never rounded: `$0.000312`, `-$1.5`, `$0`."""
        text = self.plain
        return f"-${text[1:]}" if text[0] == "-" else f"${text}"


Money.ZERO = Money(0)
