"""`gkt eval paper`: what the command line says becomes the plan of a grid, and a run of it with a bar."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from evals.paper import STUDENTS, Plan, configured, embedded, loaded, needed, play, replayed, shapes
from evals.runner import MAX_TOKENS as USUAL_TOKENS
from evals.runner import Ended
from evals.tasks import Task, files_of
from gateway.config import Config
from gateway.errors import ConfigError
from pricing.money import Money

BATCH = 24
"""Questions at once, as the paper has them; fewer for an embedded student."""
RECORDED_BATCH = 8
QUICK_BATCH = 4
QUICK_MINUTES = 10.0
MAX_TOKENS = 320
"""Of an answer, for a recorded teacher or in a hurry. Of ChatGPT's recorded answers 1.5 % (GSM8K) and 0.2 % are longer;
a small student that loses its way would write on to whatever limit there is."""


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
    max_tokens: int | None = None,
    began: float | None = None,
    exemplars: Sequence[str] = (),
) -> tuple[Plan, list[Task]]:
    """The plan, and the tasks with the questions that it is for. `began`: when its time did (`evals.paper.Plan`).

    Without a `config` the teacher is recorded, and the student one of `evals.paper.STUDENTS`. `exemplars` name files of
    them, as `evals.tasks.files_of` has it.

    ConfigError: files are missing, or models.
    """
    wide = batch or (QUICK_BATCH if quick else RECORDED_BATCH if config is None else BATCH)
    if config is None:
        if teacher is not None:
            raise ConfigError(
                "--teacher names an upstream, so it needs --config; ChatGPT's recorded answers teach here"
            )
        varied = shapes(recorded=True, hurried=quick)
        needed(data, varied, recorded=True)
        learns = embedded(wide, student or STUDENTS[0])
        models, made = replayed(
            data, folder, loaded(data, varied, files_of(exemplars, [*varied])), batch=wide, student=learns
        )
    else:
        models = configured(config, route, teacher, student)
        varied = shapes(recorded=models.recorded, hurried=quick)
        needed(data, varied, recorded=False)
        made = loaded(data, varied, files_of(exemplars, [*varied]))
    seconds = (minutes or (QUICK_MINUTES if quick else 0)) * 60 or None
    longest = max_tokens or (MAX_TOKENS if quick or models.recorded else USUAL_TOKENS)
    return Plan(models, varied, folder, wide, questions, seconds, budget, seed, longest, began), made


def execute(plan: Plan, made: list[Task], out: Console, *, agreed: Callable[[], bool]) -> Ended | None:
    """Run it, with a bar for each cell; None: money would be spent, and that was not agreed to. ConfigError."""
    bars: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal) as shown:

        def progress(cell: str, done: int, whole: int) -> None:
            if cell not in bars:
                bars[cell] = shown.add_task(cell, total=whole)
            shown.update(bars[cell], completed=done, total=whole)

        def asked(most: Money | None, what: str) -> bool:
            shown.stop()  # its bars would write over the question
            out.print(Text(f"{what}: {'what it can cost is not known' if most is None else f'at most {most}'}"))
            said = most == Money.ZERO or agreed()
            shown.start()
            return said

        return asyncio.run(play(plan, made, progress=progress, agreed=asked))
