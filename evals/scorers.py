"""Scorers: how right an answer is, by the name that a task gives.

An answer in which no final answer can be found is wrong, and scores 0. What could not be scored at all, since a judge
failed or could not be read, has no score, and says why. Nothing is guessed: where the code of the GKT paper takes a
random choice when it finds none, this finds none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple, get_args

from msgspec import structs

from evals.asking import Told
from evals.results import Stage
from gateway.answers import Kind, agreement, final

ScorerName = Literal["number", "choice", "json", "text", "exact", "judge"]

VERDICTS: Mapping[str, float] = {"CORRECT": 1.0, "WRONG": 0.0}

JUDGE_PROMPT = """\
You grade one answer to one question. Compare the answer with the reference; wording and length do not matter, \
facts do. Say nothing but one word: CORRECT when the answer says what the reference says, WRONG otherwise.

Question:
{question}

Reference:
{reference}

Answer:
{answer}
"""


class Scored(NamedTuple):
    """`found` is the final answer that was read; `score` 0 to 1, None with the reason in `unscored`.

    `stages` are the calls of a judge: paid for, but by the measurement and not by the answer.
    """

    found: str | None
    score: float | None
    unscored: str | None = None
    stages: tuple[Stage, ...] = ()


Judge = Callable[[str], Awaitable[Told]]
"""Puts a prompt to the judge."""


async def score(name: ScorerName, question: str, answer: str, reference: str | None, judge: Judge | None) -> Scored:
    """Score one answer. ValueError: no such scorer, or `judge` is wanted and there is none."""
    if name not in get_args(ScorerName):
        raise ValueError(f"no scorer {name!r}; there are: {', '.join(get_args(ScorerName))}")
    if reference is None:
        return Scored(None, None, "there is no reference")
    if name == "judge":
        if judge is None:
            raise ValueError("the scorer `judge` needs a model that judges")
        return await _judged(judge, question, answer, reference)
    if name == "exact":
        found = answer.strip()
        return Scored(found or None, float(found == reference.strip()))
    # Of a text that may be a number or a formula too, whatever is marked as the answer counts.
    return _compared(None if name == "text" else name, answer, reference)


def judge_prompt(question: str, answer: str, reference: str) -> str:
    """What a judge is asked."""
    return JUDGE_PROMPT.format(question=question, reference=reference, answer=answer)


def _compared(kind: Kind | None, answer: str, reference: str) -> Scored:
    found = final(answer, kind)
    wanted = final(reference, kind)
    if wanted is None:
        return Scored(found.value if found else None, None, f"the reference is no {kind or 'final answer'}")
    if found is None:
        return Scored(None, 0.0)
    told = agreement(answer, reference, kind)
    return Scored(found.value, told if told is not None else 0.0)


async def _judged(judge: Judge, question: str, answer: str, reference: str) -> Scored:
    if not answer.strip():
        return Scored(None, 0.0)
    told = await judge(judge_prompt(question, answer, reference))
    if told.error is not None:
        return Scored(None, None, f"the judge failed: {told.error}")
    calls = tuple(structs.replace(stage, stage="judge") for stage in told.stages)
    verdict = told.text.strip().strip(".*").upper()
    if verdict not in VERDICTS:
        return Scored(None, None, "the judge's verdict is not readable", calls)
    return Scored(verdict, VERDICTS[verdict], None, calls)
