"""Report: what each route keeps of the teacher's accuracy on live traffic, and for how much; and what to do first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from gateway.config import Config, Route
from gateway.ledger.entry import Ledger, Traffic
from pricing.live import Estimate, Report
from pricing.money import Money


@dataclass(frozen=True, slots=True)
class RouteReport:
    """One route: what is configured (None: it is no more), what its traffic says, and what would say more.

    `shadows_spent` is what shadows cost in the window, `shadows_unpriced` how many of them have no price;
    `holdouts_extra` what holdouts cost more than the strategy would have, an estimate, None where it is not known. They
    are the whole price of measuring. `notional`: a stand-in answered some of the requests, so the money is no money.
    """

    name: str
    route: Route | None
    strategies: Mapping[str, int]
    found: Report
    shadows_spent: Money
    shadows_unpriced: int
    notional: bool

    @property
    def holdouts_extra(self) -> Money | None:
        """In whole nano-dollars; may be negative, where the teacher alone is cheaper."""
        return None if self.found.holdout_extra is None else Money(round(self.found.holdout_extra))

    @property
    def advice(self) -> str | None:
        """What to do first, to know more; None: nothing is missing."""
        return None if self.route is None else _advice(self.route, self.found)


async def reports(
    ledger: Ledger, config: Config, *, since: float | None = None, until: float | None = None
) -> tuple[list[RouteReport], bool]:
    """One report a route, as configured, then those that are no more; and whether older requests were left out."""
    traffic, more = await ledger.observed(since, until)
    return await asyncio.to_thread(_made, config.routes, traffic), more


def plain(of: RouteReport) -> dict[str, Any]:
    """A route's report as plain data: null is what is not known."""
    found = of.found
    estimates = {
        "retention": found.retention,
        "agreement": found.agreement,
        "accuracy": found.accuracy,
        "teacher_accuracy": found.teacher_accuracy,
        "cost_share": found.cost_share,
    }
    return {
        "route": of.name,
        "strategies": dict(of.strategies),
        "holdout": of.route.holdout if of.route else None,
        "shadow": of.route.shadow if of.route else None,
        "requests": found.requests,
        "holdouts": found.holdouts,
        "shadows": found.shadows,
        "scored": found.scored,
        "agreed": found.agreed,
        **{name: estimate(each) for name, each in estimates.items()},
        "costs_measured_by": found.measured_by,
        "measurement": {
            "shadows_usd": of.shadows_spent.plain,
            "shadows_unpriced": of.shadows_unpriced,
            "holdouts_extra_usd": None if of.holdouts_extra is None else of.holdouts_extra.plain,
        },
        "notional": of.notional,
        "drift": [
            {"of": each.of, "since": each.since, "before": each.before, "after": each.after, "p": each.p}
            for each in found.drift
        ],
        "advice": of.advice,
    }


def estimate(of: Estimate | None) -> dict[str, Any]:
    """An estimate as plain data; an end of its interval that is infinite is null."""
    if of is None:
        return {"status": "not_measured"}
    low, high = (end if isfinite(end) else None for end in of.interval)
    return {
        "status": of.status,
        "value": of.value,
        "low": low,
        "high": high,
        "seen": of.seen,
        "effective": round(of.effective, 1),
        "smallest_propensity": of.smallest_propensity,
    }


def _made(routes: Mapping[str, Route], traffic: Mapping[str, Traffic]) -> list[RouteReport]:
    names = [*routes, *sorted(traffic.keys() - routes.keys())]
    return [_of(name, routes.get(name), traffic.get(name, Traffic())) for name in names]


def _of(name: str, route: Route | None, traffic: Traffic) -> RouteReport:
    return RouteReport(
        name=name,
        route=route,
        strategies=traffic.strategies,
        found=traffic.requests.report,
        shadows_spent=Money(traffic.spent),
        shadows_unpriced=traffic.unpriced,
        notional=traffic.notional,
    )


def _advice(route: Route, found: Report) -> str | None:
    if route.teacher is None:
        return "This route has no teacher to compare with."
    if route.strategy == "teacher":
        return "The teacher answers everything here: there is no trade-off."
    if not (route.holdout or route.shadow or found.holdouts or found.shadows):
        return (
            "Nothing is measured. Set `holdout: 0.05` on this route: the teacher alone then answers one request in "
            "twenty. Or `shadow: 0.05`: it answers beside the strategy, for nobody to see."
        )
    for missing in (_costs(found), _accuracy(route, found)):
        if missing is not None:
            return missing
    return None


def _costs(found: Report) -> str | None:
    if not (found.holdouts or found.shadows):
        return "Nothing was drawn yet: ask some questions."
    if found.cost_share is None:
        return "The teacher's costs are not known: give its model a price, and wait for two answers of its own."
    if found.cost_share.thin:
        return (
            "Some of the teacher's answers are many times dearer than others, and few shadows were seen: the interval "
            "of the cost share may be too short. Wait for more requests, or raise `shadow`."
        )
    return None


def _accuracy(route: Route, found: Report) -> str | None:
    needed: Sequence[Estimate] = [each for each in (found.retention, found.agreement) if each is not None]
    if not needed:
        if found.scored and not (route.holdout or found.holdouts):
            return "Answers are scored, and none of the teacher's beside them: set `holdout: 0.05` on this route."
        return (
            "Costs are measured, accuracy is not. Score answers, those of holdouts too: POST /gkt/v1/feedback with the "
            "request's id. Without scores, set `shadow: 0.05`, and `answers` to the kind of answer to compare."
        )
    if all(each.few for each in needed):
        return (
            "Fewer than ten failures (or successes) were seen on one side, so nothing is claimed yet: wait for more "
            "requests, or raise `holdout` or `shadow`."
        )
    return None
