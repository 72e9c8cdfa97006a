"""`gkt eval` and `gkt calibrate`, added to the gateway's commands: this module's `app` is the whole program `gkt`."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.cli import app, show
from gateway.cli.group import Commands, ConfigFile, Since, Trouble, Until, moment
from gateway.config import Config

if TYPE_CHECKING:
    from evals.calibrate import Goal
    from evals.report import Floor, Half, Row, Splits
    from evals.sweep import Along, Curve

__all__ = ["app"]

evals = typer.Typer(name="eval", cls=Commands, help="What policies keep of the accuracy, and what they cost.")
app.add_typer(evals, name="eval", rich_help_panel=None)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A workload: workload.yaml and JSON lines of answers.")]

DEFAULTS = ("rho=0.98", "rho=0.95")
CONFIDENCE = 0.6
HELP_CONFIDENCE = "One-sided confidence of the retention's lower bound in the calibration half; 0.5: on average."


@evals.command("replay")
def replay(
    folder: Folder,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="rho=R[:kappa=K]", help="Retention to keep, and the cost share that it may take."),
    ] = None,
    splits: Annotated[int, typer.Option(min=2, max=1000, help="Random splits that the means are over.")] = 40,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help=HELP_CONFIDENCE)] = CONFIDENCE,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as one JSON object.")] = False,
) -> None:
    """Replay recorded answers through calibrated policies, and show what they keep and cost.

    Policies are calibrated on one half of the questions and judged on the other: once on the workload's own split, with
    intervals, and on random splits, of which the means are shown. A target is reached when the mean retention is at
    least R and the mean cost share at most K. Exit status 1 when one is missed. See docs/tradeoff.md.
    """
    _needs_numpy()
    from evals import report
    from evals.recorded import Workload

    wanted = [_target(each, confidence) for each in target or DEFAULTS]
    workload = Workload.load(folder)
    out = show.console(stderr=as_json)
    goals = [goal for goal, _ in wanted]
    held = report.half(workload, goals)
    over = []
    for goal in goals:
        with show.working(out, f"{splits} splits, rho {goal.retention:g}"):
            over.append(report.splits(workload, goal, splits))
    missed = [
        each
        for each, (goal, most) in zip(over, wanted, strict=True)
        if each.retention < goal.retention or (most is not None and each.share > most)
    ]
    if as_json:
        told = {"workload": workload.manifest.model_dump(mode="json"), **report.told(held, over)}
        typer.echo(json.dumps(told, indent=2))
    else:
        manifest = workload.manifest
        out.print(Text(f"{manifest.name}: {len(workload.questions):,} questions", style="bold"))
        left = f"left out: {workload.unscored} unscored, {workload.missing} not answered by all"
        for line in (manifest.recorded, f"tokens {manifest.tokens}" if manifest.tokens else None, left):
            if line:
                out.print(Text(f"  {line}"))
        _half(out, held)
        _splits(out, over, [most for _, most in wanted])
    if target and missed:
        raise Trouble("missed: " + ", ".join(f"rho={each.goal.retention:g}" for each in missed))


@evals.command("import")
def bring(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A directory with the published answers.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where a directory a workload is made.")],
) -> None:
    """Bring published answers (ZeroEval's to GSM8K and MATH level 5) into the format of recorded outcomes."""
    from evals.imports import SOURCES
    from evals.imports import bring as import_one

    for source in SOURCES:
        import_one(data, source, out / source.name)
        typer.echo(str(out / source.name))


@app.command("calibrate")
def calibrate(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A workload: workload.yaml and JSON lines of answers.")
    ] = None,
    ledger: Annotated[bool, typer.Option("--ledger", help="Take the route's shadowed requests instead.")] = False,
    route: Annotated[str | None, typer.Option(metavar="NAME", help="With --ledger: whose requests.")] = None,
    since: Since = None,
    until: Until = None,
    retention: Annotated[
        float | None,
        typer.Option(min=0.01, max=1.0, help="Retention to keep; else the route's target, else 0.98."),
    ] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help=HELP_CONFIDENCE)] = 0.95,
    labels: Annotated[
        Literal["correct", "teacher", "agreement", "feedback"] | None,
        typer.Option(
            help="What is right. Of DIR: what it says (correct, the default), or whatever the teacher answered. Of the "
            "ledger: whatever the teacher answered (agreement, the default), or what callers said (feedback)."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the policy goes, instead of the output; one that is there is kept beside it."
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Find the cheapest cascade whose retention can be vouched for, and write it as a policy file.

    Learns from a workload of recorded answers or, with --ledger, from what a route's cascade and its shadows were
    answered. Sees the calibration half alone; the held half then checks it, and what it said stands in the evidence.
    Exit status 1, and no file, when the data cannot support the claim: the message says how much would.
    """
    _needs_numpy()
    from evals import policies, traffic
    from evals.calibrate import Goal, Unsupported
    from evals.recorded import Workload

    if ledger != (folder is None) or ledger != (route is not None):
        raise typer.BadParameter("say either DIR, or --ledger and --route NAME")
    if folder is not None and (since or until):
        raise typer.BadParameter("a workload has no time: --since and --until are for --ledger")
    labels = labels or ("agreement" if ledger else "correct")
    if ledger != (labels in ("agreement", "feedback")):
        raise typer.BadParameter(f"{labels} is not for this source", param_hint="--labels")
    if folder is not None:
        workload, evidence = Workload.load(folder), {"labels": labels}
        workload = workload.by_agreement() if labels == "teacher" else workload
        much = None
    else:
        settings = Config.load(config)
        source = traffic.load(settings, str(route), moment("--since", since), moment("--until", until))
        workload, evidence = source.labelled("feedback" if labels == "feedback" else "agreement")
        target = settings.routes[str(route)].target
        retention = target.retention if retention is None and target is not None else retention
        much = source.requests
    try:
        policy = policies.made(workload, Goal(0.98 if retention is None else retention, confidence), evidence)
    except Unsupported as error:
        seen = len(workload.halves()[0])
        if much is None or error.needed is None or not seen:
            raise Trouble(str(error)) from error
        more = f"{much:,} requests brought these, so about {ceil(much * error.needed / seen):,} would do"
        raise Trouble(f"{error}; {more}") from error
    if out is None:
        typer.echo(policy.dump(), nl=False)
        return
    kept = policies.publish(policy, out, time.time())
    held = policy.evidence["held"]
    typer.echo(f"{out}: retention {held['retention']}, cost share {held['cost_share']} on the held half")
    if kept is not None:
        typer.echo(f"{kept}: the policy that was there before")


def _needs_numpy() -> None:
    if find_spec("numpy") is None:
        raise Trouble("this command needs numpy: pip install 'gkt-gateway[evals]'")


def _target(text: str, confidence: float) -> tuple[Goal, float | None]:
    from evals.calibrate import Goal

    try:
        said = {name: float(value) for name, _, value in (part.partition("=") for part in text.split(":"))}
        if not ({"rho"} <= said.keys() <= {"rho", "kappa"}):
            raise ValueError
        return Goal(said["rho"], confidence), said.get("kappa")
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not like rho=0.98:kappa=0.125", param_hint="--target") from error


def _half(out: Console, held: Half) -> None:
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


def _splits(out: Console, over: list[Splits], most: list[float | None]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("means over splits", overflow="fold")
    for name in ("splits", "rho", "sd", "kappa", "sd", "splits at rho", "refused", "target"):
        table.add_column(name, justify="right", no_wrap=True)
    for each, limit in zip(over, most, strict=True):
        reached = each.retention >= each.goal.retention and (limit is None or each.share <= limit)
        asked = f"rho {each.goal.retention:g}" + ("" if limit is None else f", kappa {limit:g}")
        table.add_row(
            Text(f"rho {each.goal.retention:g} at {each.goal.confidence:g}"),
            str(each.count),
            f"{each.retention:.4f}",
            f"{each.retention_sd:.4f}",
            f"{each.share:.4f}",
            f"{each.share_sd:.4f}",
            show.percent(each.reached),
            str(each.refused),
            Text(f"{asked}: {'reached' if reached else 'missed'}"),
        )
    out.print(table)


def _number(value: float | None) -> str:
    return show.UNKNOWN if value is None else f"{value:.3f}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.3f}-{ends[1]:.3f}"


def _told(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    app(prog_name="gkt")
