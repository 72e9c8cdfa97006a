"""Requests: a question of a cell as the body of a chat completion, a judge's prompt as one, and where answers end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from evals.asking import Asker, Told
from evals.results import Cell
from evals.tasks import Item, Task
from gateway.strategies.prompts import after

JUDGE_TOKENS = 1024
"""What a judge may write: one word, but those that think need room before it."""

ALONE = frozenset({"teacher", "teacher-concise", "cut-text"})
"""What the teacher answers without a student."""


@dataclass(frozen=True, slots=True)
class Requests:
    """How the questions of a run are asked; see `evals.runner.Options`. `brief`: what asks a teacher to be concise."""

    seed: int
    max_tokens: int
    model: str
    routes: Mapping[str, str]
    student_shots: int
    brief: str

    def body(self, cell: Cell, task: Task, item: Item, sample: int) -> dict[str, Any]:
        """The request of one question. Its seed depends on the run's, the question and the sample, and on no cell."""
        overrides: dict[str, Any] = {"strategy": "teacher" if cell.strategy in ALONE else cell.strategy}
        if cell.teacher is not None and cell.strategy not in ("student", "cascade"):
            overrides["teacher"] = cell.teacher
        if cell.student is not None and cell.strategy not in (*ALONE, "cascade"):
            overrides["student"] = cell.student
        if cell.guidance_tokens is not None and cell.strategy != "cut-text":
            overrides["guidance_tokens"] = cell.guidance_tokens
        route = self.routes.get(cell.strategy)
        body: dict[str, Any] = {
            "model": route or self.model,
            "messages": task.messages(item, cell.exemplars),
            "max_completion_tokens": cell.guidance_tokens if cell.strategy == "cut-text" else self.max_tokens,
            "seed": int.from_bytes(sha256(f"{self.seed} {item.id} {sample}".encode()).digest()[:4]) >> 1,
        }
        if stop := task.stop(cell.exemplars):
            body["stop"] = stop
        if cell.strategy == "teacher-concise":
            # Behind what both ask alike, where the gateway puts it too: a cached beginning stays the same.
            body["messages"] = [dict(message) for message in after(body["messages"], self.brief)]
        if cell.strategy in ALONE:
            body["temperature"] = 0
        elif self.student_shots:
            body["chat_template_kwargs"] = {"exemplars": task.pairs(self.student_shots)}
        if route is None:
            body["gkt"] = overrides
        return body


def ended(told: Told, stops: Sequence[str]) -> Told:
    """The answer up to what ends it, which a server that knows no `stop` writes past."""
    ends = min((place for stop in stops if (place := told.text.find(stop)) >= 0), default=len(told.text))
    return told if ends == len(told.text) else replace(told, text=told.text[:ends], guidance=told.guidance[:ends])


def judging(prompt: str, model: str, max_tokens: int, asker: Asker) -> dict[str, Any]:
    """The request of one verdict, from one model: guidance would grade by two of them, a cascade by any."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_completion_tokens": max_tokens,
    }
    routes = asker.config.routes if asker.config is not None else {}
    route = routes.get(model) or routes.get("*")
    if not asker.plain and (route is None or route.strategy not in ("teacher", "student")):
        body["gkt"] = {"strategy": "teacher"}
    return body


def twin(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The cell that gets the first words which this one is about."""
    if cell.strategy != "cut-text":
        return None
    same = (cell.task, cell.guidance_tokens, cell.teacher, cell.exemplars)
    guided = (each for each in cells if each.strategy == "cut-off")
    return next((e for e in guided if (e.task, e.guidance_tokens, e.teacher, e.exemplars) == same), None)
