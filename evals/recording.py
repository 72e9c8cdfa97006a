"""Recording: recorded answers to a task's questions as the file of a `replay` upstream, so that they can teach again.

A recorded greedy answer, cut after m tokens, is what `max_tokens=m` returns for the same prompt: a faithful teacher for
the cut-off method and for nothing else. The recording's own prompt was another than ours (each source has its own), so
what it cost to read is counted over the prompt that is asked now.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from evals.tasks import Task
from gateway.errors import ConfigError


def record(task: Task, answers: Path, out: Path, *, model: str | None = None, prompt: str | None = None) -> list[str]:
    """Write the recording and return the ids of the questions that have an answer in it.

    `answers`: JSON lines of `id` (the question's), `response`, and optionally `model` and `prompt`; only those of that
    `model` and `prompt`, where given. ConfigError: a line is not in that form, or an answer is there twice.
    """
    questions = {item.id: item.question for item in task.items}
    found: dict[str, dict[str, str]] = {}
    try:
        lines = answers.read_text("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{answers}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key, response = str(row["id"]), row["response"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{answers.name}:{number}: no object with `id` and `response`") from None
        if _other(row.get("model"), model) or _other(row.get("prompt"), prompt) or key not in questions:
            continue
        if not isinstance(response, str):
            continue  # the source has none
        if key in found:
            raise ConfigError(f"{answers.name}:{number}: a second answer to {key}; say of which model and prompt")
        found[key] = {"prompt": questions[key], "response": response, "model": row.get("model") or model or "recorded"}
    if not found:
        raise ConfigError(f"{answers.name} has no answers to the questions of {task.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.values()), "utf-8")
    return list(found)


def only(task: Task, ids: Collection[str]) -> Task:
    """The task with those of its questions alone."""
    return replace(task, items=[item for item in task.items if item.id in ids])


def _other(value: object, wanted: str | None) -> bool:
    return wanted is not None and value != wanted
