"""Results: what an evaluation wrote down, one line a question and cell; runs make them, reports read them.

A run is a directory: `run.json` (see `Run`) and `results.jsonl` (see `Result`), appended to as answers come, so that a
run that was killed goes on where it stopped and pays for nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.chat import Seat
from gateway.errors import ConfigError

RUN = "run.json"
RESULTS = "results.jsonl"

Strategy = Literal["teacher", "student", "cut-off", "concise", "hint", "cascade", "cut-text", "teacher-concise"]
"""How a cell answers: a strategy of the gateway; `cut-text` is the teacher's first words alone, with no student, and
`teacher-concise` its whole answer, asked for as briefly as `concise` asks for guidance."""


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One point of the grid. None: the strategy has no such part; `exemplars`: solved questions before the own one."""

    task: str
    strategy: Strategy
    guidance_tokens: int | None = None
    teacher: str | None = None
    student: str | None = None
    exemplars: int = 0
    concurrency: int = 1

    @property
    def name(self) -> str:
        """Its name in files and tables, unlike that of any other cell."""
        parts = [self.task, self.strategy]
        if self.guidance_tokens is not None:
            parts.append(f"g{self.guidance_tokens}")
        parts += [part for part in (self.teacher, self.student) if part is not None]
        return "/".join([*parts, f"{self.exemplars}shot", f"x{self.concurrency}"])


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One call to one model. Tokens, seconds since the request began, nano-dollars; None: unknown."""

    stage: str
    seat: Seat
    model: str
    input_tokens: int | None
    output_tokens: int | None
    cost: int | None
    started: float | None
    seconds: float | None


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One answer of one cell to one question of its task.

    `item` is the question's id in the task, `sample` counts repeated draws. `prompt` is the conversation as it was
    asked, `guidance` what the teacher wrote before the student (it is the beginning of `answer`, except for a hint).
    `found` is the final answer that was read from `answer`, None where there was none. `score` is 0 to 1; None: it
    could not be scored, and `unscored` says why (a failed call, an unreadable judge). `cost` and `baseline` are
    nano-dollars, None where a price is unknown; `baseline` is what the gateway says the teacher alone would have cost.
    `seconds` is the whole request's, `first_token` until its first word. `error` is the code of a failed request,
    `most` the most that it can have cost, where `cost` is not known. `unjudged`: it was not scored yet, and can be
    without being asked again.
    """

    cell: str
    item: str
    sample: int
    prompt: list[dict[str, Any]]
    reference: str | None
    answer: str
    guidance: str
    found: str | None
    score: float | None
    unscored: str | None
    stages: list[Stage]
    input_tokens: int | None
    output_tokens: int | None
    cost: int | None
    baseline: int | None
    seconds: float | None
    first_token: float | None
    why: str | None
    error: str | None
    most: int | None = None
    unjudged: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        """What there is one result of."""
        return self.cell, self.item, self.sample


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`run.json`: what was asked for, so that a resumed run can prove that it is the same one.

    `tasks` says of each task's name its file's SHA-256, its scorer and its number of questions; `prices` of each model
    dollars per million tokens in and out, as texts; `notes` are for the reader: dates, machine, what was replayed.
    `settings` are what else decides answers (`evals.folder`); empty where an earlier version did not write them down.
    """

    name: str
    created: float
    seed: int
    version: str
    cells: list[Cell]
    tasks: dict[str, dict[str, Any]]
    prices: dict[str, dict[str, str]]
    notes: list[str]
    settings: dict[str, Any] = {}


def read(folder: Path) -> tuple[Run, list[Result]]:
    """A run and its results, in the order of the file. A torn last line, of a run that was killed, is left out.

    So are answers that were written before they were judged, where they were judged later: they were paid once.
    ConfigError: there is no run, or a line is not in the format.
    """
    try:
        run = msgspec.json.decode((folder / RUN).read_bytes(), type=Run)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}; a run is a directory with a {RUN}") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{folder / RUN}: {error}") from error
    results = list(_results(folder / RESULTS))
    last = {result.key: place for place, result in enumerate(results)}
    return run, [each for place, each in enumerate(results) if not each.unjudged or last[each.key] == place]


def by_cell(results: Iterable[Result]) -> Mapping[str, list[Result]]:
    """The results of each cell, by its name, in their order."""
    cells: dict[str, list[Result]] = {}
    for result in results:
        cells.setdefault(result.cell, []).append(result)
    return cells


def _results(path: Path) -> Iterator[Result]:
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(Result)
    whole = path.read_bytes().split(b"\n")[:-1]  # what does not end with a newline was not finished
    for number, line in enumerate(whole, 1):
        try:
            yield decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{path.name}:{number}: {error}") from error
