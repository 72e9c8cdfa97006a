"""Conversations: the answers of a run as the page of a report holds them, each beside its score and the teacher's.

A page is bounded: past `limit` characters of text, answers are left out, those that agree with the teacher first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from evals.results import Cell, Result, Run
from evals.sheets import arm
from evals.summary import right

LIMIT = 12_000_000
"""Characters of conversations on one page, from where on answers are left out."""

Outcome = Literal["lost", "won", "right", "wrong", "unscored", "alone"]
"""Beside the teacher: it alone right, it alone wrong, both right, both wrong, one of them unscored, no such answer."""

KEEP: Sequence[Outcome] = ("lost", "won", "unscored", "wrong", "alone", "right")
"""What is kept first where not all fits."""


class Shown(msgspec.Struct, frozen=True):
    """What a page holds: `texts` are messages that conversations name by their places, for they share most.

    `cells` is every arm with the group that it stands under; `total` counts answers, of which `rows` are here.
    """

    texts: list[tuple[str, str]]
    cells: list[tuple[str, str]]
    rows: list[dict[str, Any]]
    total: int


def shown(run: Run, results: Sequence[Result], *, limit: int = LIMIT) -> Shown:
    """The newest answer of each sample, as many as fit, in the order of the cells and of the file."""
    cells = {cell.name: number for number, cell in enumerate(run.cells)}
    newest = [result for result in {result.key: result for result in results}.values() if result.cell in cells]
    beside = _Teachers(run.cells, newest)
    outcomes = [_outcome(result, beside.of(run.cells[cells[result.cell]], result)) for result in newest]
    texts: dict[tuple[str, str], int] = {}
    kept: dict[int, dict[str, Any]] = {}
    used = 0
    for number in sorted(range(len(newest)), key=lambda each: KEEP.index(outcomes[each])):
        result = newest[number]
        messages = [(str(message.get("role", "")), _text(message)) for message in result.prompt]
        fresh = sum(len(text) for message in set(messages) if message not in texts for text in message)
        teacher = beside.of(run.cells[cells[result.cell]], result)
        # A teacher's answer stands once among the texts, beside all arms that are compared with it.
        said = None if teacher is None or teacher is result else ("teacher", teacher.answer)
        fresh += 0 if said is None or said in texts else len(said[1])
        used += fresh + len(result.answer) + len(result.why or "") + 200
        if used > limit:
            break
        kept[number] = {
            "cell": cells[result.cell],
            "item": result.item,
            "sample": result.sample,
            "outcome": outcomes[number],
            "score": result.score,
            "found": result.found,
            "reference": result.reference,
            "unscored": result.unscored,
            "error": result.error,
            "why": result.why,
            "answer": result.answer,
            "guided": _guided(result),
            "hint": result.guidance if result.guidance and not _guided(result) else None,
            "cost": result.cost,
            "seconds": result.seconds,
            "tokens": [result.input_tokens, result.output_tokens],
            "prompt": [texts.setdefault(message, len(texts)) for message in messages],
            "teacher": None
            if said is None or teacher is None
            else {"text": texts.setdefault(said, len(texts)), "score": teacher.score, "found": teacher.found},
        }
    rows = [kept[number] for number in sorted(kept, key=lambda each: (cells[newest[each].cell], each))]
    names = [(_group(cell), arm(cell)) for cell in run.cells]
    return Shown(list(texts), names, rows, len(newest))


class _Teachers:
    """The teacher's own answers, by what they are compared by."""

    def __init__(self, cells: Sequence[Cell], results: Sequence[Result]) -> None:
        alone = {cell.name: cell for cell in cells if cell.strategy == "teacher"}
        self._found: dict[tuple[str, str | None, int, str], dict[int, Result]] = {}
        for result in results:
            if (cell := alone.get(result.cell)) is not None and result.sample == 0:
                key = cell.task, cell.teacher, cell.exemplars, result.item
                self._found.setdefault(key, {})[cell.concurrency] = result
        self._models = {(cell.task, cell.exemplars): cell.teacher for cell in alone.values()}

    def of(self, cell: Cell, result: Result) -> Result | None:
        """What the teacher said to the same: at the same concurrency, else at the highest."""
        model = cell.teacher if cell.teacher is not None else self._models.get((cell.task, cell.exemplars))
        found: Mapping[int, Result] = self._found.get((cell.task, model, cell.exemplars, result.item), {})
        return found.get(cell.concurrency) or (found[max(found)] if found else None)


def _outcome(result: Result, teacher: Result | None) -> Outcome:
    if teacher is None:
        return "alone" if result.score is not None else "unscored"
    own, other = right(result.score), right(teacher.score)
    if own is None or other is None:
        return "unscored"
    if own == other:
        return "right" if own else "wrong"
    return "won" if own else "lost"


def _group(cell: Cell) -> str:
    models = " → ".join(model for model in (cell.teacher, cell.student) if model)
    shots = f", {cell.exemplars} exemplars" if cell.exemplars else ""
    return f"{cell.task}: {models}{shots}"


def _guided(result: Result) -> int:
    """How many characters of the answer are the teacher's guidance; 0 for a hint, which is no part of it."""
    return len(result.guidance) if result.guidance and result.answer.startswith(result.guidance) else 0


def _text(message: Mapping[str, Any]) -> str:
    """A message's text; of parts that are none, their type."""
    content = message.get("content")
    if isinstance(content, str) or content is None:
        return content or ""
    if not isinstance(content, list):
        return str(content)
    parts = (part if isinstance(part, dict) else {} for part in content)
    return "\n".join(str(part.get("text", f"[{part.get('type', 'unknown')}]")) for part in parts)
