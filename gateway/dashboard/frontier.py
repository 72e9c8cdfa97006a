"""Frontier: routes between cost and accuracy, as measured on live traffic, with what mixing at random would reach."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from gateway.dashboard.figures import Figure, escaped
from gateway.dashboard.tables import NONE, Column, Table
from gateway.dashboard.words import plain_percent
from gateway.report import RouteReport
from pricing.live import Drifted, Estimate
from pricing.tradeoff import Point, hull

ROUTES = (
    Column("route", "Route"),
    Column("retention", "Accuracy kept", "percent"),
    Column("retention_low", "Least", "percent"),
    Column("retention_high", "Most", "percent"),
    Column("retention_by", "By"),
    Column("retention_status", "Claim", "state"),
    Column("cost_share", "Cost, of the teacher’s", "percent"),
    Column("cost_share_low", "Least", "percent"),
    Column("cost_share_high", "Most", "percent"),
    Column("cost_share_by", "By"),
    Column("requests", "Requests", "count"),
    Column("holdouts", "Holdouts", "count"),
    Column("shadows", "Shadows", "count"),
    Column("scored", "Scored", "count"),
    Column("agreed", "Compared", "count"),
    Column("effective", "Worth"),
    Column("smallest_propensity", "Rarest"),
    Column("shadows_usd", "Shadows", "money"),
    Column("holdouts_extra_usd", "Holdouts, extra", "money"),
    Column("drift", "Drift"),
    Column("advice", "Next"),
)
"""Everything; a page shows what is in `SHOWN`, and the rest beside its routes."""

SHOWN = (
    "retention",
    "retention_low",
    "retention_high",
    "retention_status",
    "cost_share",
    "cost_share_low",
    "cost_share_high",
    "requests",
    "effective",
    "smallest_propensity",
)

POINTS = (
    Column("what", "What"),
    Column("name", "Name"),
    Column("cost_share", "Cost share", "percent"),
    Column("cost_share_low", "Least", "percent"),
    Column("cost_share_high", "Most", "percent"),
    Column("retention", "Accuracy kept", "percent"),
    Column("retention_low", "Least", "percent"),
    Column("retention_high", "Most", "percent"),
)

TEACHER = Point(1.0, 1.0)


def kept(of: RouteReport) -> tuple[str, Estimate] | None:
    """Of the teacher's accuracy: by scores where there are any, else by agreement; None: it is not measured."""
    found = of.found
    if found.retention is not None:
        return "scores", found.retention
    return None if found.agreement is None else ("agreement", found.agreement)


def table(reports: Sequence[RouteReport]) -> Table:
    """One row a route."""
    return Table("live", "Accuracy and cost by route, on live traffic", ROUTES, [_row(each) for each in reports])


def points(reports: Sequence[RouteReport]) -> Table:
    """What the chart draws: routes with both numbers, the teacher, the hull, and the line of random mixing."""
    rows: list[list[Any]] = [
        ["route", each.name, share.value, *_ends(share), accuracy.value, *_ends(accuracy)]
        for each, accuracy, share in _placed(reports)
    ]
    rows.append(["teacher", "the teacher alone", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    for what, corners in (("hull", _hull(reports)), ("random mix", _mixed(reports) or [])):
        rows += [[what, NONE, point.cost, None, None, point.accuracy, None, None] for point in corners]
    return Table("frontier", "The picture’s points", POINTS, rows)


def figure(reports: Sequence[RouteReport]) -> Figure | None:
    """Points with error bars, their hull, and random mixing of student and teacher; None: no route has both numbers."""
    placed = _placed(reports)
    if not placed:
        return None
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "routes",
            "x": [share.value for _, _, share in placed],
            "y": [accuracy.value for _, accuracy, _ in placed],
            "error_x": _bars([share for _, _, share in placed]),
            "error_y": _bars([accuracy for _, accuracy, _ in placed]),
            "hovertext": [_hover(each, accuracy, share) for each, accuracy, share in placed],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "marker": {
                "color": "--accent",
                "size": 10,
                # No claim is made of an open one.
                "symbol": ["circle" if _sure(accuracy, share) else "circle-open" for _, accuracy, share in placed],
            },
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "teacher alone",
            "x": [1.0],
            "y": [1.0],
            "hovertemplate": "the teacher alone<extra></extra>",
            "marker": {"color": "--baseline", "size": 11, "symbol": "diamond"},
        },
        _line("hull", _hull(reports), "--accent", "solid"),
    ]
    mixed = _mixed(reports)
    if mixed is not None:
        data.append(_line("random mix", mixed, "--baseline", "dot"))
    layout = {
        "hovermode": "closest",
        "xaxis": {"title": {"text": "cost, of the teacher’s"}, "tickformat": ".0%", "fixedrange": True},
        "yaxis": {"title": {"text": "accuracy kept"}, "tickformat": ".0%", "fixedrange": True, "automargin": True},
        "legend": {"orientation": "h", "y": 1.12, "x": 0},
    }
    said = [
        f"{each.name} keeps {_claim(accuracy)} for {plain_percent(share.value)} of the cost"
        for each, accuracy, share in placed[:3]
    ]
    more = f"; and {len(placed) - 3:,} more" if len(placed) > 3 else ""
    return Figure("frontier", "Accuracy against cost", f"{'; '.join(said)}{more}.", data, layout, 320)


def _row(of: RouteReport) -> list[Any]:
    found, known = of.found, kept(of)
    accuracy = known[1] if known else None
    share = found.cost_share
    rests = accuracy or share
    return [
        of.name,
        *_value(accuracy),
        known[0] if known else NONE,
        accuracy.status.replace("_", " ") if accuracy else "not measured",
        *_value(share),
        found.measured_by or NONE,
        found.requests,
        found.holdouts,
        found.shadows,
        found.scored,
        found.agreed,
        NONE if rests is None else f"{rests.effective:,.0f}",
        NONE if rests is None or rests.smallest_propensity is None else f"{rests.smallest_propensity:g}",
        of.shadows_spent,
        of.holdouts_extra,
        "; ".join(map(drifted, found.drift)) or NONE,
        of.advice or NONE,
    ]


def drifted(of: Drifted) -> str:
    """A change in words."""
    name = {"score": "scores", "agreement": "agreement", "cost_share": "cost share"}[of.of]
    return f"{name} went from {plain_percent(of.before)} to {plain_percent(of.after)}"


def _value(of: Estimate | None) -> list[float | None]:
    return [None, None, None] if of is None else [of.value, *_ends(of)]


def _ends(of: Estimate) -> list[float | None]:
    return [end if isfinite(end) else None for end in of.interval]


def _placed(reports: Sequence[RouteReport]) -> list[tuple[RouteReport, Estimate, Estimate]]:
    found = [(each, kept(each), each.found.cost_share) for each in reports]
    return [(each, known[1], share) for each, known, share in found if known is not None and share is not None]


def _hull(reports: Sequence[RouteReport]) -> list[Point]:
    """Over routes of which something is claimed, and the teacher."""
    sure = [Point(share.value, accuracy.value) for _, accuracy, share in _placed(reports) if _sure(accuracy, share)]
    return hull([*sure, TEACHER])


def _mixed(reports: Sequence[RouteReport]) -> list[Point] | None:
    """From the student alone to the teacher alone; None where no route of the student alone is measured."""
    for each, accuracy, share in _placed(reports):
        if each.route is not None and each.route.strategy == "student":
            return [Point(share.value, accuracy.value), TEACHER]
    return None


def _bars(of: Sequence[Estimate]) -> dict[str, Any]:
    up = [each.interval.high - each.value for each in of]
    return {
        "type": "data",
        "symmetric": False,
        "array": [end if isfinite(end) else None for end in up],
        "arrayminus": [each.value - each.interval.low for each in of],
        "color": "--muted",
        "thickness": 1,
    }


def _line(name: str, corners: Sequence[Point], color: str, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [point.cost for point in corners],
        "y": [point.accuracy for point in corners],
        "hoverinfo": "skip",
        "line": {"color": color, "width": 2, "dash": dash},
    }


def _sure(accuracy: Estimate, share: Estimate) -> bool:
    """Whether both are claimed."""
    return accuracy.status == share.status == "measured"


def _claim(accuracy: Estimate) -> str:
    return "what too few failures were seen to tell" if accuracy.few else plain_percent(accuracy.value)


def _hover(each: RouteReport, accuracy: Estimate, share: Estimate) -> str:
    low, high = accuracy.interval
    told = "too few failures to claim it" if accuracy.few else f"{plain_percent(low)} to {plain_percent(high)}"
    cost = f"{plain_percent(share.value)}{' (too few shadows to claim it)' if share.thin else ''}"
    return f"{escaped(each.name)}<br>keeps {plain_percent(accuracy.value)} ({told})<br>costs {cost}"
