"""Live: what a route keeps of the teacher's accuracy, and for how much, from traffic whose other answers nobody saw.

Each request was answered by the route's policy or, where that was drawn (a holdout), by the teacher alone; for some the
teacher wrote an answer too that nobody was shown (a shadow). What was drawn, and with which probability, is on record:
`pricing.aipw` makes means over *all* requests of it. Two questions, two sources each:

- **Cost share**: policy dollars over teacher dollars. The teacher's come from holdouts or from shadows, whichever were
  seen more often; from shadows only where the policy served.
- **Retention**: scores (somebody said how good an answer was) need holdouts, whose answers are the teacher's. Without
  scores, the agreement of what was served with the teacher's shadow stands in, and is called that.

Requests that failed, or for which nothing could be drawn, are the caller's to leave out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pricing.aipw import Mean, aipw, proportion, quotient
from pricing.drift import Change, change
from pricing.intervals import Interval


@dataclass(frozen=True, slots=True)
class Observed:
    """One request, as far as it was seen; None is what was not. Costs are in one unit, whichever.

    `propensity` is that of its arm; `shadow_propensity` that of a shadow, given that the policy served; None: none
    could be drawn. `cost` is what serving it cost, all calls. `teacher_cost` is what the teacher alone costs for it: of
    a holdout, a shadow, or an answer that was the teacher's from its first word to its last (`own`). `baseline` is the
    likely baseline of any method. `score` and `agreement` are in [0, 1].
    """

    at: float
    holdout: bool = False
    propensity: float = 1.0
    shadow_propensity: float | None = None
    own: bool = False
    input_tokens: int | None = None
    shown_tokens: int | None = None
    cost: float | None = None
    teacher_cost: float | None = None
    baseline: float | None = None
    score: float | None = None
    agreement: float | None = None


Status = Literal["measured", "too_few_failures", "too_few_values"]
Moving = Literal["score", "agreement", "cost_share"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval (95 %) and what it rests on; see `aipw.Mean`.

    `few`: fewer than ten failures (or successes) were seen on one side of it. The interval holds even then, but no
    claim is to be made of the value. `thin`: of amounts, too few were seen for amounts as skewed as these, and the
    interval may be too short (`aipw.Mean.thin`).
    """

    value: float
    interval: Interval
    seen: int
    effective: float
    smallest_propensity: float | None
    few: bool = False
    thin: bool = False

    @property
    def status(self) -> Status:
        """What may be said of it."""
        return "too_few_failures" if self.few else "too_few_values" if self.thin else "measured"


@dataclass(frozen=True, slots=True)
class Drifted:
    """A mean that changed within the window: of what, from when on, and from what to what."""

    of: Moving
    since: float
    before: float
    after: float
    p: float


@dataclass(frozen=True, slots=True)
class Report:
    """One route over one window. None: not measured.

    `scored` and `agreed` count the answers of the policy with a score, and with an agreement. `measured_by`: where the
    teacher's costs come from. `holdout_extra`: what the holdouts cost more than the policy would have, estimated.
    """

    requests: int
    holdouts: int
    shadows: int
    scored: int
    agreed: int
    accuracy: Estimate | None
    teacher_accuracy: Estimate | None
    retention: Estimate | None
    agreement: Estimate | None
    cost: Estimate | None
    teacher_cost: Estimate | None
    cost_share: Estimate | None
    measured_by: Literal["holdout", "shadow"] | None
    holdout_extra: float | None
    drift: Sequence[Drifted]


def report(requests: Sequence[Observed]) -> Report:
    """What the requests of one route say, in whatever order they come."""
    ordered = sorted(requests, key=lambda each: each.at)
    served = [each for each in ordered if not each.holdout]
    drawn = [each for each in ordered if each.holdout or each.propensity < 1]
    holdouts = [each for each in drawn if each.holdout]
    shadows = [each for each in served if each.shadow_propensity is not None]

    accuracy, teacher_accuracy, retention = _retention(drawn)
    if accuracy is None:
        # Nobody was held out: the policy's own accuracy is known, what to compare it with is not.
        accuracy = _of_share(aipw([each.score for each in served], [1.0] * len(served), _asked(served)))

    by_holdout = sum(each.teacher_cost is not None for each in holdouts)
    by_shadow = sum(each.teacher_cost is not None and not each.own for each in shadows)
    measured_by: Literal["holdout", "shadow"] | None = None
    if by_holdout or by_shadow:
        measured_by = "holdout" if by_holdout >= by_shadow else "shadow"
    cost, teacher_cost = _costs(drawn) if measured_by == "holdout" else _costs_of_served(shadows)
    if cost is None:
        cost = aipw([each.cost for each in served], [1.0] * len(served), _asked(served))
    spent = [each.cost for each in holdouts if each.cost is not None]

    return Report(
        requests=len(ordered),
        holdouts=sum(each.holdout for each in ordered),
        shadows=by_shadow,
        scored=sum(each.score is not None for each in served),
        agreed=sum(each.agreement is not None for each in shadows),
        accuracy=accuracy,
        teacher_accuracy=teacher_accuracy,
        retention=retention,
        agreement=_of_share(aipw([_agreement(each) for each in shadows], _shadow_propensities(shadows))),
        cost=_of_amount(cost),
        teacher_cost=_of_amount(teacher_cost),
        cost_share=_ratio(cost, teacher_cost, shares=False),
        measured_by=measured_by,
        holdout_extra=sum(spent) - len(spent) * cost.value if spent and cost is not None else None,
        drift=_drift(served),
    )


def _retention(drawn: Sequence[Observed]) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    """Of the policy's accuracy, the teacher's, and of one over the other, from scores of both arms."""
    policy, teacher = _arms(drawn, [each.score for each in drawn])
    return _of_share(policy), _of_share(teacher), _ratio(policy, teacher, shares=True)


def _costs(drawn: Sequence[Observed]) -> tuple[Mean | None, Mean | None]:
    """The policy's mean cost and the teacher's, from the two arms."""
    return _arms(drawn, [each.teacher_cost if each.holdout else each.cost for each in drawn])


def _arms(drawn: Sequence[Observed], values: Sequence[float | None]) -> tuple[Mean | None, Mean | None]:
    """The means of the policy and of the teacher alone over all requests; each is seen where it served."""
    propensities, features = [each.propensity for each in drawn], _asked(drawn)
    held = [each.holdout for each in drawn]
    policy = [None if holdout else value for holdout, value in zip(held, values, strict=True)]
    teacher = [value if holdout else None for holdout, value in zip(held, values, strict=True)]
    return aipw(policy, propensities, features), aipw(teacher, propensities, features)


def _costs_of_served(served: Sequence[Observed]) -> tuple[Mean | None, Mean | None]:
    """The same from shadows: both costs of one request are seen there, and how long the answer shown was."""
    features = _asked(served)
    features.append([float(each.shown_tokens or 0) for each in served])
    policy = aipw([each.cost for each in served], [1.0] * len(served), features)
    return policy, aipw([each.teacher_cost for each in served], _shadow_propensities(served), features)


def _asked(requests: Sequence[Observed]) -> list[list[float]]:
    """What is known of a request before it is answered, as columns: its input, of which a part of its cost follows."""
    return [[float(each.input_tokens or 0) for each in requests]]


def _shadow_propensities(served: Sequence[Observed]) -> list[float]:
    return [1.0 if each.own else each.shadow_propensity or 1.0 for each in served]


def _agreement(each: Observed) -> float | None:
    """What the teacher wrote itself agrees with the teacher."""
    return 1.0 if each.own else each.agreement


def _of_share(mean: Mean | None) -> Estimate | None:
    if mean is None:
        return None
    value = min(1.0, max(0.0, mean.value))
    return Estimate(value, mean.share(), mean.seen, mean.effective, mean.smallest, mean.few)


def _of_amount(mean: Mean | None) -> Estimate | None:
    if mean is None:
        return None
    return Estimate(mean.value, mean.amount(), mean.seen, mean.effective, mean.smallest, thin=mean.thin)


def _ratio(over: Mean | None, under: Mean | None, *, shares: bool) -> Estimate | None:
    """Of two means over the same requests; it rests on as much as the weaker of the two."""
    if over is None or under is None:
        return None
    found = quotient(over, under) if shares else proportion(over, under)
    if found is None:
        return None
    weaker = min(over, under, key=lambda mean: mean.effective)
    few, thin = shares and (over.few or under.few), not shares and (over.thin or under.thin)
    return Estimate(found.value, found.interval, weaker.seen, weaker.effective, weaker.smallest, few, thin)


def _drift(served: Sequence[Observed]) -> list[Drifted]:
    """What changed among the answers of the policy: their scores, their agreement, their cost for its baseline."""
    found: list[Drifted] = []
    scores = [(each.at, each.score) for each in served if each.score is not None]
    agreements = [(each.at, each.agreement) for each in served if each.agreement is not None]
    costs = [(each.at, each.cost, each.baseline) for each in served if each.cost is not None and each.baseline]
    seen: Mapping[Moving, Sequence[tuple[float, float]]] = {"score": scores, "agreement": agreements}
    for of, values in seen.items():
        changed = change([value for _, value in values])
        if changed is not None and changed.flagged:
            found.append(Drifted(of, values[changed.place][0], changed.before, changed.after, changed.p))
    changed = _cost_drift(costs)
    if changed is not None and changed.flagged:
        place = changed.place
        shares = [_share(costs[:place]), _share(costs[place:])]
        found.append(Drifted("cost_share", costs[place][0], shares[0], shares[1], changed.p))
    return found


def _cost_drift(costs: Sequence[tuple[float, float, float]]) -> Change | None:
    """Of the cost of each request, less what its baseline lets expect: traffic may change, the share may not."""
    if not costs:
        return None
    share = _share(costs)
    scale = sum(cost for _, cost, _ in costs) / len(costs)
    return change([cost - share * baseline for _, cost, baseline in costs], scale)


def _share(costs: Sequence[tuple[float, float, float]]) -> float:
    return sum(cost for _, cost, _ in costs) / sum(baseline for _, _, baseline in costs)
