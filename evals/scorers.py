"""Scorers: how right an answer is, by the name that a task gives.

An answer in which no final answer can be found is wrong, and scores 0; so is a program that does not pass its tests in
time. What could not be scored at all, since a judge failed or could not be read, has no score, and says why. Nothing is
guessed: where the code of the GKT paper takes a random choice when it finds none, this finds none.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple, get_args

from msgspec import structs

from evals.asking import Told
from evals.programs import program, tests
from evals.results import Stage
from gateway.answers import Kind, agreement, final
from gateway.sandbox import Sandbox

ScorerName = Literal["number", "choice", "json", "text", "exact", "judge", "code"]

LATER = frozenset({"judge", "code"})
"""Scorers that take their time: an answer is on disk before they begin."""

NOT_RUN = "programs are not run unless that is allowed (--run-code)"

VERDICTS: Mapping[str, float] = {"CORRECT": 1.0, "WRONG": 0.0}

_thought = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)

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

    `stages` are the calls of a judge: paid for, but by the measurement and not by the answer. `later`: whoever scores
    was not to be had, so that the same answer may be scored another time.
    """

    found: str | None
    score: float | None
    unscored: str | None = None
    stages: tuple[Stage, ...] = ()
    later: bool = False


Judge = Callable[[str], Awaitable[Told]]
"""Puts a prompt to the judge."""


async def score(
    name: ScorerName,
    question: str,
    answer: str,
    reference: str | None,
    judge: Judge | None,
    sandbox: Sandbox | None = None,
) -> Scored:
    """Score one answer; None for `sandbox`: programs may not be run.

    ValueError: no such scorer, or `judge` is wanted and there is none.
    """
    if name not in get_args(ScorerName):
        raise ValueError(f"no scorer {name!r}; there are: {', '.join(get_args(ScorerName))}")
    if reference is None:
        return Scored(None, None, "there is no reference")
    if name == "judge":
        if judge is None:
            raise ValueError("the scorer `judge` needs a model that judges")
        return await _judged(judge, question, answer, reference)
    if name == "code":
        return await _run(sandbox, question, answer, reference)
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
        return Scored(None, None, f"the judge failed: {told.trouble}", later=True)
    calls = tuple(structs.replace(stage, stage="judge") for stage in told.stages)
    # Whoever thinks aloud gives the verdict last, on a line of its own.
    lines = _thought.sub("", told.text).split("\n")
    verdict = next((line.strip(' \t\r.*`"') for line in reversed(lines) if line.strip()), "").upper()
    if verdict not in VERDICTS:
        why = "the judge was cut off before its verdict" if told.cut else "the judge's verdict is not readable"
        return Scored(None, None, why, calls)
    return Scored(verdict, VERDICTS[verdict], None, calls)


async def _run(sandbox: Sandbox | None, question: str, answer: str, reference: str) -> Scored:
    code = program(question, answer, reference)
    try:
        wanted = tests(reference)
    except ValueError as error:
        return Scored(code, None, str(error))
    if code is None:
        return Scored(None, 0.0)
    if sandbox is None:
        return Scored(code, None, NOT_RUN, later=True)
    ran = await sandbox.passes(code, wanted)
    if ran.passed is None:
        return Scored(code, None, f"the program could not be run: {ran.why}", later=True)
    return Scored(code, float(ran.passed))
