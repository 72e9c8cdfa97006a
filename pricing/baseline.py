"""Baseline: what the teacher alone would have cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor
from typing import Literal

from pricing.length_ratio import LengthRatio
from pricing.money import Money
from pricing.price import Price
from pricing.usage import Usage

Method = Literal["measured", "calibrated", "same_length"]
Usages = tuple[Usage, Usage, Usage]
"""Behind the low, the likely and the high amount."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The teacher-only cost of one request, as a range and a likely value; None when it cannot be priced.

    `method` is always shown beside the number: `measured` (the teacher did answer all of it), `calibrated` (from
    measured length ratios), `same_length` (the teacher is taken to write as many tokens as were shown).
    `output_tokens` is the teacher output behind `likely`: the paper's own measure compares those alone. `usages` is
    what the amounts are the price of, so that another price can be put to it; None: nothing was reckoned, or unknown.
    """

    method: Method
    low: Money | None
    likely: Money | None
    high: Money | None
    output_tokens: int | None = None
    usages: Usages | None = field(default=None, compare=False)


def measured(amount: Money | None, output_tokens: int | None) -> Baseline:
    """The baseline of a request that the teacher did answer: what that cost; None when it could not be priced."""
    return Baseline("measured", amount, amount, amount, output_tokens)


def same_length(
    price: Price | None,
    *,
    input_tokens: int | None,
    output_tokens: int | None,
    cached: int | None = None,
    cache_write: int | None = None,
    ratio_low: float = 0.5,
    ratio_high: float = 2.0,
    max_tokens: int | None = None,
) -> Baseline:
    """The baseline if the teacher had written as many tokens as were shown.

    `price` is the teacher's; `input_tokens`, `cached` and `cache_write` are the buckets that the teacher's prompt
    would have had (inclusive, as in `Usage`), `output_tokens` the tokens shown to the caller. The range is that
    number times `ratio_low` (rounded down) and `ratio_high` (rounded up). No answer, likely or not, is longer than
    the caller's `max_tokens`. Hidden reasoning of the teacher is not in it: nobody knows how much there would
    have been. Amounts are None when the price or a count is unknown. ValueError unless low <= 1 <= high.
    """
    if not 0 <= ratio_low <= 1 <= ratio_high:
        raise ValueError(f"the ratios must be around 1, not {ratio_low} and {ratio_high}")
    if output_tokens is None:
        return Baseline("same_length", None, None, None)

    def capped(tokens: int) -> int:
        return tokens if max_tokens is None else min(tokens, max_tokens)

    over, under = _exact(ratio_low)
    low = capped(output_tokens * over // under)
    likely = capped(output_tokens)
    over, under = _exact(ratio_high)
    high = capped(-(-output_tokens * over // under))
    low_usage, usage, high_usage = (Usage(input_tokens, each, cached, cache_write) for each in (low, likely, high))
    return _priced("same_length", price, (low_usage, usage, high_usage))


def calibrated(
    price: Price | None,
    *,
    input_tokens: int | None,
    output_tokens: int | None,
    ratio: LengthRatio,
    cached: int | None = None,
    cache_write: int | None = None,
    max_tokens: int | None = None,
) -> Baseline:
    """The baseline if the teacher had written `ratio` times as many tokens as were shown; otherwise as `same_length`.

    The range is that of the ratio, rounded outwards: it says how well the *mean* length is known, so it belongs to
    sums over many requests; a single answer may well be outside. Tokens of hidden reasoning are in it as far as they
    were in the measured answers.
    """
    if output_tokens is None:
        return Baseline("calibrated", None, None, None)
    likely = (2 * output_tokens * ratio.teacher + ratio.shown) // (2 * ratio.shown)
    ends = (min(likely, floor(output_tokens * ratio.low)), likely, max(likely, ceil(output_tokens * ratio.high)))
    low, likely, high = (tokens if max_tokens is None else min(tokens, max_tokens) for tokens in ends)
    low_usage, usage, high_usage = (Usage(input_tokens, each, cached, cache_write) for each in (low, likely, high))
    return _priced("calibrated", price, (low_usage, usage, high_usage))


def _priced(method: Method, price: Price | None, usages: Usages) -> Baseline:
    low, likely, high = (price.cost(usage) if price else None for usage in usages)
    return Baseline(method, low, likely, high, usages[1].output, usages)


@lru_cache(maxsize=64)
def _exact(ratio: float) -> tuple[int, int]:
    """The shortest decimal form of `ratio` as a fraction: 1.1 times 10 is 11, not 12."""
    return Fraction(str(ratio)).as_integer_ratio()
