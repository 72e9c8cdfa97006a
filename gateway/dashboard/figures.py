"""Figures: what charts show, as plain data that plotly draws, each with its summary in words.

A `color` that begins with `--` is a property of the style sheet; the page's script looks it up, for light and dark.
Amounts are drawn in dollars; `customdata` has them exact, as text. Plotly takes every text for markup, links too, and
names come from callers: they are escaped for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from markupsafe import Markup

from gateway.dashboard.period import Step, moment
from gateway.dashboard.tables import Row, saved_share
from gateway.dashboard.words import dollars, plain_percent, rounded, some
from gateway.ledger.entry import SavingsRow
from pricing.money import Money

STAGES = {"guidance": "--guidance", "answer": "--answer", "fallback": "--fallback", "measurement": "--measurement"}
OCCASIONAL = ("fallback", "measurement")
"""Stages that are drawn where there are any."""

LARGEST = 8
"""Groups that a chart of groups has room for; the table beside it has more."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart. `summary` says in words what it shows; `height` is in pixels."""

    id: str
    title: str
    summary: str
    data: Sequence[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 300

    @property
    def json(self) -> Markup:
        """For a script element: no `<` can end it."""
        made = orjson.dumps({"data": self.data, "layout": self.layout}).decode()
        return Markup(made.replace("<", "\\u003c"))  # noqa: S704 - JSON, in an element that is not HTML


def over_time(rows: Sequence[SavingsRow], names: Sequence[str], step: Step, days: str = "UTC") -> Figure:
    """What was spent, by stage, and what the teacher alone would have cost, in each hour or day of `names`.

    An hour or day without requests is drawn as nothing spent. `days`: the name of the zone whose days they are.
    """
    known = {row.group: row for row in rows}
    middles = [_middle(name, step) for name in names]
    labels = [_label(name, step, days) for name in names]
    spent = {stage: [_stage(known.get(name), stage) for name in names] for stage in STAGES}
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": stage,
            "x": middles,
            "y": [dollars(amount.nano) for amount in amounts],
            "customdata": [str(amount) for amount in amounts],
            "hovertext": labels,
            "hovertemplate": f"{stage} %{{customdata}}<extra></extra>",
            "marker": {"color": STAGES[stage]},
        }
        for stage, amounts in spent.items()
        if stage not in OCCASIONAL or any(amounts)
    ]
    alone = [row.baseline if (row := known.get(name)) else Money.ZERO for name in names]
    data.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "teacher alone",
            "x": middles,
            "y": [None if amount is None else dollars(amount.nano) for amount in alone],
            "customdata": ["unknown" if amount is None else str(amount) for amount in alone],
            "hovertext": labels,
            "hovertemplate": "%{hovertext}<br>teacher alone %{customdata}<extra></extra>",
            "line": {"color": "--baseline", "width": 2, "dash": "dot"},
            "marker": {"color": "--baseline", "size": 6},
        }
    )
    layout = {
        "barmode": "stack",
        "bargap": 0.25,
        "hovermode": "x",
        "xaxis": {"type": "date", "fixedrange": True, **_ends(names, step)},
        "yaxis": {"tickprefix": "$", "fixedrange": True, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": 1.12, "x": 0, "traceorder": "normal"},
    }
    return Figure("over-time", f"Spent by {step}", _told(rows, names, step), data, layout, 320)


def _told(rows: Sequence[SavingsRow], names: Sequence[str], step: Step) -> str:
    if not rows:
        return "No requests in this range."
    total = Money.total(row.spent for row in rows)
    most = max(rows, key=lambda row: row.spent.nano)
    when = f"on {most.group}" if step == "day" else f"in the hour from {most.group.replace('T', ' ')[:-1]} UTC"
    begun = f"{rounded(total)} spent in {some(len(names), step)}, {len(rows)} of them with requests"
    return f"{begun}; most {when}: {rounded(most.spent)}."


def strategies(rows: Sequence[Row]) -> Figure:
    """The share of requests that each strategy answered."""
    total = sum(row.requests for row in rows)
    ordered = sorted(rows, key=lambda row: row.requests)
    shares = [row.requests / total for row in ordered]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": "requests",
            "y": [escaped(_short(row.group)) for row in ordered],
            "x": [row.requests for row in ordered],
            "text": [plain_percent(share) for share in shares],
            "textposition": "auto",
            "cliponaxis": False,
            "customdata": [row.requests for row in ordered],
            "hovertemplate": "%{y}: %{customdata:,}, %{text}<extra></extra>",
            "marker": {"color": "--accent"},
        }
    ]
    layout = {
        "bargap": 0.35,
        "xaxis": {"title": {"text": "requests"}, "fixedrange": True, "tickformat": ",d", "nticks": 6},
        "yaxis": {"type": "category", "automargin": True, "fixedrange": True},
    }
    said = [f"{row.group} {plain_percent(row.requests / total)}" for row in reversed(ordered)]
    return Figure(
        "strategies", "Requests by strategy", f"Of {some(total, 'request')}: {', '.join(said)}.", data, layout, 240
    )


def split(row: SavingsRow) -> Figure:
    """Where the money went: guidance that was used, guidance that was wasted, answers, fallbacks, measurements."""
    guidance = row.spent_by_stage.get("guidance", Money.ZERO)
    parts = [
        ("guidance", guidance - row.wasted_spent, "--guidance"),
        ("guidance, wasted", row.wasted_spent, "--wasted"),
        ("answer", row.spent_by_stage.get("answer", Money.ZERO), "--answer"),
        ("fallback", row.spent_by_stage.get("fallback", Money.ZERO), "--fallback"),
    ]
    measurement = row.spent_by_stage.get("measurement", Money.ZERO)
    if measurement:  # where nothing is measured, its line would only ask what it is
        parts.append(("measurement", measurement, "--measurement"))
    shares = [amount.nano / row.spent.nano if row.spent else 0.0 for _, amount, _ in parts]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": "spent",
            "y": [name for name, _, _ in reversed(parts)],
            "x": [dollars(amount.nano) for _, amount, _ in reversed(parts)],
            "text": [plain_percent(share) for share in reversed(shares)],
            "textposition": "auto",
            "cliponaxis": False,
            "customdata": [str(amount) for _, amount, _ in reversed(parts)],
            "hovertemplate": "%{y}: %{customdata}, %{text}<extra></extra>",
            "marker": {"color": [colour for _, _, colour in reversed(parts)]},
        }
    ]
    layout = {
        "bargap": 0.35,
        "xaxis": {"tickprefix": "$", "fixedrange": True, "nticks": 5},
        "yaxis": {"type": "category", "automargin": True, "fixedrange": True},
    }
    said = [f"{name} {rounded(amount)}" for name, amount, _ in parts if amount]
    told = f"{rounded(row.spent)} spent: {', '.join(said) or 'nothing'}."
    return Figure("split", "Where the money went", told, data, layout, 240)


def groups(name: str, title: str, rows: Sequence[Row], called: Mapping[str, str] | None = None) -> Figure:
    """What each group spent beside what the teacher alone would have cost; `rows` come the dearest first.

    `called`: what to call a group instead of its own name.
    """
    named = called or {}
    shown = list(rows[:LARGEST])[::-1]
    names = [_short(named.get(row.group, row.group)) for row in shown]
    # Two long names may be cut to the same; a category axis would draw them as one.
    names = [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]
    data = [
        _bars("teacher alone", names, [row.baseline for row in shown], "--baseline"),
        _bars("spent", names, [row.spent for row in shown], "--accent"),
    ]
    layout = {
        "barmode": "group",
        "bargap": 0.3,
        "bargroupgap": 0.08,
        "xaxis": {"tickprefix": "$", "fixedrange": True, "nticks": 5, "rangemode": "tozero"},
        "yaxis": {"type": "category", "automargin": True, "fixedrange": True},
        "legend": {"orientation": "h", "y": 1.15, "x": 0, "traceorder": "reversed"},
    }
    said = [f"{_short(named.get(row.group, row.group))} {rounded(row.spent)}{_saving(row)}" for row in rows[:3]]
    rest = len(rows) - len(said)
    more = f"; and {rest:,} more" if rest > 0 else ""
    height = 110 + 46 * max(2, len(shown))
    return Figure(name, title, f"Most spent: {', '.join(said)}{more}.", data, layout, height)


def _bars(name: str, names: Sequence[str], amounts: Sequence[Money | None], colour: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": list(map(escaped, names)),
        "x": [None if amount is None else dollars(amount.nano) for amount in amounts],
        "customdata": ["unknown" if amount is None else str(amount) for amount in amounts],
        "hovertemplate": f"%{{y}}<br>{name} %{{customdata}}<extra></extra>",
        "marker": {"color": colour},
    }


def _saving(row: Row) -> str:
    share = saved_share(row)
    return "" if share is None else f" ({plain_percent(share)} saved)"


def _stage(row: SavingsRow | None, stage: str) -> Money:
    return Money.ZERO if row is None else row.spent_by_stage.get(stage, Money.ZERO)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:26]}…"


def escaped(name: str) -> str:
    """As plotly shows it character by character."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _middle(name: str, step: Step) -> str:
    """Where a bar stands. With a Z the page's script takes it to the viewer's zone; days have one already."""
    begin = datetime.fromtimestamp(moment(name), UTC)
    if step == "hour":
        return (begin + timedelta(minutes=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (begin + timedelta(hours=12)).strftime("%Y-%m-%dT%H:%M:%S")


def _label(name: str, step: Step, days: str) -> str:
    return name.replace("Z", ":00Z") if step == "hour" else f"{name} ({escaped(days)})"


def _ends(names: Sequence[str], step: Step) -> dict[str, Any]:
    """The axis from the first begin to the last end."""
    if not names:
        return {}
    size = 3_600 if step == "hour" else 86_400
    shape = "%Y-%m-%dT%H:%M:%S" + ("Z" if step == "hour" else "")
    ends = (moment(names[0]), moment(names[-1]) + size)
    ticks = {} if step == "hour" else {"tickformat": "%d %b", "dtick": 86_400_000 * max(1, -(-len(names) // 8))}
    first = {} if step == "hour" else {"tick0": _middle(names[0], step)}
    return {"range": [datetime.fromtimestamp(at, UTC).strftime(shape) for at in ends], **ticks, **first}
