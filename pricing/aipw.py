"""AIPW: the mean of what is seen for some requests only, drawn with known probabilities (propensities).

Augmented inverse propensity weighting. With m(x) a prediction from what is known of every request, and R whether the
value Y was seen, which had the probability e:

    V = mean[ m(x) + R (Y - m(x)) / e ]

It is right whatever m is, because e is known; a good m makes it surer. m is a linear regression, cross-fitted: the
requests that it predicts are not among those that it learnt from. The weights R / e are scaled to a mean of 1, so that
a measurement that was drawn and did not happen (no room, no label) makes V less sure, and not smaller.

Values that were certain to be seen (e = 1: the answers that were the teacher's own) are a part of their own, as they
are known to be another kind: m of the rest learns from the rest alone, and V is as sure as the few of the rest make it.

Intervals are of the score type, since few of the rare failures are seen: a share's is Wilson's at the effective number
of requests, a ratio's is made of those of its two means (`pricing.intervals.ratio`). Source: Robins, Rotnitzky and Zhao
1994; Chernozhukov et al. 2018 for cross-fitting; decision 29 for what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from math import cbrt, fsum, sqrt
from operator import mul, not_
from typing import NamedTuple

from pricing.intervals import LEVEL, Interval, ratio, student, wilson

FOLDS = 5

FEW = 10
"""Failures (or successes, if those are the rarer) below which nothing is claimed of a share."""

TAIL = 10
"""Times the squared skewness of amounts: how many must be seen of those that were not certain to be."""

SEEN_FOR_EACH = 10
"""Values that must be seen for each feature, before a regression is made of them; else m is their mean."""


class Part(NamedTuple):
    """Requests, by their places, whose values all were certain to be seen, or all were not.

    `worth`: Kish's number of those that were.
    """

    places: Sequence[int]
    worth: float


@dataclass(frozen=True)
class Mean:
    """An estimated mean. `apart`: how far what each request contributes is from it, for variances and covariances.

    `seen`: how many values it rests on; `smallest`: the smallest propensity among them, None when nothing was seen.
    `parts`: those that were not certain to be seen, and those that were; or all. `failures` and `successes` are sums
    over the values seen, and say something of values in [0, 1] alone.
    """

    value: float
    apart: Sequence[float] = field(repr=False)
    seen: int
    parts: Sequence[Part] = field(repr=False)
    smallest: float | None
    failures: float
    successes: float
    bent: float = 0.0
    """The skewness of the values seen, where some of them were certain to be; else 0."""

    @cached_property
    def effective(self) -> float:
        """How many equally likely values these are worth: of one part Kish's number.

        Of two, a number with the degrees of freedom that the sum of their variances has (Welch and Satterthwaite).
        Where nothing varies, what the part that was not certain is worth for all.
        """
        first, count = self.parts[0], len(self.apart)
        if len(self.parts) == 1:
            return first.worth
        squares = [fsum(self.apart[place] ** 2 for place in part.places) for part in self.parts]
        total = sum(squares)
        if total <= 1e-12 * max(1.0, self.value * self.value) * count:
            return first.worth * count / len(first.places)
        return 1 + 1 / fsum(
            (each / total) ** 2 / max(1.0, part.worth - 1) for each, part in zip(squares, self.parts, strict=True)
        )

    @cached_property
    def squares(self) -> float:
        """The sum of the squares of `apart`."""
        return float(sum(map(mul, self.apart, self.apart)))

    @property
    def variance(self) -> float:
        """Of `value`; 0 for a single request."""
        n = len(self.apart)
        return self.squares / (n * (n - 1)) if n > 1 else 0.0

    @property
    def few(self) -> bool:
        """Too few failures (or successes) were seen to claim anything of a share."""
        return min(self.failures, self.successes) < FEW

    @property
    def thin(self) -> bool:
        """Too few amounts were seen of those that were not certain to be, for amounts as skewed as these.

        Those that were certain show how much dearer the dearest are; of the rest, hardly any of these may have been
        drawn, and then no interval knows of them.
        """
        return len(self.parts) > 1 and self.parts[0].worth < TAIL * self.bent**2

    def share(self, *, level: float = LEVEL) -> Interval:
        """The interval of a mean of values in [0, 1]: Wilson's, at the number of requests that its variance is worth.

        Where all values seen are the same, at the effective number seen.
        """
        value = min(1.0, max(0.0, self.value))
        spread, variance = value * (1 - value), self.variance
        known = spread > 1e-9 and variance > 1e-15
        number = min(spread / variance, float(len(self.apart))) if known else self.effective
        return wilson(value, number, level=level, freedom=max(1.0, self.effective - 1))

    @cached_property
    def skew(self) -> float:
        """The skewness of `value` as an estimate; 0 where it has no variance."""
        if self.squares <= 0:
            return 0.0
        return float(sum(map(mul, map(mul, self.apart, self.apart), self.apart)) / self.squares**1.5)

    def amount(self, *, level: float = LEVEL) -> Interval:
        """The interval of a mean of amounts of any size: Student's, bent as the amounts are skewed (Hall 1992).

        A few very long answers that were not seen would make the mean larger: its high end is the farther one.
        """
        error, skew, t = sqrt(self.variance), self.skew, student(level, max(1.0, self.effective - 1))
        return Interval(self.value - error * _unbent(t, skew), self.value - error * _unbent(-t, skew))


def aipw(
    values: Sequence[float | None],
    propensities: Sequence[float],
    features: Sequence[Sequence[float]] = (),
    *,
    folds: int = FOLDS,
) -> Mean | None:
    """The mean of all `values`, of which those that are None were not seen; None where fewer than two were.

    Or fewer than two of those that were not certain to be. One value a request. `propensities`: the probability with
    which each was to be seen; read only where it was. `features`: what is known of every request, one column each, as
    `scaled` makes it. ValueError where the lengths differ, or where a value that was seen has no propensity in (0, 1].
    """
    if len(propensities) != len(values):
        raise ValueError("one propensity a value")
    seen = [value for value in values if value is not None]
    if len(seen) < 2:
        return None
    chances = [e for e, value in zip(propensities, values, strict=True) if value is not None]
    if not all(0 < e <= 1 for e in set(chances)):
        raise ValueError("a propensity is above 0 and at most 1")
    if any(len(column) != len(values) for column in features):
        raise ValueError("a feature is known of every request")
    certain = _certain(values, propensities)
    if certain is None:
        parts = [_Part.of(range(len(values)), values, propensities, features, folds)]
    else:
        parts = []
        for places in ([place for place, sure in enumerate(certain) if sure is which] for which in (False, True)):
            columns = [scaled([column[place] for place in places]) for column in features]
            own, drawn = [values[place] for place in places], [propensities[place] for place in places]
            parts.append(_Part.of(places, own, drawn, columns, folds))
    if any(part.seen < 2 for part in parts):
        return None
    terms = parts[0].terms if certain is None else _merged(certain, parts[1].terms, parts[0].terms)
    value = fsum(terms) / len(terms)
    successes = fsum(seen)
    return Mean(
        value=value,
        apart=[term - value for term in terms],
        seen=len(seen),
        parts=[Part(part.places, part.worth) for part in parts],
        smallest=min(chances),
        failures=len(seen) - successes,
        successes=successes,
        bent=0.0 if certain is None else _skew(seen),
    )


def _certain(values: Sequence[float | None], propensities: Sequence[float]) -> list[bool] | None:
    """Which were certain to be seen; None where all were, or too few of these to be a part of their own.

    None of them too: there is no value where it was certain to be another arm's.
    """
    certain = [e == 1 for e in propensities]
    known = sum(value is not None for value in compress(values, certain))
    return None if known < 2 or all(certain) else certain


def _skew(values: Sequence[float]) -> float:
    middle = fsum(values) / len(values)
    apart = [value - middle for value in values]
    squares = list(map(mul, apart, apart))
    spread, bent = fsum(squares) / len(values), fsum(map(mul, squares, apart)) / len(values)
    return float(bent / spread**1.5) if spread > 1e-12 * max(1.0, middle * middle) else 0.0


class _Part(NamedTuple):
    """Requests by their `places`, with what each contributes; `worth`: Kish's number of those `seen`."""

    places: Sequence[int]
    terms: Sequence[float]
    seen: int
    worth: float

    @classmethod
    def of(
        cls,
        places: Sequence[int],
        values: Sequence[float | None],
        propensities: Sequence[float],
        features: Sequence[Sequence[float]],
        folds: int,
    ) -> _Part:
        """All of these."""
        there = [value is not None for value in values]
        seen = [value for value in values if value is not None]
        if not seen:
            return cls(places, [0.0] * len(places), 0, 0.0)
        chances = list(compress(propensities, there))
        weights = [1 / e for e in chances]
        total = fsum(weights)
        scale = len(values) / total
        points = [list(compress(column, there)) for column in features]
        fits = _fits(seen, weights, points, folds)
        guesses = _guesses(fits, points, 0, len(seen))
        told = [guess + scale * (value - guess) / e for guess, value, e in zip(guesses, seen, chances, strict=True)]
        away = list(map(not_, there))
        rest = [list(compress(column, away)) for column in features]
        untold = _guesses(fits, rest, len(seen), len(values) - len(seen))
        return cls(places, _merged(there, told, untold), len(seen), total**2 / fsum(map(mul, weights, weights)))


def _merged(there: Sequence[bool], known: Sequence[float], guessed: Sequence[float]) -> list[float]:
    """Both in the order of the requests: a run of the more frequent ones after the other, one of the rarer between."""
    rare = len(known) < len(guessed)
    few, many = (known, guessed) if rare else (guessed, known)
    places = compress(range(len(there)), there if rare else map(not_, there))
    found: list[float] = []
    at = 0
    for number, (place, each) in enumerate(zip(places, few, strict=True)):
        found += many[at : place - number]
        found.append(each)
        at = place - number
    found += many[at:]
    return found


def scaled(column: Sequence[float]) -> list[float]:
    """A feature with a mean of 0 and a variance of 1, or all 0."""
    if not column:
        return []
    middle = sum(column) / len(column)
    apart = [x - middle for x in column]
    scale = sqrt(sum(map(mul, apart, apart)) / len(column)) or 1.0
    return [x / scale for x in apart]


def _unbent(t: float, skew: float) -> float:
    """The inverse of Hall's transformation of a skewed t, which makes it nearly normal."""
    if abs(skew) < 1e-9:
        return t
    return 3 / skew * (cbrt(1 + skew * (t - skew / 6)) - 1)


class Ratio(NamedTuple):
    """A ratio of two means, and its interval."""

    value: float
    interval: Interval


def quotient(over: Mean, under: Mean) -> Ratio | None:
    """The ratio of two means of shares over the same requests in the same order; None unless `under` is above 0.

    A ratio of estimates is on the average too large, by the relative variance of what it is divided by: that is taken
    off `value`. The interval is `intervals.ratio`'s, and needs no such thing.
    """
    spread = sqrt(over.squares * under.squares)
    correlation = _shared(over, under) / spread if spread > 0 else 0.0
    found = ratio(over.value, over.share(), under.value, under.share(), correlation)
    return None if found is None else Ratio(min(found.high, max(found.low, _unbiased(over, under))), found)


def proportion(over: Mean, under: Mean) -> Ratio | None:
    """The same of two means of amounts: the interval is that of the mean of what each request adds to the ratio.

    Two amounts of one request go together, so that what is left of them is as doubtful as the few that were seen of it,
    and as skewed; neither mean by itself knows that.
    """
    if under.value <= 0:
        return None
    plain = over.value / under.value
    weaker = min(over, under, key=lambda mean: mean.effective)
    apart = [(a - plain * b) / under.value for a, b in zip(over.apart, under.apart, strict=True)]
    low, high = replace(weaker, value=plain, apart=apart).amount()
    found = Interval(max(0.0, low), high)
    return Ratio(min(found.high, max(found.low, _unbiased(over, under))), found)


def _shared(over: Mean, under: Mean) -> float:
    if len(over.apart) != len(under.apart):
        raise ValueError("both means are over the same requests")
    return float(sum(map(mul, over.apart, under.apart)))


def _unbiased(over: Mean, under: Mean) -> float:
    number, plain = len(under.apart), over.value / under.value
    n = number * max(1, number - 1)
    return plain * (1 - under.squares / n / under.value**2) + _shared(over, under) / n / under.value**2


def _fits(
    seen: Sequence[float], weights: Sequence[float], points: Sequence[Sequence[float]], folds: int
) -> list[list[float]]:
    """The coefficients for each fold, learnt from the others.

    Every `folds`-th of those seen is of one fold, and of the others too: each fold has as many as the next, even where
    what was drawn comes in step.
    """
    sums = [_Sums.of(seen[n::folds], weights[n::folds], [column[n::folds] for column in points]) for n in range(folds)]
    return [_fit([each for at, each in enumerate(sums) if at != fold]) for fold in range(folds)]


def _guesses(
    fits: Sequence[Sequence[float]], columns: Sequence[Sequence[float]], start: int, number: int
) -> list[float]:
    """m(x) of so many requests, the first of them the one at `start` of all; where a fit is short, the constant."""
    found = [0.0] * number
    for fold, (constant, *slopes) in enumerate(fits):
        these = slice((fold - start) % len(fits), None, len(fits))
        guesses = [constant] * len(found[these])
        for number, (slope, column) in enumerate(zip(slopes, columns, strict=False)):
            if number:
                guesses = [guess + slope * x for guess, x in zip(guesses, column[these], strict=True)]
            else:  # nearly always the only one
                guesses = [constant + slope * x for x in column[these]]
        found[these] = guesses
    return found


class _Sums(NamedTuple):
    """The normal equations of a weighted least squares fit, as sums over the rows that were seen."""

    rows: int
    squares: list[list[float]]
    products: list[float]

    @classmethod
    def of(cls, values: Sequence[float], weights: Sequence[float], points: Sequence[Sequence[float]]) -> _Sums:
        """The sums over these requests; the first column, of the constant, is not among their `points`."""
        weighted = [weights, *(list(map(mul, weights, column)) for column in points)]
        squares = [[0.0] * len(weighted) for _ in weighted]
        for i, row in enumerate(weighted):
            for j, column in enumerate(points[:i], 1):
                squares[i][j] = squares[j][i] = sum(map(mul, row, column))
            squares[i][0] = squares[0][i] = sum(row)
        return cls(len(values), squares, [sum(map(mul, row, values)) for row in weighted])


def _fit(parts: Sequence[_Sums]) -> list[float]:
    """The coefficients, the constant first: of all features where enough was seen for them, else the mean alone.

    A ridge of one row's weight keeps a feature that hardly varies from running away; it does not touch the constant.
    """
    rows, size = sum(part.rows for part in parts), len(parts[0].products)
    if rows < SEEN_FOR_EACH * size:
        size = 1
    matrix = [[fsum(part.squares[i][j] for part in parts) for j in range(size)] for i in range(size)]
    right = [fsum(part.products[i] for part in parts) for i in range(size)]
    if matrix[0][0] <= 0:
        return [0.0]
    ridge = matrix[0][0] / rows
    for i in range(1, size):
        matrix[i][i] += ridge
    return _solved(matrix, right)


def _solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """The solution of a small symmetric system that is positive definite (Gauss, without pivots)."""
    size = len(right)
    for i in range(size):
        for j in range(i + 1, size):
            factor = matrix[j][i] / matrix[i][i]
            matrix[j] = [b - factor * a for a, b in zip(matrix[i], matrix[j], strict=True)]
            right[j] -= factor * right[i]
    found = [0.0] * size
    for i in reversed(range(size)):
        found[i] = (right[i] - sum(matrix[i][j] * found[j] for j in range(i + 1, size))) / matrix[i][i]
    return found
