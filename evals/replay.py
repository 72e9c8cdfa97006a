"""Replay: a policy is driven over recorded answers by the same code that drives live models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from evals.recorded import Arm, Manifest, Question
from gateway.cascade.policy import Policy, decide
from gateway.cascade.signals import Draft, student_of
from gateway.errors import ConfigError


class Cut(NamedTuple):
    """An answer under a limit of tokens: a longer one costs the limit, has no answer and scores 0."""

    whole: bool
    score: float
    cost: float


@dataclass(frozen=True, slots=True)
class Played:
    """What a policy did with one question: `drafts` asked, `by` whom it was answered, score and micro-dollars."""

    by: Literal["student", "teacher"]
    drafts: int
    escalated: bool
    score: float
    cost: float


def cut(question: Question, name: str, limit: int | None, manifest: Manifest) -> Cut:
    """The recorded answer as `max_tokens=limit` returns it for the same prompt: greedy answers are cut, not changed.

    What it was not to write is not paid for, at the model's price. Of a guided student's the cost is its own part.
    """
    arm = question.arms[name]
    if limit is None or arm.written <= limit or arm.complete:
        return Cut(True, arm.score, arm.cost)
    return Cut(False, 0.0, arm.cost - manifest.rate(name).output * (arm.written - limit))


def draft(question: Question, name: str, limit: int | None) -> Draft:
    """The recorded answer of a student, guided or not, as a policy sees it; of one that was cut there is no answer."""
    arm = question.arms[name]
    whole = limit is None or arm.written <= limit or arm.complete
    written = arm.written if limit is None or whole else min(arm.written, limit)
    student, answer = student_of(name, arm.guidance), arm.answer if whole else None
    return Draft(student, answer, written, arm.logprob, arm.told, arm.guidance, arm.complete, arm.least)


def play(policy: Policy, manifest: Manifest, question: Question) -> Played:
    """Drive `policy` over one question. Its score is looked at when all is decided, and never before.

    ConfigError: the policy names a model, or guidance, that was not recorded.
    """
    drafts: list[Draft] = []
    told: list[Cut] = []
    begun = 0.0
    while (decision := decide(policy, drafts)).action == "ask":
        rung = policy.rungs[len(drafts)]
        told.append(_known(question, rung.who, rung.max_tokens, manifest))
        if policy.begins(len(drafts)):
            begun += question.arms[rung.who].begun
        drafts.append(draft(question, rung.who, rung.max_tokens))
    cost = begun + sum(each.cost for each in told)
    best = told[decision.best if decision.best is not None else 0]
    if decision.action == "accept":
        return Played("teacher" if drafts[-1].complete else "student", len(drafts), False, best.score, cost)
    last = _known(question, policy.teacher.model, policy.teacher.max_tokens, manifest)
    if not last.whole:
        return Played("student", len(drafts), True, best.score, cost + last.cost)
    return Played("teacher", len(drafts), True, last.score, cost + last.cost)


def gate(manifest: Manifest, question: Question) -> Played:
    """The simple gate: students in the manifest's order until two agree, whose answer is taken; else the teacher."""
    told: list[Arm] = []
    for student in manifest.students:
        told.append(question.arms[student])
        answer = told[-1].answer
        agreed = next((arm for arm in told[:-1] if answer is not None and arm.answer == answer), None)
        if agreed is not None:
            return Played("student", len(told), False, agreed.score, sum(arm.cost for arm in told))
    teacher = question.arms[manifest.teacher]
    return Played("teacher", len(told), True, teacher.score, sum(arm.cost for arm in told) + teacher.cost)


def totals(played: Iterable[Played]) -> tuple[list[float], list[float]]:
    """Scores and costs, each in the order of the questions."""
    rows: Sequence[Played] = list(played)
    return [row.score for row in rows], [row.cost for row in rows]


def _known(question: Question, name: str, limit: int | None, manifest: Manifest) -> Cut:
    if name not in question.arms:
        raise ConfigError(f"the policy asks {name}, of which nothing is recorded")
    return cut(question, name, limit, manifest)
