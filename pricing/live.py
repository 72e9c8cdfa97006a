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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any, Literal, NamedTuple

from pricing.aipw import Mean, aipw, proportion, quotient, scaled
from pricing.drift import Change, change
from pricing.intervals import Interval


class Observed(NamedTuple):
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


class Window:
    """Requests, oldest first, as one column for each field of `Observed`.

    A report goes through one after the other, of thousands of requests: as many objects would take longer to make
    than all sums over them.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self._columns = dict(columns)

    @classmethod
    def of(cls, requests: Iterable[Observed]) -> Window:
        """Of requests in whatever order."""
        ordered = sorted(requests, key=lambda each: each.at)
        columns = zip(*ordered, strict=True) if ordered else ((),) * len(Observed._fields)
        return cls(dict(zip(Observed._fields, columns, strict=True)))

    def __len__(self) -> int:
        return len(self["at"])

    def __getitem__(self, name: str) -> Sequence[Any]:
        """The column of that name."""
        return self._columns[name]

    def rows(self) -> list[Observed]:
        """Request by request."""
        return list(map(Observed, *(self[name] for name in Observed._fields)))

    @cached_property
    def report(self) -> Report:
        """What they say; see `report`."""
        return report(self)

    def where(self, which: Sequence[bool]) -> Window:
        """Those of which it is true."""
        return self if all(which) else _Part(self, which)


class _Part(Window):
    """Some of the requests of a window; a column is made when it is asked for."""

    def __init__(self, whole: Window, which: Sequence[bool]) -> None:
        super().__init__({})
        self._whole, self._which = whole, which

    def __getitem__(self, name: str) -> Sequence[Any]:
        if name not in self._columns:
            self._columns[name] = list(compress(self._whole[name], self._which))
        return self._columns[name]


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


def report(window: Window) -> Report:
    """What the requests of one route say."""
    held = window["holdout"]
    served = window.where([not holdout for holdout in held])
    drawn = window.where([holdout or e < 1 for holdout, e in zip(held, window["propensity"], strict=True)])
    holdouts = window.where(held)
    shadows = served.where([e is not None for e in served["shadow_propensity"]])

    asked = _asked(drawn)
    accuracy, teacher_accuracy = _arms(drawn, asked, drawn["score"], drawn["score"])
    retention = _ratio(accuracy, teacher_accuracy, shares=True)
    if accuracy is None:
        # Nobody was held out: the policy's own accuracy is known, what to compare it with is not.
        accuracy = aipw(served["score"], [1.0] * len(served), _asked(served))

    by_holdout = len(holdouts) - holdouts["teacher_cost"].count(None)
    by_shadow = sum(
        cost is not None and not own for cost, own in zip(shadows["teacher_cost"], shadows["own"], strict=True)
    )
    measured_by: Literal["holdout", "shadow"] | None = None
    if by_holdout or by_shadow:
        measured_by = "holdout" if by_holdout >= by_shadow else "shadow"
    if measured_by == "holdout":
        cost, teacher_cost = _arms(drawn, asked, drawn["cost"], drawn["teacher_cost"])
    else:
        cost, teacher_cost = _costs_of_served(shadows)
    if cost is None:
        cost = aipw(served["cost"], [1.0] * len(served), _asked(served))
    spent = [each for each in holdouts["cost"] if each is not None]

    return Report(
        requests=len(window),
        holdouts=len(holdouts),
        shadows=by_shadow,
        scored=len(served) - served["score"].count(None),
        agreed=len(shadows) - shadows["agreement"].count(None),
        accuracy=_of_share(accuracy),
        teacher_accuracy=_of_share(teacher_accuracy),
        retention=retention,
        agreement=_of_share(aipw(_agreements(shadows), _shadow_propensities(shadows))),
        cost=_of_amount(cost),
        teacher_cost=_of_amount(teacher_cost),
        cost_share=_ratio(cost, teacher_cost, shares=False),
        measured_by=measured_by,
        holdout_extra=sum(spent) - len(spent) * cost.value if spent and cost is not None else None,
        drift=_drift(served),
    )


Features = Sequence[Sequence[float]]


def _arms(
    drawn: Window, features: Features, served: Sequence[float | None], alone: Sequence[float | None]
) -> tuple[Mean | None, Mean | None]:
    """The means of the policy and of the teacher alone over all requests; each is seen where it served."""
    held = drawn["holdout"]
    policy = [None if holdout else value for holdout, value in zip(held, served, strict=True)]
    teacher = [value if holdout else None for holdout, value in zip(held, alone, strict=True)]
    return aipw(policy, drawn["propensity"], features), aipw(teacher, drawn["propensity"], features)


def _costs_of_served(served: Window) -> tuple[Mean | None, Mean | None]:
    """The same from shadows: both costs of one request are seen there, and how long the answer shown was."""
    shown = scaled([float(each or 0) for each in served["shown_tokens"]])
    features = [*_asked(served), shown]
    policy = aipw(served["cost"], [1.0] * len(served), features)
    return policy, aipw(served["teacher_cost"], _shadow_propensities(served), features)


def _asked(requests: Window) -> Features:
    """What is known of a request before it is answered: its input, of which a part of its cost follows."""
    return [scaled([float(each or 0) for each in requests["input_tokens"]])]


def _shadow_propensities(served: Window) -> list[float]:
    return [1.0 if own else e or 1.0 for own, e in zip(served["own"], served["shadow_propensity"], strict=True)]


def _agreements(served: Window) -> list[float | None]:
    """What the teacher wrote itself agrees with the teacher."""
    return [1.0 if own else value for own, value in zip(served["own"], served["agreement"], strict=True)]


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


def _drift(served: Window) -> list[Drifted]:
    """What changed among the answers of the policy: their scores, their agreement, their cost for its baseline."""
    found: list[Drifted] = []
    moving: tuple[Moving, ...] = ("score", "agreement")
    for of in moving:
        known = served.where([value is not None for value in served[of]])
        changed = change(known[of])
        if changed is not None and changed.flagged:
            found.append(Drifted(of, known["at"][changed.place], changed.before, changed.after, changed.p))
    known = served.where(
        [cost is not None and bool(of) for cost, of in zip(served["cost"], served["baseline"], strict=True)]
    )
    costs, baselines = known["cost"], known["baseline"]
    changed = _cost_drift(costs, baselines)
    if changed is not None and changed.flagged:
        place = changed.place
        before, after = sum(costs[:place]) / sum(baselines[:place]), sum(costs[place:]) / sum(baselines[place:])
        found.append(Drifted("cost_share", known["at"][place], before, after, changed.p))
    return found


def _cost_drift(costs: Sequence[float], baselines: Sequence[float]) -> Change | None:
    """Of the cost of each request, less what its baseline lets expect: traffic may change, the share may not."""
    if not costs:
        return None
    share = sum(costs) / sum(baselines)
    apart = [cost - share * baseline for cost, baseline in zip(costs, baselines, strict=True)]
    return change(apart, sum(costs) / len(costs))
