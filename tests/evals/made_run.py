"""A run that was made up: a good teacher, a weak student, guidance at three lengths, failures, unknown prices."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from evals.results import RESULTS, RUN, Cell, Result, Run, Stage

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"
TEACHER, STUDENT = "big", "small"
SKILL = {"teacher": 0.9, "student": 0.3, "cut-off": 0.5, "cut-text": 0.05, "concise": 0.55, "hint": 0.4, "cascade": 0.8,
         "teacher-concise": 0.85}  # fmt: skip


def cell(strategy: Any, tokens: int | None = None, **rest: Any) -> Cell:
    teacher = None if strategy == "student" else TEACHER
    student = None if strategy in ("teacher", "cut-text", "teacher-concise") else STUDENT
    said = {"task": "sums", "teacher": teacher, "student": student, **rest}
    return Cell(strategy=strategy, guidance_tokens=tokens, **said)


CELLS = (
    cell("teacher", concurrency=8),
    cell("teacher"),
    cell("student", concurrency=8),
    cell("cut-text", 40),
    *(cell("cut-off", tokens, concurrency=8) for tokens in (10, 40, 60)),
    cell("concise", 40, concurrency=8),
)


def stage(name: str, seat: Any, read: int, wrote: int, cost: int | None, seconds: float, at: float = 0.0) -> Stage:
    return Stage(name, seat, TEACHER if seat == "teacher" else STUDENT, read, wrote, cost, at, seconds)


def result(cell: Cell, item: int | str, score: float | None, **rest: Any) -> Result:
    """An answer whose stages, tokens and costs are those of its strategy."""
    guided = cell.teacher is not None and cell.student is not None
    tokens = cell.guidance_tokens or 0
    stages = []
    if cell.strategy == "teacher":
        stages = [stage("answer", "teacher", 100, 160, 2_000_000, 2.0)]
    elif cell.strategy == "teacher-concise":
        stages = [stage("answer", "teacher", 115, 90, 1_200_000, 1.2)]
    elif cell.strategy == "cut-text" or guided:
        stages = [stage("guidance", "teacher", 100, tokens, 200_000 + tokens * 10_000, 0.5)]
    if cell.student is not None:
        stages.append(stage("answer", "student", 100 + tokens, 120, 30_000, 0.8, 0.5))
    known = [each.cost for each in stages if each.cost is not None]
    said: dict[str, Any] = {
        "cell": cell.name,
        "item": str(item),
        "sample": 0,
        "prompt": [{"role": "system", "content": "Solve it."}, {"role": "user", "content": f"Question {item}?"}],
        "reference": "7",
        "answer": f"First, take {item}. The answer is {'7' if score else '8'}.",
        "guidance": "First, take" if guided and cell.strategy != "hint" else "",
        "found": "7" if score else "8",
        "score": score,
        "unscored": None,
        "stages": stages,
        "input_tokens": 100,
        "output_tokens": 160,
        "cost": sum(known),
        "baseline": 2_000_000,
        "seconds": sum(each.seconds or 0.0 for each in stages),
        "first_token": 0.2,
        "why": "route *",
        "error": None,
        **rest,
    }
    return Result(**said)


def results(cells: Sequence[Cell] = CELLS, count: int = 60, seed: int = 3) -> Iterator[Result]:
    """Hard questions are hard for all; one answer of the first cut-off cell fails."""
    draw = random.Random(seed)
    hard = [draw.random() for _ in range(count)]
    for each in cells:
        skill = SKILL[each.strategy] + (each.guidance_tokens or 0) / 600
        for item in range(count):
            if each.strategy == "cut-off" and each.guidance_tokens == 10 and item == 3:
                failed = {"answer": "", "found": None, "unscored": "the request failed", "error": "upstream_timeout"}
                yield result(each, item, None, **failed)
                continue
            right = 0.6 * hard[item] + 0.4 * draw.random() < skill
            yield result(each, item, float(right))


def run(cells: Sequence[Cell] = CELLS, **rest: Any) -> Run:
    said: dict[str, Any] = {
        "name": "made up",
        "created": 1_790_000_000.0,
        "seed": 0,
        "version": "0.1.0",
        "cells": list(cells),
        "tasks": {"sums": {"sha256": "ab" * 32, "scorer": "number", "questions": 60}},
        "prices": {TEACHER: {"input": "2", "output": "10"}, STUDENT: {"input": "0.1", "output": "0.1"}},
        "notes": ["made up for a test"],
        **rest,
    }
    return Run(**said)


def write(folder: Path, of: Run, told: Sequence[Result]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN).write_bytes(msgspec.json.encode(of))
    (folder / RESULTS).write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in told))
    return folder
