"""`gkt eval` and `gkt calibrate`, added to the gateway's commands: this module's `app` is the whole program `gkt`."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from gateway import telemetry
from gateway.cli import app, show
from gateway.cli.group import Commands, ConfigFile, Since, Trouble, Until, moment
from gateway.config import Config
from gateway.errors import ConfigError
from pricing.money import Money

if TYPE_CHECKING:
    from evals.calibrate import Goal

__all__ = ["app"]

evals = typer.Typer(name="eval", cls=Commands, help="What policies keep of the accuracy, and what they cost.")
app.add_typer(evals, name="eval", rich_help_panel=None)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A workload: workload.yaml and JSON lines of answers.")]

DEFAULTS = ("rho=0.98", "rho=0.95")
HELP_EXEMPLARS = "JSON lines of exemplars instead of our own, of one task or of all; repeat it."
CONFIDENCE = 0.5
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
    from evals import report, tables
    from evals.recorded import Workload

    wanted = [_target(each, confidence) for each in target or DEFAULTS]
    workload = Workload.load(folder)
    out = show.console(stderr=as_json)
    goals = [goal for goal, _ in wanted]
    held = report.half(workload, goals)
    with show.working(out, f"{splits} splits, rho {', '.join(f'{goal.retention:g}' for goal in goals)}"):
        over = report.splits(workload, goals, splits)
    missed = [each for each, (_, most) in zip(over, wanted, strict=True) if each.misses(most)]
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
        tables.half(out, held)
        tables.splits(out, over, [most for _, most in wanted])
    if target and missed:
        raise Trouble("missed: " + ", ".join(f"rho={each.goal.retention:g}" for each in missed))


@evals.command("run")
def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where results go; a run that is there goes on.")],
    task: Annotated[
        list[str], typer.Option(metavar="NAME=FILE", help="gsm8k, csqa, math, choices, code or own; repeat it.")
    ],
    strategy: Annotated[
        list[str],
        typer.Option(help="teacher, teacher-concise, student, cut-off, concise, hint, cascade or cut-text; repeat."),
    ],
    tokens: Annotated[list[int] | None, typer.Option(help="Tokens of guidance; repeat it.")] = None,
    teacher: Annotated[list[str] | None, typer.Option(help="Upstreams that teach; repeat it.")] = None,
    student: Annotated[list[str] | None, typer.Option(help="Upstreams that learn; repeat it.")] = None,
    shots: Annotated[list[int] | None, typer.Option(help="Exemplars before the question; repeat it.")] = None,
    student_shots: Annotated[
        int,
        typer.Option(min=0, help="Exemplars that a base student alone reads (base: true), where the task has them."),
    ] = 0,
    exemplars: Annotated[list[str] | None, typer.Option(metavar="[NAME=]FILE", help=HELP_EXEMPLARS)] = None,
    model: Annotated[str, typer.Option(help="The route that is asked, with overrides.")] = "gkt",
    cascade: Annotated[str | None, typer.Option(metavar="MODEL", help="The route of strategy cascade.")] = None,
    judge: Annotated[str | None, typer.Option(metavar="MODEL", help="The model that judges open answers.")] = None,
    judge_tokens: Annotated[int, typer.Option(min=1, help="What it may write; it may think before its word.")] = 1024,
    run_code: Annotated[bool, typer.Option("--run-code", help="Run programs that models wrote, in a sandbox.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each task, drawn by the seed.")] = None,
    samples: Annotated[int, typer.Option(min=1, max=100, help="Answers to each question.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")] = 400,
    seed: Annotated[int, typer.Option(help="Draws the questions and seeds the models.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Questions under way at once.")] = 8,
    budget: Annotated[float | None, typer.Option(metavar="USD", help="The most that the run may cost.")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="After so long no question is begun.")] = None,
    url: Annotated[
        str | None, typer.Option(help="A gateway or another server; else a gateway is opened in this process.")
    ] = None,
    key_env: Annotated[str, typer.Option(help="The environment variable with its key.")] = "GKT_API_KEY",
    config: Annotated[Path | None, typer.Option(help="What it is configured with; for other servers, prices.")] = None,
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
        student_shots=student_shots,
        model=model,
        routes={} if cascade is None else {"cascade": cascade},
        judge=judge,
        judge_tokens=judge_tokens,
        run_code=run_code,
    )
    grid = run_command.Grid(strategy, tokens or [], teacher or [], student or [], shots or [0], concurrency)

    def agreed(most: Money | None) -> bool:
        out.print(Text("what it can cost is not known" if most is None else f"at most {most}"))
        if yes or (most is not None and not most):
            return True
        return typer.confirm("Go on?", err=True)

    async def all_() -> Ended | None:
        made = run_command.loaded(task, exemplars or [])
        cells = grid.cells([each.name for each in made])
        async with run_command.asking(url, key_env, config) as asker:
            return await run_command.execute(made, cells, folder, options, asker=asker, out=out, agreed=agreed)

    try:
        ended = asyncio.run(all_())
    except ConfigError as error:
        raise Trouble(str(error)) from error
    if ended is None:
        raise Trouble("nothing was asked")
    if ended.missing:
        raise Trouble(f"{ended.missing} answers are missing: {ended.why or 'not judged'}; the same command goes on")
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


@evals.command("workload")
def workload(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run: run.json and results.jsonl.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the workload goes.")],
    task: Annotated[str | None, typer.Option(metavar="NAME", help="Which task, where the run has several.")] = None,
    teacher: Annotated[str | None, typer.Option(metavar="NAME", help="Which teacher, where it has several.")] = None,
) -> None:
    """Write a run's answers as recorded outcomes, which `gkt calibrate` and `gkt eval replay` read.

    The teacher's whole answers, every student's own, and those that students gave from the teacher's first words.
    """
    from evals import outcomes

    made = outcomes.workload(folder, task, teacher, out)
    guided = ", ".join(f"{each.student} from {each.tokens} tokens" for each in made.guided) or "none"
    typer.echo(f"{out}: teacher {made.teacher}; students {', '.join(made.students)}; guided: {guided}")


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
    recorded: Annotated[
        bool, typer.Option("--recorded", help="ChatGPT's recorded answers teach, as with --quick and no --config.")
    ] = False,
    data: Annotated[Path, typer.Option(metavar="DIR", help="The questions, and ChatGPT's recorded answers.")] = Path(
        "../shared/data"
    ),
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run; it goes on where it was. Else paper, or paper-quick.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Name of an upstream; else the route's.")] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="Name of an upstream; else the route's. Of recorded answers: smollm2, the default, or gemma."
        ),
    ] = None,
    route: Annotated[str, typer.Option(help="The route that is asked; its sampling holds.")] = "gkt",
    questions: Annotated[int | None, typer.Option(min=1, help="Of each task, at most; else all, or what fits.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Time that all of it must fit into; --quick: 10.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=256, help="Questions at once; --quick: 4, --recorded: 8, else 24.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="The most tokens of an answer; --quick and recorded: 320, else 400.")
    ] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="Dollars that are not passed.")] = None,
    exemplars: Annotated[list[str] | None, typer.Option(metavar="[NAME=]FILE", help=HELP_EXEMPLARS)] = None,
    seed: Annotated[int, typer.Option(help="Draws the questions, and samples.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before money is spent.")] = False,
    config: ConfigFile = None,
) -> None:
    """Run the paper's grid on GSM8K and CommonsenseQA: cut-off, concise and hint, budgets and exemplars.

    On the configured teacher and student; with --recorded, or --quick and no --config, ChatGPT's recorded answers are
    the teacher and an embedded model is the student. Ends with the tables, and DIR/report.html. See docs/reports.md.
    """
    began = time.monotonic()
    if recorded and config is not None:
        raise typer.BadParameter("ChatGPT's recorded answers need no --config; one may have a replay of its own")
    from evals import paper_command, results, sheets, summary
    from evals.page import page

    telemetry.configure(level=logging.WARNING)
    plan, made = paper_command.planned(
        Path(("paper-quick" if quick else "paper") if out is None else out),
        data,
        None if recorded or (config is None and quick) else Config.load(config),
        quick=quick,
        route=route,
        teacher=teacher,
        student=student,
        batch=batch,
        questions=questions,
        minutes=minutes,
        budget=None if budget is None else Money.usd(str(budget)),
        seed=seed,
        max_tokens=max_tokens,
        began=began,
        exemplars=exemplars or [],
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
        missing = f"{ended.missing:,} answers are missing: {ended.why or 'not judged'}; the same command goes on"
        if plan.seconds is None:
            raise Trouble(missing)
        typer.echo(missing, err=True)


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


if __name__ == "__main__":
    app(prog_name="gkt")
