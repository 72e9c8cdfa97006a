"""Drift: has the mean of what is seen changed within a window?

The CUSUM test of a mean that is not known beforehand: S_k, the sum of the first k values less k times the mean of all,
is a Brownian bridge where nothing has changed, and its largest |S_k| / (deviation * sqrt(n)) has Kolmogorov's
distribution. No reference period and no threshold to tune: `LEVEL` is how often a window without a change is flagged.
It is a test of one window after the fact, and looking every hour raises more false alarms than one look. Source:
Ploberger and Kramer 1992.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp, fsum, sqrt
from operator import mul
from statistics import fmean

LEAST = 30
"""Values below which nothing is said."""

LEVEL = 0.01
"""The share of windows without a change that are flagged all the same."""

MATERIAL = 0.02
"""The least change that is flagged, however sure: among thousands of requests a change may be certain and small."""


@dataclass(frozen=True, slots=True)
class Change:
    """The likeliest moment of a change: before the value at `place`. `p`: how likely so large a sum is without one.

    `scale`: what the values are parts of, whose `MATERIAL` share a change must be to be flagged.
    """

    place: int
    before: float
    after: float
    scale: float
    p: float

    @property
    def flagged(self) -> bool:
        """It is too large for chance, and large enough to matter."""
        return self.p < LEVEL and abs(self.after - self.before) >= MATERIAL * self.scale


def change(values: Sequence[float], scale: float | None = None) -> Change | None:
    """The largest change of mean within `values`, in order of time; None for fewer than `LEAST`, or all the same.

    `scale`: see `Change`; None: the mean of the values.
    """
    n = len(values)
    if n < LEAST:
        return None
    middle = fmean(values)
    apart = [value - middle for value in values]
    spread = fsum(map(mul, apart, apart)) / n
    if spread <= 0:
        return None
    sums = list(map(abs, accumulate(apart[:-1])))
    farthest = max(sums)
    place = sums.index(farthest) + 1
    p = _kolmogorov(farthest / sqrt(spread * n))
    size = abs(middle) if scale is None else scale
    return Change(place, fmean(values[:place]), fmean(values[place:]), size, p)


def _kolmogorov(x: float) -> float:
    """P(sup |Brownian bridge| > x)."""
    if x < 0.3:  # where the series needs many terms, and the probability is 1 to four digits
        return 1.0
    return min(1.0, 2 * sum((1 if k % 2 else -1) * exp(-2 * (k * x) ** 2) for k in range(1, 20)))
