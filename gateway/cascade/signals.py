"""Signals: what the drafts of students show, without knowing what is right.

Each is a number with a name; a policy weighs them. None is learnt from, or looked up by, the question itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import log
from typing import NamedTuple

from gateway.answers import Answer

WITHOUT = "without:"


class Draft(NamedTuple):
    """A student's whole answer: `answer` is None where none was found in it, or where it was cut.

    `tokens` are those it wrote; 0: nothing came of it, for its student could not be asked. `logprob` is the mean
    log-probability of a token, None where the engine gives none. `told`: the guidance that it went on from held the
    final answer already, which is then the teacher's more than the student's.
    """

    student: str
    answer: Answer | None
    tokens: int
    logprob: float | None = None
    told: bool = False


class Reading(NamedTuple):
    """What some drafts show: the one to give (its place among them), how many say the same, and the signals."""

    best: int
    votes: int
    signals: Mapping[str, float]


def read(drafts: Sequence[Draft], prefer: Sequence[str]) -> Reading:
    """The draft that most others agree with, and the signals of all; ValueError for no drafts.

    Where votes are equal, the student that stands first in `prefer` is taken, of those that wrote anything. Signals:

    - `one`: always 1.
    - `alone`: 1 where there are several drafts and no two agree.
    - `without:STUDENT`: 1 where drafts agree, but not this student's.
    - `unparsed`: how many drafts have no final answer.
    - `length`: the mean of the natural logarithms of their lengths in tokens, where there is any.
    - `odd`: 1 where the answer is neither a whole number nor a choice nor JSON: words, a fraction, a formula.
    - `doubt`: minus the mean log-probability of the chosen draft; 0 where unknown.
    """
    if not drafts:
        raise ValueError("no drafts")
    votes = [0 if one.answer is None else sum(one.answer == other.answer for other in drafts) for one in drafts]
    rank = {name: place for place, name in enumerate(prefer)}
    best = min(
        range(len(drafts)), key=lambda i: (-votes[i], drafts[i].tokens == 0, rank.get(drafts[i].student, len(rank)), i)
    )
    chosen = drafts[best]
    several = votes[best] > 1
    lengths = [log(draft.tokens) for draft in drafts if draft.tokens > 0]
    signals = {
        "one": 1.0,
        "alone": float(len(drafts) > 1 and not several),
        "unparsed": float(sum(draft.answer is None for draft in drafts)),
        "length": sum(lengths) / len(lengths) if lengths else 0.0,
        "odd": float(odd(chosen.answer)),
        "doubt": -chosen.logprob if chosen.logprob is not None else 0.0,
    }
    if len(drafts) > 2:  # of two that agree nobody is left out
        for draft in drafts:
            signals[WITHOUT + draft.student] = float(several and draft.answer != chosen.answer)
    return Reading(best, votes[best], signals)


def odd(answer: Answer | None) -> bool:
    """True for words, a fraction, a formula: what is neither a whole number nor a choice nor JSON."""
    if answer is None or answer.kind != "number":
        return answer is not None and answer.kind == "text"
    return Fraction(answer.value).denominator != 1
