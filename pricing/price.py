"""Price: what a model's tokens and seconds cost at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from typing import Literal

from pricing.money import Money
from pricing.usage import Usage

PriceSource = Literal["config", "genai-prices", "litellm"]

RATES = ("input", "cached", "cache_write", "output", "per_hour")
"""The rates of a price, in the order in which they are shown."""

MILLION = 1_000_000
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens and seconds cost at one moment, and the row that says so.

    Rates are `Money` per million tokens; `per_hour` is `Money` per hour of the machine that a self-hosted model
    occupies. None: this row does not price that bucket. `cached` None: cached input costs as much as other input;
    `cache_write` None: so does input that is written to the cache. `row` names the row for a human reader.

    The row holds for prompts of more than `over` and at most `up_to` tokens (None: any length), because long
    prompts cost more per token at some providers.
    """

    model: str
    source: PriceSource
    input: Money | None = None
    output: Money | None = None
    cached: Money | None = None
    cache_write: Money | None = None
    per_hour: Money | None = None
    row: str = ""
    over: int = 0
    up_to: int | None = None

    def cost(self, usage: Usage) -> Money | None:
        """The amount of `usage`, rounded once, half to even; None when a needed count or rate is unknown.

        None too when the counts contradict each other (more cached than input tokens) or the prompt is not of a
        length that this row holds for. `cached` and `cache_write` that nobody reported are taken as other input:
        a discount is not claimed unseen. A row with nothing but `per_hour` needs the seconds and no counts.
        """
        tokens = self._tokens(usage)
        if tokens is None:
            return None
        if self.per_hour is None:
            return Money(_half_even(tokens))
        seconds = usage.seconds
        if seconds is None or not isfinite(seconds) or seconds < 0:
            return None
        time = Fraction(str(seconds)) * self.per_hour.nano / HOUR
        return Money(round(Fraction(tokens, MILLION) + time))

    def _tokens(self, usage: Usage) -> int | None:
        """What the tokens cost, in millionths of a nano-dollar and so exact; None when unknown."""
        if self.input is None and self.output is None:
            return None if self.per_hour is None else 0
        if usage.input is None or usage.output is None:
            return None
        cached, written = usage.cached or 0, usage.cache_write or 0
        plain = usage.input - cached - written
        if plain < 0 or cached < 0 or written < 0 or usage.output < 0:
            return None
        if (self.over and usage.input <= self.over) or (self.up_to is not None and usage.input > self.up_to):
            return None
        total = 0
        for count, rate in (
            (plain, self.input),
            (cached, self.input if self.cached is None else self.cached),
            (written, self.input if self.cache_write is None else self.cache_write),
            (usage.output, self.output),
        ):
            if count:
                if rate is None:
                    return None
                total += count * rate.nano
        return total


def _half_even(millionths: int) -> int:
    """`millionths` / 1e6 as the nearest whole number, ties to even; integers only, as this runs for every call."""
    whole, rest = divmod(millionths, MILLION)
    return whole + (rest * 2 > MILLION or (rest * 2 == MILLION and whole % 2 == 1))
