"""`gkt eval` and `gkt calibrate`, added to the gateway's commands: this module's `app` is the whole program `gkt`."""

from __future__ import annotations

import asyncio
import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway import telemetry
from gateway.cli import app, show
from gateway.cli.group import Commands, ConfigFile, Trouble
from gateway.config import Config
from gateway.errors import ConfigError
from pricing.money import Money

if TYPE_CHECKING:
    from evals.calibrate import Goal
    from evals.report import Floor, Half, Splits

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


@evals.command("run")
def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where results go; a run that is there goes on.")],
    task: Annotated[list[str], typer.Option(metavar="NAME=FILE", help="gsm8k, csqa, math, choices or own; repeat it.")],
    strategy: Annotated[
        list[str], typer.Option(help="teacher, student, cut-off, concise, hint, cascade or cut-text; repeat it.")
    ],
    tokens: Annotated[list[int] | None, typer.Option(help="Tokens of guidance; repeat it.")] = None,
    teacher: Annotated[list[str] | None, typer.Option(help="Upstreams that teach; repeat it.")] = None,
    student: Annotated[list[str] | None, typer.Option(help="Upstreams that learn; repeat it.")] = None,
    shots: Annotated[list[int] | None, typer.Option(help="Exemplars before the question; repeat it.")] = None,
    exemplars: Annotated[Path | None, typer.Option(help="JSON lines of exemplars instead of our own.")] = None,
    model: Annotated[str, typer.Option(help="The route that is asked, with overrides.")] = "gkt",
    cascade: Annotated[str | None, typer.Option(metavar="MODEL", help="The route of strategy cascade.")] = None,
    judge: Annotated[str | None, typer.Option(metavar="MODEL", help="The model that judges open answers.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each task, drawn by the seed.")] = None,
    samples: Annotated[int, typer.Option(min=1, max=100, help="Answers to each question.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")] = 400,
    seed: Annotated[int, typer.Option(help="Draws the questions and seeds the models.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Questions under way at once.")] = 8,
    budget: Annotated[float | None, typer.Option(metavar="USD", help="The most that the run may cost.")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="After so long no question is begun.")] = None,
    url: Annotated[str | None, typer.Option(help="A gateway that runs; else one is opened in this process.")] = None,
    key_env: Annotated[str, typer.Option(help="The environment variable with its key.")] = "GKT_API_KEY",
    config: Annotated[Path | None, typer.Option(help="The configuration of the one in this process.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before money is spent.")] = False,
) -> None:
    """Ask a grid of strategies the questions of tasks, score the answers, and write down what each cost and took.

    Says first what the run can cost at most. Every answer is on disk when it is there: the same command again asks what
    is missing, failed requests included. Exit status 1 when something is missing at the end. See docs/evaluation.md.
    """
    from evals import run_command
    from evals.runner import Ended, Options

    telemetry.configure(level=logging.WARNING)
    out = show.console(stderr=True)
    options = Options(
        seed=seed,
        limit=limit,
        samples=samples,
        max_tokens=max_tokens,
        budget=None if budget is None else Money.usd(str(budget)),
        seconds=seconds,
        model=model,
        routes={} if cascade is None else {"cascade": cascade},
    )
    grid = run_command.Grid(strategy, tokens or [], teacher or [], student or [], shots or [0], concurrency)

    def agreed(most: Money | None) -> bool:
        out.print(Text("what it can cost is not known" if most is None else f"at most {most}"))
        if yes or (most is not None and not most):
            return True
        return typer.confirm("Go on?", err=True)

    async def all_() -> Ended | None:
        made = run_command.loaded(task, exemplars)
        cells = grid.cells([each.name for each in made])
        async with run_command.asking(url, key_env, config) as asker:
            return await run_command.execute(
                made, cells, folder, options, asker=asker, judge=judge, out=out, agreed=agreed
            )

    try:
        ended = asyncio.run(all_())
    except ConfigError as error:
        raise Trouble(str(error)) from error
    if ended is None:
        raise Trouble("nothing was asked")
    if ended.missing:
        raise Trouble(
            f"{ended.missing} answers are missing: {ended.why or 'requests failed'}; the same command goes on"
        )
    typer.echo(f"{folder}: all answers are there; gkt eval report {folder}")


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


@evals.command("report")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run: run.json and results.jsonl.")],
    form: Annotated[
        Literal["terminal", "markdown", "json", "html"],
        typer.Option(
            "--format", help="html: one file with pictures and conversations, which asks nobody for anything."
        ),
    ] = "terminal",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where it goes; for html, DIR/report.html unless told otherwise."),
    ] = None,
) -> None:
    """Show what the cells of a run kept of the teacher's accuracy, what they cost, and how long they took.

    Of a run that is not over it tells what there is. Unknown is said to be unknown. See docs/reports.md.
    """
    from evals import results, sheets, summary
    from evals.page import page

    run, lines = results.read(folder)
    found = summary.summarise(run, lines)
    if form == "terminal" and out is None:
        sheets.show(found, show.console())
        return
    if form == "html":
        text, out = page(found, lines), out or folder / "report.html"
    elif form == "json":
        text = json.dumps(summary.told(found), indent=2) + "\n"
    elif form == "markdown":
        text = sheets.markdown(found)
    else:
        text = sheets.plain(found)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, "utf-8")
        typer.echo(str(out))


@evals.command("paper")
def paper(
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Fewer cells, in ten minutes; without --config on ChatGPT's recorded answers."),
    ] = False,
    data: Annotated[Path, typer.Option(metavar="DIR", help="The questions, and ChatGPT's recorded answers.")] = Path(
        "../shared/data"
    ),
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run; it goes on where it was. Else paper, or paper-quick.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Name of an upstream; else the route's.")] = None,
    student: Annotated[str | None, typer.Option(help="Name of an upstream; else the route's.")] = None,
    route: Annotated[str, typer.Option(help="The route that is asked; its sampling holds.")] = "gkt",
    questions: Annotated[int | None, typer.Option(min=1, help="Of each task, at most; else all, or what fits.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Time that questions must fit into; --quick: 10.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=256, help="Questions at once; --quick: 4, else 24.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="Dollars that are not passed.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the questions, and samples.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before money is spent.")] = False,
    config: ConfigFile = None,
) -> None:
    """Run the paper's grid on GSM8K and CommonsenseQA: cut-off, concise and hint, budgets and exemplars.

    On the configured teacher and student; with --quick and no --config, ChatGPT's recorded answers are the teacher and
    the embedded model is the student. Ends with the tables, and DIR/report.html. See docs/reports.md.
    """
    from evals import paper_command, results, sheets, summary
    from evals.page import page

    telemetry.configure(level=logging.WARNING)
    plan, made = paper_command.planned(
        Path(("paper-quick" if quick else "paper") if out is None else out),
        data,
        None if config is None and quick else Config.load(config),
        quick=quick,
        route=route,
        teacher=teacher,
        student=student,
        batch=batch,
        questions=questions,
        minutes=minutes,
        budget=None if budget is None else Money.usd(str(budget)),
        seed=seed,
    )
    ended = paper_command.execute(plan, made, show.console(stderr=True), agreed=lambda: yes or typer.confirm("Go on?"))
    if ended is None:
        raise Trouble("nothing was asked")
    found, lines = results.read(plan.folder)
    told = summary.summarise(found, lines)
    file = plan.folder / "report.html"
    file.write_text(page(told, lines), "utf-8")
    sheets.show(told, show.console())
    typer.echo(str(file))
    if ended.missing:
        missing = f"{ended.missing:,} answers are missing: {ended.why or 'requests failed'}; the same command goes on"
        if plan.seconds is None:
            raise Trouble(missing)
        typer.echo(missing, err=True)


@app.command("calibrate")
def calibrate(
    folder: Folder,
    retention: Annotated[float, typer.Option(min=0.01, max=1.0, help="Retention to keep.")] = 0.98,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help=HELP_CONFIDENCE)] = 0.95,
    labels: Annotated[
        Literal["correct", "teacher"],
        typer.Option(help="What is right: what the file says, or whatever the teacher answered."),
    ] = "correct",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the policy goes, instead of the output.")
    ] = None,
) -> None:
    """Find the cheapest cascade whose retention can be vouched for, and write it as a policy file.

    Sees the calibration half of the workload alone; the held half then checks it, and what it said stands in the
    evidence. Exit status 1, and no file, when the data cannot support the claim: the message says how much would.
    """
    _needs_numpy()
    from evals import calibrate as calibration
    from evals.recorded import Workload
    from evals.replay import play, totals
    from pricing import tradeoff

    workload = Workload.load(folder)
    if labels == "teacher":
        workload = workload.by_agreement()
    seen, held = workload.halves()
    try:
        policy = calibration.calibrate(seen, workload.manifest, calibration.Goal(retention, confidence))
    except calibration.Unsupported as error:
        raise Trouble(str(error)) from error
    scores, costs = totals(play(policy, workload.manifest, question) for question in held)
    teacher = [question.arms[workload.manifest.teacher] for question in held]
    found = tradeoff.compare(scores, costs, [arm.score for arm in teacher], [arm.cost for arm in teacher])
    check = {
        "questions": len(held),
        "retention": _told(found.retention),
        "retention_interval": [_told(end) for end in found.retention_interval or ()],
        "cost_share": _told(found.cost_share),
    }
    text = policy.model_copy(update={"evidence": {**policy.evidence, "labels": labels, "held": check}}).dump()
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, "utf-8")
        typer.echo(f"{out}: retention {check['retention']}, cost share {check['cost_share']} on the held half")


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
    floors = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    floors.add_column("kappa at the same rho", overflow="fold")
    for name in ("rho", "random mixing", "oracle", "gap closed"):
        floors.add_column(name, justify="right", no_wrap=True)
    for arm, floor in held.floors.items():
        floors.add_row(Text(arm), *_floor(floor))
    out.print(floors)
    for arm, why in held.refused.items():
        out.print(Text(f"{arm}: refused: {why}"))


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
