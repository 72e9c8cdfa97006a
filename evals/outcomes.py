"""Outcomes: a run's answers as a workload, so that a policy can be calibrated on one's own models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evals.recorded import Guided, Manifest, Outcome, Rate, Words, write
from evals.results import Cell, Result, Run, Stage, by_cell, read
from gateway.answers import Kind
from gateway.errors import ConfigError

KINDS: Mapping[str, Kind] = {"number": "number", "choice": "choice", "json": "json", "text": "text"}
"""What answers of each scorer are compared by."""


def workload(run: Path, task: str | None, teacher: str | None, folder: Path) -> Manifest:
    """Write the answers of a run to one of its tasks as a workload into `folder`.

    Arms are the whole answers of `teacher`, of every student alone, and of every student after the teacher's first
    words (`cut-off`, any number of tokens), all with as many exemplars as the teacher had; of several samples the
    first. A name that is None must be the only one. ConfigError: it is not, or what a workload needs is not there.
    """
    made, results = read(run)
    named = _only("task", task, [cell.task for cell in made.cells])
    cells = [cell for cell in made.cells if cell.task == named]
    big = _only("teacher", teacher, [cell.teacher for cell in cells if cell.strategy == "teacher" and cell.teacher])
    last = {result.key: result for result in results if result.sample == 0 and result.error is None}
    told = by_cell(last.values())
    whole = next(cell for cell in cells if cell.strategy == "teacher" and cell.teacher == big)
    alike = [cell for cell in cells if cell.exemplars == whole.exemplars and told.get(cell.name)]
    alone = _distinct([whole, *(cell for cell in alike if cell.strategy == "student")])
    guided = _distinct([cell for cell in alike if cell.strategy == "cut-off" and cell.teacher == big])
    models = {cell.name: _model(told.get(cell.name, [])) for cell in (*alone, *guided)}
    students = [models[cell.name] for cell in alone[1:]]
    if not students:
        raise ConfigError(f"{run.name}: no student answered {named} alone, as the teacher was asked")
    manifest = Manifest(
        name=named,
        teacher=models[whole.name],
        students=students,
        guided=[
            Guided(student=models[cell.name], tokens=cell.guidance_tokens or 0)
            for cell in guided
            if models[cell.name] in students
        ],
        prices={model: _rate(made, model) for model in (models[whole.name], *students)},
        answer=KINDS.get(str(made.tasks[named].get("scorer"))),
        recorded=f"run {made.name!r}, {len(told[whole.name]):,} questions",
    )
    # Students may be asked below exemplars of their own: a question is what the teacher was asked.
    asked = {
        result.item: "\n\n".join(str(each.get("content")) for each in result.prompt) for result in told[whole.name]
    }
    rows = [
        _outcome(cell, models[cell.name], asked[result.item], result)
        for cell in (*alone, *guided)
        for result in told[cell.name]
        if result.item in asked
    ]
    write(folder, manifest, rows)
    return manifest


def _only(what: str, wanted: str | None, names: Sequence[str]) -> str:
    found = list(dict.fromkeys(names))
    if wanted in found and wanted is not None:
        return wanted
    if wanted is None and len(found) == 1:
        return found[0]
    listed = ", ".join(found) or "none"
    raise ConfigError(f"the run has these for {what}: {listed}; say which one with --{what}")


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each model and length: the same answers are asked again in batches of other sizes."""
    return list({(cell.strategy, cell.student, cell.guidance_tokens): cell for cell in reversed(cells)}.values())[::-1]


def _model(results: Sequence[Result]) -> str:
    """The model that wrote the end of these answers."""
    for result in results:
        if result.stages:
            return result.stages[-1].model
    raise ConfigError("of some answers nobody knows which model gave them")


def _rate(run: Run, model: str) -> Rate:
    price = run.prices.get(model, {})
    if "input" not in price or "output" not in price:
        raise ConfigError(f"the run has no price of {model} by the token")
    return Rate(input=float(price["input"]), output=float(price["output"]))


def _outcome(cell: Cell, model: str, prompt: str, result: Result) -> Outcome:
    if cell.strategy != "cut-off":
        read, wrote = _tokens(result, result.stages)
        return Outcome(result.item, model, prompt, result.answer, result.score, read, wrote)
    teachers = [stage for stage in result.stages if stage.seat == "teacher"]
    students = [stage for stage in result.stages if stage.seat == "student"]
    begun, own = _tokens(result, teachers), _tokens(result, students)
    words = Words(result.guidance, cell.guidance_tokens or 0, *begun, complete=not students)
    return Outcome(result.item, model, prompt, result.answer, result.score, *own, guidance=words)


def _tokens(result: Result, stages: Sequence[Stage]) -> tuple[int, int]:
    counts = [(stage.input_tokens, stage.output_tokens) for stage in stages]
    if any(None in count for count in counts):
        raise ConfigError(f"{result.cell}, question {result.item}: the tokens of a call are not known")
    return sum(read or 0 for read, _ in counts), sum(wrote or 0 for _, wrote in counts)
