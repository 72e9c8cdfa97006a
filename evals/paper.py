"""The paper's grid on the configured teacher and student, or in ten minutes on a replayed ChatGPT and the embedded one.

How many questions the time allows is measured before the run, and written into its notes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evals import purse, runner, tasks
from evals.asking import Asker, in_process
from evals.grid import FULL, QUICK, RECORDED, Shape, cells
from evals.prices import listed
from evals.recording import only, record
from evals.results import RUN, Cell, read
from evals.runner import Ended, Options, Progress
from evals.tasks import Task
from gateway.config import Config, default_prices
from gateway.errors import ConfigError
from pricing.money import Money
from students import wheels
from students.errors import Unavailable
from students.spec import LlamaCppSpec, ReplaySpec

FILES: Mapping[str, str] = {"gsm8k": "gsm8k_test.jsonl", "csqa": "csqa_dev.jsonl"}
"""The questions of each task, in the data directory."""

CHATGPT = "gpt-3.5-turbo-0613"
RECORDINGS: Mapping[str, tuple[str, str]] = {
    "gsm8k": ("chatgpt_gsm8k.jsonl", "re2-vanilla-0shot"),
    "csqa": ("chatgpt_csqa.jsonl", "re2-cot-0shot"),
}
"""ChatGPT's answers, and which of its prompts: the reasoning one where the other answers in a word."""

TAPE = "chatgpt.jsonl"
STUDENTS = ("smollm2", "gemma")
"""The embedded ones: SmolLM2-135M-Instruct, and Gemma 3 270M, a base model, which is asked below exemplars."""

GEMMA = "gemma-3-270m"
PRICES: Mapping[str, Mapping[str, float]] = {GEMMA: {"input": 0.007, "output": 0.19}}
"""A guess like the default configuration's for SmolLM2: the same core at $0.04 an hour, of whose seconds Gemma took 2.4
times as many to write a token, and two thirds as many to read one."""

MEASURED = "measured"
"""The folder, in a run's, of the questions that the student's speed was measured on."""

FIRST = 8
"""Questions of each task on which it is."""

LEAST = 4
RESERVE = 20.0
"""Seconds that are kept for answers under way when the time is over; more where one was seen to take longer."""

CLOSING = 25.0
"""Seconds that are kept for closing the models and for the report, which take three or four on a machine at rest."""

MEASURING = 0.25
"""The part of the time after which no question begins that measures; half as much again, and those under way end."""

MARGIN = 0.85
"""What part of the time that is left is planned for: guided answers may take longer than those that were measured."""


HERE = frozenset({"llamacpp", "transformers", "replay"})
"""Kinds of upstreams that nobody is paid for: they run in this process, or were recorded."""

Agreed = Callable[[Money | None, str], bool]
"""Asked whether that may be spent, at most (None: unknown), and told for what."""


@dataclass(frozen=True, slots=True)
class Models:
    """The teacher and the student, by their names among the upstreams of `config`; requests name the route `route`."""

    config: Config
    teacher: str
    student: str
    route: str = "gkt"

    @property
    def recorded(self) -> bool:
        """True when the teacher is a recording."""
        return isinstance(self.config.upstreams[self.teacher], ReplaySpec)

    @property
    def paid(self) -> bool:
        """True when somebody may be paid: all but a recording that teaches a student which runs here."""
        return not self.recorded or self.config.upstreams[self.student].kind not in HERE

    @property
    def base(self) -> bool:
        """True when the student is known to be a base model, which goes on from nothing but exemplars."""
        spec = self.config.upstreams[self.student]
        return isinstance(spec, LlamaCppSpec) and spec.base


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, and where: `limit` questions of each task (None: all), in `seconds` (None: as long as it takes).

    These begin at `began`, of the monotonic clock (None: with the run), and hold the models' start, measuring and the
    report: questions that are under way `CLOSING` seconds before their end are given up. Where less than two seconds
    are left for questions, one measures and one asks all the same. `batch` questions are under way at once; `budget`
    bounds what the grid and the measuring before it cost, `max_tokens` each answer.
    """

    models: Models
    shapes: Mapping[str, Shape]
    folder: Path
    batch: int
    limit: int | None = None
    seconds: float | None = None
    budget: Money | None = None
    seed: int = 0
    max_tokens: int = runner.MAX_TOKENS
    began: float | None = None

    @property
    def cells(self) -> list[Cell]:
        """The whole grid."""
        models = self.models
        seats = models.teacher, models.student
        return cells(self.shapes, *seats, batch=self.batch, recorded=models.recorded, base=models.base)

    @property
    def student_shots(self) -> int:
        """Exemplars that the student alone reads: of a base model the paper's number, of another none."""
        return max(shots for shape in self.shapes.values() for shots in shape.shots) if self.models.base else 0


def needed(data: Path, shapes: Mapping[str, Shape], *, recorded: bool) -> None:
    """ConfigError, with all of their names, when files are not in the data directory."""
    names = [FILES[task] for task in shapes]
    names += [RECORDINGS[task][0] for task in shapes] if recorded else []
    missing = [name for name in names if not (data / name).is_file()]
    if missing:
        raise ConfigError(
            f"{data} lacks {', '.join(missing)}; the questions of GSM8K's test set and of CommonsenseQA's dev set, as "
            "JSON lines, and for --quick ChatGPT's recorded answers; --data DIR says where they are, docs/reports.md "
            "what is in them"
        )


def loaded(data: Path, shapes: Mapping[str, Shape], exemplars: Mapping[str, Path] | None = None) -> list[Task]:
    """The tasks, with all of their questions, and with files of exemplars where there are some. ConfigError."""
    return [tasks.load(name, data / FILES[name], (exemplars or {}).get(name)) for name in shapes]


def replayed(
    data: Path, folder: Path, made: Sequence[Task], *, batch: int, student: Mapping[str, Any]
) -> tuple[Models, list[Task]]:
    """ChatGPT's recorded answers as the teacher of `student` (an upstream's configuration), and what it answered.

    Writes the recording into the folder, where a resumed run finds it. ConfigError.
    """
    tape, answered = folder / TAPE, []
    text = ""
    for task in made:
        file, prompt = RECORDINGS[task.name]
        ids = record(task, data / file, tape, model=CHATGPT, prompt=prompt)
        text += tape.read_text("utf-8")
        answered.append(only(task, frozenset(ids)))
    tape.write_text(text, "utf-8")
    both = {"teacher": "chatgpt", "student": "student"}
    spec = {"kind": "replay", "model": CHATGPT, "file": str(tape), "vocabulary": "cl100k_base"}
    config = Config.parse(
        {
            "ledger": {"url": "sqlite://"},
            "upstreams": {"chatgpt": {**spec, "max_concurrent": batch}, "student": dict(student)},
            "prices": {**default_prices(), **PRICES},
            # The paper's sampling. ChatGPT was recorded greedily.
            "routes": {"gkt": {"strategy": "cut-off", "student_sampling": {"temperature": 0.8, "top_p": 0.9}, **both}},
        }
    )
    return Models(config, **both), answered


def configured(config: Config, route: str, teacher: str | None, student: str | None) -> Models:
    """The two models that are named, or that the route has. ConfigError where there is none, or it is no upstream."""
    if route not in config.routes:
        raise ConfigError(f"no route {route!r}; there are: {', '.join(config.routes)}")
    named = {
        "teacher": teacher or config.routes[route].teacher,
        "student": student or config.routes[route].student,
    }
    for seat, name in named.items():
        if name not in config.upstreams:
            raise ConfigError(f"the {seat} must be one of the upstreams: {', '.join(config.upstreams)}")
    return Models(config, str(named["teacher"]), str(named["student"]), route)


def embedded(batch: int, student: str = STUDENTS[0]) -> dict[str, Any]:
    """One of `STUDENTS`, answering `batch` questions at once. ConfigError: there is no such, or it is not installed."""
    if student not in STUDENTS:
        raise ConfigError(f"no embedded student {student!r}; there are: {', '.join(STUDENTS)}; others need --config")
    spec: dict[str, Any] = {"kind": "llamacpp", "slots": batch, "context": 2048, "max_concurrent": batch}
    try:
        if student == "gemma":
            # Its exemplars are read once for each place at the start, all at once: minutes on a core that others use.
            spec |= {"deadlines": {"first_token": 600.0}}
            return {**spec, "model": GEMMA, "gguf": str(wheels.gemma()), "base": True}
        wheels.smollm2()
    except Unavailable as error:
        raise ConfigError(str(error)) from None
    return spec


def shapes(*, recorded: bool, hurried: bool) -> Mapping[str, Shape]:
    """What is varied: less where it is hurried, and for a recorded teacher what a recording can answer."""
    return QUICK if hurried else RECORDED if recorded else FULL


async def play(
    plan: Plan,
    made: Sequence[Task],
    *,
    progress: Progress = lambda *_: None,
    agreed: Agreed = lambda *_: True,
) -> Ended | None:
    """Run the grid; with `plan.seconds`, on as many questions as it measures that the time allows, and says so.

    Where models are paid, it is `agreed` first to what measuring can cost, then to what the questions that fit can; the
    time that takes is not counted. None: it was not agreed to. Resumes what the folder holds. ConfigError.
    """
    clock = _Clock(time.monotonic() if plan.began is None else plan.began, agreed if plan.models.paid else None)
    prices = listed(plan.models.config, (plan.models.teacher, plan.models.student))
    async with in_process(plan.models.config) as asker:
        limit, told, left, last = plan.limit, list[str](), None, None
        if plan.seconds is not None:
            found = await _affordable(plan, made, asker, clock, progress)
            if found is None:
                return None
            limit, told, longest = found
        options = Options(
            seed=plan.seed,
            limit=limit,
            max_tokens=plan.max_tokens,
            student_shots=plan.student_shots,
            budget=_left(plan),
            model=plan.models.route,
            notes=[*_notes(plan), *told],
            prices=prices,
        )
        many = "all questions" if limit is None else f"{limit:,} questions of each task"
        if not clock.agreed(lambda: runner.most(made, plan.cells, asker, options), many):
            return None
        if plan.seconds is not None:
            last = max(1.0, plan.seconds - CLOSING - clock.passed)
            left = max(0.5, last - max(RESERVE, longest))
        options = replace(options, seconds=left, given_up=last)
        answered = read(plan.folder / MEASURED)[1] if (plan.folder / MEASURED / RUN).exists() else []
        return await runner.run(
            "The paper's grid", made, plan.cells, plan.folder, asker, options, taken=answered, progress=progress
        )


class _Clock:
    """The time since `began`, but for what somebody took to agree; None: nobody need be asked."""

    def __init__(self, began: float, agreed: Agreed | None) -> None:
        self._began, self._agreed = began, agreed

    @property
    def passed(self) -> float:
        return time.monotonic() - self._began

    def agreed(self, most: Callable[[], Money | None], what: str) -> bool:
        """Whether that may be spent; `most` is asked only where somebody is."""
        if self._agreed is None:
            return True
        at_most, asked = most(), time.monotonic()
        said = self._agreed(at_most, what)
        self._began += time.monotonic() - asked
        return said


def _left(plan: Plan) -> Money | None:
    """What measuring left of the budget; None: there is none. ConfigError: it is not known."""
    if plan.budget is None:
        return None
    spent = purse.spent(plan.folder / MEASURED)
    if spent is None:
        raise ConfigError(f"{plan.folder / MEASURED}: what measuring cost is not known, so no budget can be kept")
    return max(Money.ZERO, plan.budget - spent)


async def _affordable(
    plan: Plan, made: Sequence[Task], asker: Asker, clock: _Clock, progress: Progress
) -> tuple[int, list[str], float] | None:
    """How many questions of each task fit, as the student's own speed has it; that in words; its longest answer.

    A folder that holds a run goes on with its number. None: it was not agreed to that it is measured.
    """
    if (plan.folder / RUN).exists():
        begun, _ = read(plan.folder)
        return max(int(facts["questions"]) for facts in begun.tasks.values()), begun.notes[len(_notes(plan)) :], RESERVE
    alone = [
        cell for cell in plan.cells if cell.strategy == "student" and cell.exemplars == plan.shapes[cell.task].shots[0]
    ]
    # Models that were long in coming leave less for it.
    most_seconds = max(1.0, (plan.seconds or 0) - CLOSING - clock.passed)
    options = Options(
        seed=plan.seed,
        limit=FIRST if plan.limit is None else min(FIRST, plan.limit),
        max_tokens=plan.max_tokens,
        seconds=min(most_seconds, (plan.seconds or 0) * MEASURING),
        given_up=min(most_seconds, (plan.seconds or 0) * MEASURING * 1.5),
        student_shots=plan.student_shots,
        budget=plan.budget,
        model=plan.models.route,
    )
    if not clock.agreed(lambda: runner.most(made, alone, asker, options), "measuring the student's speed"):
        return None
    await runner.run("Measured", made, alone, plan.folder / MEASURED, asker, options, progress=progress)
    _, answers = read(plan.folder / MEASURED)
    pace: dict[str, float | None] = {}
    for cell in alone:
        took = [result.seconds for result in answers if result.cell == cell.name and result.seconds is not None]
        pace[cell.task] = sum(took) / len(took) / cell.concurrency if took else None
    most = max(len(task.items) for task in made) if plan.limit is None else plan.limit
    left = (plan.seconds or 0) - CLOSING - RESERVE - clock.passed
    limit = min(affordable(pace, plan.cells, left), most)
    named = ", ".join(f"{task} {'unknown' if each is None else f'{each:.2g} s'}" for task, each in pace.items())
    told = (
        f"{limit} questions of each task, drawn by the seed: as many as were expected to fit into "
        f"{(plan.seconds or 0) / 60:.3g} minutes. The student alone took, for a question of up to {FIRST}: {named}."
    )
    return limit, [told], max((result.seconds or 0.0 for result in answers), default=0.0)


def affordable(pace: Mapping[str, float | None], cells: Sequence[Cell], seconds: float) -> int:
    """Questions of each task that fit into `seconds`, if every cell with a student takes the task's `pace` for one.

    A whole number of batches where there is one; never below `LEAST`, as where the pace of a task is unknown (None).
    """
    live = [cell for cell in cells if cell.student is not None]
    known = [each for cell in live if (each := pace[cell.task]) is not None]
    if len(known) < len(live) or sum(known) <= 0:
        return LEAST
    fits = int(seconds * MARGIN / sum(known))
    batch = max(cell.concurrency for cell in live)
    return max(fits // batch * batch or fits, LEAST)


def _notes(plan: Plan) -> list[str]:
    config, models = plan.models.config, plan.models
    seats = {"teacher": models.teacher, "student": models.student}
    names = [f"{seat} {getattr(config.upstreams[name], 'model', name)}" for seat, name in seats.items()]
    told = [f"Run by `gkt eval paper`: {', '.join(names)}; {plan.batch} questions at once."]
    if models.recorded:
        told.append(
            "The teacher is recorded (2023), under a prompt of its own and without exemplars, and is cut where its own "
            "tokenizer cuts. Concise answers and guidance, hints and exemplars would be other prompts, so they are not "
            "run; its time is not a model's, so times that hold it are unknown."
        )
    if models.base:
        told.append(
            f"The student is a base model: before each question it reads solved ones, at most {plan.student_shots}, "
            "which the teacher is not asked and the student's input tokens count."
        )
    return told
