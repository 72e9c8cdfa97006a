"""The trade-off between cost and accuracy, in numbers: what a policy keeps of the teacher's accuracy, and for how much.

A policy answers each request at a cost and with a score in [0, 1]; so do the teacher alone and the student alone.
Everything is a ratio or a difference of sums over requests, never a mean of ratios. Costs are in one unit, whichever.
What could not be scored is left out by the caller; None is what the data do not say.

Sources: RouteLLM for the recovered gap (PGR, APGR, CPT), RouterBench for the hull and AIQ.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum, inf, sqrt
from statistics import fmean, variance
from typing import NamedTuple

from pricing.intervals import Interval, paired_difference, percentiles, resampled_means

LEAST_GAP = 2.0
"""Standard errors that the teacher must be ahead of the student before a share of that gap is told."""

MARGIN = 0.01
"""How much worse still counts as not inferior: one point."""


class Point(NamedTuple):
    """A policy in the picture: the mean cost of a request, and its mean score."""

    cost: float
    accuracy: float


class Option(NamedTuple):
    """One way to answer one request."""

    cost: float
    score: float


def point(costs: Sequence[float], scores: Sequence[float]) -> Point:
    """Where a policy stands."""
    return Point(fmean(costs), fmean(scores))


def retention(policy: Sequence[float], teacher: Sequence[float]) -> float | None:
    """rho = mean(policy) / mean(teacher); None when the teacher scores nothing."""
    over, under = fmean(policy), fmean(teacher)
    return over / under if under > 0 else None


def cost_share(policy: Sequence[float], teacher: Sequence[float]) -> float | None:
    """kappa = sum / sum over the same requests; None when the teacher costs nothing."""
    _same(policy, teacher)
    return _over(fsum(policy), fsum(teacher))


def cost_per_correct(costs: Sequence[float], scores: Sequence[float]) -> float | None:
    """What one correct answer costs; None when there is none."""
    _same(costs, scores)
    return _over(fsum(costs), fsum(scores))


def recovered(policy: Sequence[float], student: Sequence[float], teacher: Sequence[float]) -> float | None:
    """PGR = (policy - student) / (teacher - student), of means over the same requests.

    None when the teacher is not `LEAST_GAP` standard errors of the paired difference ahead of the student.
    """
    _same(policy, student, teacher)
    gaps = [t - s for t, s in zip(teacher, student, strict=True)]
    if len(gaps) < 2:
        return None
    gap = fmean(gaps)
    if gap <= 0 or gap < LEAST_GAP * sqrt(variance(gaps, gap) / len(gaps)):
        return None
    return (fmean(policy) - fmean(student)) / gap


def random_mix(cost: float, student: Point, teacher: Point) -> float | None:
    """The accuracy of mixing student and teacher at random, for that much a request.

    More than the teacher costs buys no more than the teacher. None for less than the student costs, and where the
    student costs as much as the teacher: there is no such mix.
    """
    if cost < student.cost or teacher.cost <= student.cost:
        return None
    share = min(1.0, (cost - student.cost) / (teacher.cost - student.cost))
    return student.accuracy + share * (teacher.accuracy - student.accuracy)


def lift(policy: Point, student: Point, teacher: Point) -> float | None:
    """How much more accurate the policy is than random mixing for the same money; None: no mix costs that."""
    mixed = random_mix(policy.cost, student, teacher)
    return None if mixed is None else policy.accuracy - mixed


def random_share(target: float, student: Point, teacher: Point) -> float | None:
    """The least cost share at which random mixing reaches a retention of `target`; None: at none."""
    if teacher.cost <= 0:
        return None
    needed = target * teacher.accuracy
    if student.accuracy >= needed:
        return min(student.cost, teacher.cost if teacher.accuracy >= needed else inf) / teacher.cost
    if teacher.accuracy < needed:
        return None
    calls = (needed - student.accuracy) / (teacher.accuracy - student.accuracy)
    return min(1.0, (student.cost + calls * (teacher.cost - student.cost)) / teacher.cost)


def oracle_cost(requests: Iterable[Sequence[Option]], target: float) -> float | None:
    """The least sum of costs at which the sum of scores reaches `target`, knowing all scores beforehand.

    One option is taken for each request. Exact where scores are 0 or 1; between, an upper bound (the greedy one). None
    when no choice reaches the target. ValueError for a request without options.
    """
    total, score, upgrades = 0.0, 0.0, list[tuple[float, float, float]]()
    for options in requests:
        if not options:
            raise ValueError("a request without an option")
        frontier = hull(Point(*option) for option in options)
        total += frontier[0].cost
        score += frontier[0].accuracy
        for before, after in itertools.pairwise(frontier):
            gain, price = after.accuracy - before.accuracy, after.cost - before.cost
            upgrades.append((price / gain, price, gain))
    for _, price, gain in sorted(upgrades):
        if score >= target - 1e-9:
            break
        total += price
        score += gain
    return total if score >= target - 1e-9 else None


def gap_closed(share: float, random: float, oracle: float) -> float | None:
    """(kappa_random - kappa) / (kappa_random - kappa_oracle) at one retention; None where the oracle gains nothing."""
    return (random - share) / (random - oracle) if random > oracle else None


def hull(points: Iterable[Point]) -> list[Point]:
    """The Pareto hull, from the cheapest point to the most accurate: what mixing at random can reach at best.

    Costs and accuracies both rise along it, and the gain for one unit of cost falls.
    """
    best: list[Point] = []
    for each in sorted(points, key=lambda p: (p.cost, -p.accuracy)):
        if best and each.accuracy <= best[-1].accuracy:
            continue
        while len(best) > 1 and _steeper(best[-2], best[-1], each):
            best.pop()
        best.append(each)
    return best


def aiq(points: Iterable[Point], low: float, high: float) -> float | None:
    """The mean height of the Pareto hull between two costs (average improvement in quality).

    Left of the hull there is nothing: a height of 0. Right of it, the most accurate point. None unless low < high and
    there is a point.
    """
    corners = hull(points)
    if not (corners and low < high):
        return None
    corners.append(Point(max(high, corners[-1].cost), corners[-1].accuracy))
    area = 0.0
    for a, b in itertools.pairwise(corners):
        left, right = max(a.cost, low), min(b.cost, high)
        if left < right:
            slope = (b.accuracy - a.accuracy) / (b.cost - a.cost)
            area += (right - left) * (a.accuracy + slope * ((left + right) / 2 - a.cost))
    return area / (high - low)


def curve(points: Iterable[Point], student: Point, teacher: Point) -> list[tuple[float, float]] | None:
    """Points as (share of the way from the student's cost to the teacher's, share of the gap recovered), by cost.

    With the two ends (0, 0) and (1, 1). With shares of calls to the teacher as costs, student at 0 and teacher at 1,
    this is the curve of APGR and CPT; with dollars, of their dollar versions. None where there is no gap, in either.
    """
    far, high = teacher.cost - student.cost, teacher.accuracy - student.accuracy
    if far <= 0 or high <= 0:
        return None
    ends = [(0.0, 0.0), (1.0, 1.0)]
    between = [((p.cost - student.cost) / far, (p.accuracy - student.accuracy) / high) for p in points]
    return sorted(ends + [each for each in between if 0 <= each[0] <= 1])


def apgr(along: Sequence[tuple[float, float]]) -> float:
    """The mean recovered gap along a `curve`; 0.5 is random mixing."""
    return fsum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(along))


def cpt(along: Sequence[tuple[float, float]], x: float) -> float | None:
    """CPT(x): the least share at which a `curve` recovers `x` of the gap, between points by mixing; None: nowhere."""
    if along and along[0][1] >= x:
        return along[0][0]
    for a, b in itertools.pairwise(along):
        if a[1] < x <= b[1]:
            return a[0] + (b[0] - a[0]) * (x - a[1]) / (b[1] - a[1])
    return None


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """The difference of accuracy to the teacher with its 95 % interval; `holds`: it is not worse by `margin`."""

    difference: float
    interval: Interval
    margin: float

    @property
    def holds(self) -> bool:
        """The whole interval is above `-margin`."""
        return self.interval.low > -self.margin


def non_inferiority(policy: Sequence[float], teacher: Sequence[float], *, margin: float = MARGIN) -> NonInferiority:
    """Whether the policy is no worse than the teacher by `margin`, over the same requests."""
    return NonInferiority(fmean(policy) - fmean(teacher), paired_difference(policy, teacher), margin)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A policy beside the teacher on the same requests, with paired bootstrap intervals (95 %)."""

    retention: float | None
    retention_interval: Interval | None
    cost_share: float | None
    cost_share_interval: Interval | None
    difference: float
    difference_interval: Interval | None


def compare(
    scores: Sequence[float],
    costs: Sequence[float],
    teacher_scores: Sequence[float],
    teacher_costs: Sequence[float],
    *,
    seed: int = 0,
) -> Comparison:
    """rho, kappa and the difference in accuracy, each with its interval; the four are in the order of the requests.

    ValueError where they are empty or differ in length.
    """
    means = resampled_means((scores, costs, teacher_scores, teacher_costs), seed=seed)
    return Comparison(
        retention(scores, teacher_scores),
        percentiles(_over(a, b) for a, _, b, _ in means),
        cost_share(costs, teacher_costs),
        percentiles(_over(a, b) for _, a, _, b in means),
        fmean(scores) - fmean(teacher_scores),
        percentiles(a - b for a, _, b, _ in means),
    )


def _over(a: float, b: float) -> float | None:
    return a / b if b > 0 else None


def _steeper(a: Point, b: Point, c: Point) -> bool:
    """True when `b` is not above the line from `a` to `c`."""
    return (b.accuracy - a.accuracy) * (c.cost - a.cost) <= (c.accuracy - a.accuracy) * (b.cost - a.cost)


def _same(*columns: Sequence[float]) -> None:
    if len({len(column) for column in columns}) != 1:
        raise ValueError("the columns are of the same requests, so of the same length")
