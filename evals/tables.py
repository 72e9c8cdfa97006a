"""Tables: what `gkt eval replay` found, at a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evals.report import Floor, Half, Row, Splits
from evals.sweep import Along, Curve
from gateway.cli import show


def half(out: Console, held: Half) -> None:
    """The arms on the held half, what they are beside the teacher, the curves, and the floors."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("held half", overflow="fold")
    for name in ("accuracy", "rho", "95 %", "kappa", "95 %", "teacher", "PGR", "lift", "lost/won", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in held.rows:
        found = row.comparison
        table.add_row(
            Text(row.arm),
            f"{row.accuracy:.3f}",
            _number(found.retention),
            _interval(found.retention_interval),
            _number(found.cost_share),
            _interval(found.cost_share_interval),
            show.percent(row.escalated),
            "-" if row.recovered is None else f"{row.recovered:.2f}",
            "-" if row.lift is None else f"{row.lift:+.3f}",
            f"{row.lost}/{row.won}",
            f"{row.p:.2g}",
        )
    out.print(table)
    beside = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    beside.add_column("beside the teacher", overflow="fold")
    for name in ("difference", "95 %", "no worse by 1 point", "a correct answer costs"):
        beside.add_column(name, justify="right", no_wrap=True)
    for row in held.rows:
        beside.add_row(Text(row.arm), *_beside(row))
    out.print(beside)
    floors = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    floors.add_column("kappa at the same rho", overflow="fold")
    for name in ("rho", "random mixing", "oracle", "gap closed"):
        floors.add_column(name, justify="right", no_wrap=True)
    for arm, floor in held.floors.items():
        floors.add_row(Text(arm), *_floor(floor))
    out.print(floors)
    if held.curves:
        curves = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        curves.add_column("at every worth", overflow="fold")
        for name in ("APGR", "CPT 0.5", "CPT 0.8", "APGR in $", "CPT 0.5", "CPT 0.8", "AIQ", "random mixing"):
            curves.add_column(name, justify="right", no_wrap=True)
        for arm, curve in held.curves.items():
            curves.add_row(Text(arm), *_curve(curve))
        out.print(curves)
    for arm, why in held.refused.items():
        out.print(Text(f"{arm}: refused: {why}"))


def _beside(row: Row) -> list[str]:
    found, ends = row.beside, row.beside.interval
    holds = "yes" if found.holds else "not shown"
    cost = "-" if row.per_correct is None else f"${row.per_correct / 1e6:.3g}"
    return [f"{found.difference:+.3f}", f"{ends.low:+.3f} to {ends.high:+.3f}", holds, cost]


def _curve(curve: Curve) -> list[str]:
    return [*_along(curve.calls), *_along(curve.dollars), *(_share(each) for each in (curve.aiq, curve.aiq_random))]


def _along(along: Along | None) -> list[str]:
    return ["-"] * 3 if along is None else [_share(each) for each in along]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _floor(floor: Floor) -> list[str]:
    least = ["never" if share is None else f"{share:.3f}" for share in (floor.random, floor.oracle)]
    return [_number(floor.retention), *least, "-" if floor.closed is None else show.percent(floor.closed)]


def splits(out: Console, over: list[Splits], most: list[float | None]) -> None:
    """The means over splits; `most` is the cost share that each goal may take, None: any."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("means over splits", overflow="fold", min_width=16)
    for name in ("splits", "rho", "sd", "kappa", "sd", "random", "oracle", "promised", "at rho", "refused", "target"):
        table.add_column(name, justify="right", no_wrap=True)
    for each, limit in zip(over, most, strict=True):
        asked = "" if limit is None else f"kappa {limit:g}: "
        table.add_row(
            Text(f"rho {each.goal.retention:g} at {each.goal.confidence:g}"),
            str(each.count),
            f"{each.retention:.4f}",
            f"{each.retention_sd:.4f}",
            f"{each.share:.4f}",
            f"{each.share_sd:.4f}",
            _share(each.random),
            _share(each.oracle),
            "-" if each.promised is None else f"{each.promised:.4f}",
            show.percent(each.reached),
            str(each.refused),
            Text(f"{asked}{'missed' if each.misses(limit) else 'reached'}"),
        )
    if over:
        rho, kappa = over[0].gate
        table.add_row(Text("simple gate"), str(over[0].count), f"{rho:.4f}", "", f"{kappa:.4f}", *[""] * 7)
    out.print(table)


def _number(value: float | None) -> str:
    return show.UNKNOWN if value is None else f"{value:.3f}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.3f}-{ends[1]:.3f}"
