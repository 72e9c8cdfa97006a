"""`gkt eval run`: what the command line says becomes tasks, cells and options, and a run."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import cast, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evals import tasks
from evals.asking import Asker, in_process, is_plain, shown
from evals.prices import listed
from evals.quotes import Quotes
from evals.requests import ALONE
from evals.results import Cell, Strategy
from evals.runner import Ended, Options, most, run
from evals.tasks import Task
from gateway.config import Config
from gateway.errors import ConfigError
from pricing.money import Money

GUIDED = frozenset({"cut-off", "concise", "hint"})
REWORDED = frozenset({"concise", "hint", "teacher-concise"})
"""What asks the teacher otherwise than the task does."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What is crossed with what. Names of teachers and students are those of upstreams."""

    strategies: Sequence[str]
    tokens: Sequence[int]
    teachers: Sequence[str]
    students: Sequence[str]
    shots: Sequence[int]
    concurrency: int

    def cells(self, names: Sequence[str]) -> list[Cell]:
        """The cells of all tasks in `names`; each once. ConfigError: a strategy lacks a model, or there is no such."""
        found: dict[str, Cell] = {}
        for task, strategy, shots in product(names, self.strategies, self.shots):
            if strategy not in get_args(Strategy):
                raise ConfigError(f"no strategy {strategy!r}; there are: {', '.join(get_args(Strategy))}")
            tokens = self.tokens if strategy in GUIDED or strategy == "cut-text" else (None,)
            teachers = self.teachers if strategy in GUIDED | ALONE else (None,)
            students = self.students if strategy in GUIDED or strategy == "student" else (None,)
            if not (tokens and teachers and students):
                raise ConfigError(f"strategy {strategy!r} needs a --teacher, a --student or --tokens that is missing")
            for budget, teacher, student in product(tokens, teachers, students):
                cell = Cell(task, cast("Strategy", strategy), budget, teacher, student, shots, self.concurrency)
                found[cell.name] = cell
        return list(found.values())


def loaded(wanted: Sequence[str], exemplars: Sequence[str]) -> list[Task]:
    """Tasks of texts like `gsm8k=FILE` or `gsm8k=hub:DATASET[@CONFIG]:SPLIT`; `exemplars` as `tasks.files_of` has it.

    ConfigError.
    """
    made, shown = [], tasks.files_of(exemplars, [text.partition("=")[0] for text in wanted])
    for text in wanted:
        name, _, where = text.partition("=")
        if not where:
            raise ConfigError(f"{text!r} is not like gsm8k=FILE")
        if where.startswith("hub:"):
            dataset, _, split = where.removeprefix("hub:").rpartition(":")
            dataset, _, config = dataset.partition("@")
            made.append(tasks.from_hub(name, dataset, config or None, split, shown.get(name)))
        else:
            made.append(tasks.load(name, Path(where), shown.get(name)))
    if len({task.name for task in made}) < len(made):
        raise ConfigError("a task is named twice")
    return made


@asynccontextmanager
async def asking(url: str | None, key_env: str, config: Path | None) -> AsyncGenerator[Asker, None]:
    """The server at `url`, asked with the key in that variable; None: a gateway of `config`, in this process.

    Of a gateway at `url`, `config` says what it is configured with, and of any other server what its models charge.
    ConfigError.
    """
    if url is None:
        async with in_process(Config.load(config)) as asker:
            yield asker
        return
    key = os.environ.get(key_env, "none")
    plain, told = await is_plain(url, key), None if config is None else Config.load(config)
    quotes = Quotes(told, plain=plain) if plain or told is not None else None
    asker = Asker(url, key, config=None if plain else told, plain=plain, quotes=quotes, elsewhere=shown(url))
    try:
        yield asker
    finally:
        await asker.aclose()


async def execute(
    made: Sequence[Task],
    cells: Sequence[Cell],
    folder: Path,
    options: Options,
    *,
    asker: Asker,
    out: Console,
    agreed: Callable[[Money | None], bool],
) -> Ended | None:
    """Say what it can cost at most, ask whether to go on, and run with a bar; None: not agreed to. ConfigError."""
    _check_recorded(cells, asker)
    _check_plain(cells, asker)
    named = list(dict.fromkeys(name for cell in cells for name in (cell.teacher, cell.student) if name is not None))
    if asker.config is not None:
        options = replace(options, prices=listed(asker.config, named), notes=_notes(named, asker))
    elif asker.quotes is not None:
        options = replace(options, prices=asker.quotes.listed(named))
    bound = most(made, cells, asker, options)
    if not agreed(bound):
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal) as bar:
        shown = {cell.name: bar.add_task(cell.name, total=None) for cell in cells}

        def told(name: str, done: int, whole: int) -> None:
            bar.update(shown[name], completed=done, total=whole)

        return await run(folder.name, made, cells, folder, asker, options, progress=told)


def _check_recorded(cells: Sequence[Cell], asker: Asker) -> None:
    """ConfigError: a recorded teacher would be asked for what it did not say.

    It has one text for a question, whatever it is asked: it can be cut, and nothing else.
    """
    for cell in cells:
        if cell.teacher in asker.recorded and (cell.strategy in REWORDED or cell.exemplars):
            raise ConfigError(
                f"cell {cell.name}: {cell.teacher!r} plays back recorded answers, which were given to another prompt; "
                "leave out concise, hint, teacher-concise and --shots"
            )


def _check_plain(cells: Sequence[Cell], asker: Asker) -> None:
    """ConfigError: a server that is no gateway would be asked for what only a gateway does."""
    for cell in cells:
        if asker.plain and (cell.strategy in GUIDED or cell.strategy == "cascade"):
            raise ConfigError(
                f"cell {cell.name}: {asker.elsewhere} is not a gateway of this kind, and has no strategy "
                f"{cell.strategy!r}; models alone can be asked there, as teacher and student"
            )


def _notes(named: Sequence[str], asker: Asker) -> list[str]:
    replays = [name for name in dict.fromkeys(named) if name in asker.recorded]
    told = f"{', '.join(replays)}: recorded answers, played back; times that hold them are unknown."
    return [told] if replays else []
