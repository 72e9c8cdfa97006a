"""`gkt eval paper`: what the command line says becomes the plan of a grid, and a run of it with a bar."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from evals.paper import Plan, configured, embedded, estimate, loaded, needed, play, replayed, shapes
from evals.runner import Ended
from evals.tasks import Task
from gateway.config import Config
from pricing.money import Money

BATCH = 24
"""Questions at once, as the paper has them; fewer for the embedded student."""
QUICK_BATCH = 4
QUICK_MINUTES = 10.0


def planned(
    folder: Path,
    data: Path,
    config: Config | None,
    *,
    quick: bool,
    route: str,
    teacher: str | None,
    student: str | None,
    batch: int | None,
    questions: int | None,
    minutes: float | None,
    budget: Money | None,
    seed: int,
) -> tuple[Plan, list[Task]]:
    """The plan, and the tasks with the questions that it is for. Without a `config`, the teacher is recorded.

    ConfigError: files are missing, or models.
    """
    wide = batch or (QUICK_BATCH if quick else BATCH)
    if config is None:
        varied = shapes(recorded=True, hurried=quick)
        needed(data, varied, recorded=True)
        models, made = replayed(data, folder, loaded(data, varied), batch=wide, student=embedded(wide))
    else:
        models = configured(config, route, teacher, student)
        varied = shapes(recorded=models.recorded, hurried=quick)
        needed(data, varied, recorded=False)
        made = loaded(data, varied)
    seconds = (minutes or (QUICK_MINUTES if quick else 0)) * 60 or None
    return Plan(models, varied, folder, wide, questions, seconds, budget, seed), made


def execute(plan: Plan, made: list[Task], out: Console, *, agreed: Callable[[], bool]) -> Ended | None:
    """Run it, with a bar for each cell; None: money would be spent, and that was not agreed to. ConfigError."""
    if not plan.models.recorded:
        most = asyncio.run(estimate(plan, made))
        out.print(Text("what it can cost is not known" if most is None else f"at most {most}"))
        if (most is None or most) and not agreed():
            return None
    bars: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal) as shown:

        def progress(cell: str, done: int, whole: int) -> None:
            if cell not in bars:
                bars[cell] = shown.add_task(cell, total=whole)
            shown.update(bars[cell], completed=done, total=whole)

        return asyncio.run(play(plan, made, progress=progress))
