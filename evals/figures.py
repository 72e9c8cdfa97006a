"""Figures: the pictures of a summary, as the dashboard's charts: the Pareto picture, and the paper's Figures 3 to 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.results import Cell
from evals.sheets import arm, percent
from evals.summary import Group, Row, Summary
from gateway.dashboard.figures import Figure, escaped
from pricing.intervals import Interval
from pricing.tradeoff import Point

COLOURS = {
    "teacher": "--baseline",
    "teacher-concise": "--good",
    "student": "--muted",
    "cut-text": "--measurement",
    "cut-off": "--accent",
    "concise": "--answer",
    "hint": "--fallback",
    "cascade": "--guidance",
}
STAGES = {"guidance": "--guidance", "answer": "--answer", "fallback": "--fallback", "measurement": "--measurement"}
OTHER = "--accent"
TALL = 420
LEGEND = {"orientation": "h", "y": 1.02, "x": 0, "yanchor": "bottom"}


def figures(summary: Summary) -> list[list[Figure]]:
    """The pictures of each group, in the order of the groups; those that have nothing to show are left out.

    What compares exemplars stands with the first group of its task and models.
    """
    shown = []
    seen: set[tuple[str, str | None, str | None]] = set()
    taught = {(group.task, group.student) for group in summary.groups if group.teacher is not None}
    for number, group in enumerate(summary.groups):
        own = [pareto(group, number), stages(group, number), lengths(group, number)]
        key = group.task, group.teacher, group.student
        if key not in seen and (group.teacher is not None or key[::2] not in taught):
            seen.add(key)
            own.append(exemplars([each for each in summary.groups if _kin(each, group)], number))
        shown.append([figure for figure in own if figure is not None])
    return shown


def _kin(one: Group, group: Group) -> bool:
    """The same task and models, though fewer of them may have been asked there."""
    return (one.task, one.student) == (group.task, group.student) and one.teacher in (group.teacher, None)


def pareto(group: Group, number: int) -> Figure | None:
    """Accuracy against cost share, with 95 % bars, the hull, random mixing and the oracle; None: no arm has both."""
    placed = [(row, point) for row in group.rows if (point := row.point) is not None]
    if not placed:
        return None
    data: list[dict[str, Any]] = []
    for strategy in dict.fromkeys(row.cell.strategy for row, _ in placed):
        own = [(row, point) for row, point in placed if row.cell.strategy == strategy]
        shares = [row.comparison.cost_share_interval if row.comparison else None for row, _ in own]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": strategy,
                "x": [point.cost for _, point in own],
                "y": [point.accuracy for _, point in own],
                "error_x": _bars([point.cost for _, point in own], shares),
                "error_y": _bars([point.accuracy for _, point in own], [row.accuracy_interval for row, _ in own]),
                "hovertext": [_hover(row, point) for row, point in own],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "marker": {
                    "color": COLOURS[strategy],
                    "size": 10,
                    "symbol": "diamond" if strategy in ("teacher", "student") else "circle",
                },
            }
        )
    data.append(_line("hull", group.hull, "--accent", "solid"))
    data += [_line("random mixing", group.mix, "--baseline", "dot")] if group.mix else []
    data += [_line("oracle of both alone", group.oracle, "--good", "dash")] if group.oracle else []
    layout = {
        "hovermode": "closest",
        "xaxis": {
            "fixedrange": True,
            "title": {"text": "cost, of the teacher’s"},
            "tickformat": ".0%",
            "rangemode": "tozero",
        },
        "yaxis": {"fixedrange": True, "title": {"text": "accuracy"}, "tickformat": ".0%", "automargin": True},
        "legend": LEGEND,
        "height": TALL,
    }
    best = max(placed, key=lambda each: each[0].lift if each[0].lift is not None else float("-inf"))[0]
    told = f"{len(placed)} arms between cost and accuracy"
    if best.lift is not None:
        side = "above" if best.lift > 0 else "below" if best.lift < 0 else "on"
        told += f"; farthest up is {arm(best.cell)}, {abs(best.lift) * 100:.1f} points {side} the line of random mixing"
    missing = [arm(row.cell) for row in group.rows if row.point is None and row.asked]
    told += f". Not drawn, as their cost share is unknown: {', '.join(missing)}" if missing else ""
    return Figure(f"pareto-{number}", "Accuracy against cost", f"{told}. Bars: 95 % intervals.", data, layout, TALL)


def stages(group: Group, number: int) -> Figure | None:
    """Where an answer's time goes, arm by arm (the paper's Figure 3); None: no stage's time is known."""
    rows = [row for row in group.rows if any(seconds is not None for seconds in row.stages.values())][::-1]
    if not rows:
        return None
    names = [escaped(arm(row.cell)) for row in rows]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": stage,
            "y": names,
            "x": [row.stages.get(stage) for row in rows],
            "hovertemplate": f"%{{y}}<br>{escaped(stage)} %{{x:.3g}} s<extra></extra>",
            "marker": {"color": STAGES.get(stage, OTHER)},
        }
        for stage in sorted(
            {stage for row in rows for stage, took in row.stages.items() if took is not None}, key=_place
        )
    ]
    height = 120 + 26 * max(3, len(rows))
    layout = {
        "barmode": "stack",
        "bargap": 0.3,
        "xaxis": {"fixedrange": True, "title": {"text": "seconds of an answer"}, "rangemode": "tozero"},
        "yaxis": {"fixedrange": True, "type": "category", "automargin": True},
        "legend": {**LEGEND, "traceorder": "normal"},
        "height": height,
    }
    slowest = max(rows, key=lambda row: sum(seconds or 0.0 for seconds in row.stages.values()))
    unknown = [
        f"{stage} of {arm(row.cell)}" for row in group.rows for stage, took in row.stages.items() if took is None
    ]
    told = f"{arm(slowest.cell)} takes longest, {sum(s or 0.0 for s in slowest.stages.values()):.3g} s"
    told += f". Unknown, and not drawn: {', '.join(unknown)}" if unknown else ""
    title = "Time of each stage (as Figure 3)"
    return Figure(
        f"stages-{number}", title, f"{told}. Times are under the load of the arm’s batch.", data, layout, height
    )


def lengths(group: Group, number: int) -> Figure | None:
    """Accuracy by tokens of guidance, for each strategy (Figure 4), beside both models alone; None: one length only."""
    known = [row for row in group.rows if row.cell.guidance_tokens is not None and row.accuracy is not None]
    if len({row.cell.guidance_tokens for row in known}) < 2:
        return None
    ends = [min(row.cell.guidance_tokens or 0 for row in known), max(row.cell.guidance_tokens or 0 for row in known)]
    lines = {
        _family(row.cell): sorted(
            (each for each in known if _family(each.cell) == _family(row.cell)),
            key=lambda each: each.cell.guidance_tokens or 0,
        )
        for row in known
    }
    data = [
        _curve(name, [row.cell.guidance_tokens or 0 for row in rows], rows, COLOURS[rows[0].cell.strategy])
        for name, rows in lines.items()
    ]
    for row in group.rows:
        if row.cell.strategy in ("teacher", "student") and row.accuracy is not None:
            flat = [Point(end, row.accuracy) for end in ends]
            data.append(_line(f"{arm(row.cell)} alone", flat, COLOURS[row.cell.strategy], "dot"))
    layout = {
        "xaxis": {"fixedrange": True, "title": {"text": "tokens of guidance"}, "rangemode": "tozero"},
        "yaxis": {"fixedrange": True, "title": {"text": "accuracy"}, "tickformat": ".0%", "automargin": True},
        "legend": LEGEND,
        "height": TALL,
    }
    said = [f"{name} from {percent(rows[0].accuracy)} to {percent(rows[-1].accuracy)}" for name, rows in lines.items()]
    told = f"From {ends[0]} to {ends[1]} tokens: {'; '.join(said)}. Bars: 95 % intervals."
    return Figure(f"lengths-{number}", "Length of the guidance (as Figure 4)", told, data, layout, TALL)


def exemplars(groups: Sequence[Group], number: int) -> Figure | None:
    """Accuracy by solved examples before the question (Figure 5); None: they were not varied."""
    found: dict[str, list[Row]] = {}
    for group in sorted(groups, key=lambda each: each.exemplars):
        for row in group.rows:
            if row.accuracy is not None:
                found.setdefault(arm(row.cell), []).append(row)
    varied = {name: rows for name, rows in found.items() if len(rows) > 1}
    if not varied:
        return None
    data = [
        _curve(name, [row.cell.exemplars for row in rows], rows, COLOURS[rows[0].cell.strategy])
        for name, rows in varied.items()
    ]
    layout = {
        "xaxis": {"fixedrange": True, "title": {"text": "exemplars"}, "rangemode": "tozero"},
        "yaxis": {"fixedrange": True, "title": {"text": "accuracy"}, "tickformat": ".0%", "automargin": True},
        "legend": LEGEND,
        "height": TALL,
    }
    said = [f"{name} from {percent(rows[0].accuracy)} to {percent(rows[-1].accuracy)}" for name, rows in varied.items()]
    told = f"From the fewest to the most: {'; '.join(said)}. Bars: 95 % intervals."
    return Figure(f"exemplars-{number}", "Number of exemplars (as Figure 5)", told, data, layout, TALL)


def _place(stage: str) -> tuple[int, str]:
    known = list(STAGES)
    return (known.index(stage) if stage in known else len(known), stage)


def _family(cell: Cell) -> str:
    return cell.strategy if cell.concurrency == 1 else f"{cell.strategy}, batch {cell.concurrency}"


def _curve(name: str, at: Sequence[int], rows: Sequence[Row], colour: str) -> dict[str, Any]:
    values = [row.accuracy or 0.0 for row in rows]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escaped(name),
        "x": list(at),
        "y": values,
        "error_y": _bars(values, [row.accuracy_interval for row in rows]),
        "hovertemplate": f"{escaped(name)}<br>%{{x}}: %{{y:.1%}}<extra></extra>",
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 7},
    }


def _bars(values: Sequence[float], ends: Sequence[Interval | None]) -> dict[str, Any]:
    told = list(zip(values, ends, strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": [None if each is None else each.high - value for value, each in told],
        "arrayminus": [None if each is None else value - each.low for value, each in told],
        "color": "--muted",
        "thickness": 1,
    }


def _line(name: str, corners: Sequence[Point], colour: str, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": escaped(name),
        "x": [point.cost for point in corners],
        "y": [point.accuracy for point in corners],
        "hoverinfo": "skip",
        "line": {"color": colour, "width": 2, "dash": dash},
    }


def _hover(row: Row, point: Point) -> str:
    lift = "" if row.lift is None else f"<br>{row.lift * 100:+.1f} points to random mixing"
    return f"{escaped(arm(row.cell))}<br>accuracy {percent(point.accuracy)}, cost {percent(point.cost)}{lift}"
