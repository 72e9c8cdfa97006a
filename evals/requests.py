"""Requests: a question of a cell as the body of a chat completion, and a judge's prompt as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from evals.results import Cell
from evals.tasks import Item, Task
from gateway.strategies.prompts import after

JUDGE_TOKENS = 16
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


def judging(prompt: str, model: str) -> dict[str, Any]:
    """The request for a judge's verdict."""
    said = {"role": "user", "content": prompt}
    return {"model": model, "messages": [said], "temperature": 0, "max_completion_tokens": JUDGE_TOKENS}
