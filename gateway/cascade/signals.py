"""Signals: what the drafts of students show, without knowing what is right.

Each is a number with a name; a policy weighs them. None is learnt from, or looked up by, the question itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import isnan, log
from typing import NamedTuple

from gateway.answers import Answer

WITHOUT = "without:"

DOUBTS = ("doubt", "worst")
"""Signals that only log-probabilities tell; `UNSURE` says that they were not told."""

UNSURE = "unsure"

FLOOR = -20.0
"""What is less likely than that was no choice of the model's: a constraint, or a provider's -9999."""


def who(student: str, guidance: int) -> str:
    """How weights and recordings call a student that goes on from so many of the teacher's tokens; 0: from none."""
    return f"{student}@{guidance}" if guidance else student


def student_of(name: str, guidance: int) -> str:
    """Whom `who` called so."""
    return name.removesuffix(f"@{guidance}") if guidance else name


class Draft(NamedTuple):
    """A student's whole answer: `answer` is None where none was found in it, or where it was cut.

    `tokens` are those it wrote, guidance included; 0: nothing came of it, for its student could not be asked.
    `logprob` is the mean log-probability of a token and `least` that of the least likely one (see `likelihood`), None
    where the engine gives none. `guidance` is the budget of the
    teacher's first words that it went on from. `told`: these held the final answer already, which is then the teacher's
    more than the student's. `complete`: the teacher ended within them, and the answer is all its own.
    """

    student: str
    answer: Answer | None
    tokens: int
    logprob: float | None = None
    told: bool = False
    guidance: int = 0
    complete: bool = False
    least: float | None = None

    @property
    def unsure(self) -> bool:
        """True where nobody told how likely its tokens were."""
        return self.logprob is None or self.least is None

    @property
    def who(self) -> str:
        """See `who`."""
        return who(self.student, self.guidance)


class Reading(NamedTuple):
    """What some drafts show: the one to give (its place among them), how many say the same, and the signals."""

    best: int
    votes: int
    signals: Mapping[str, float]


def read(drafts: Sequence[Draft], prefer: Sequence[str]) -> Reading:
    """The draft that most others agree with, and the signals of all; ValueError for no drafts.

    Where votes are equal, the one that stands first in `prefer` (by `who`, else by its student) is taken, of those that
    wrote anything. Signals:

    - `one`: always 1.
    - `alone`: 1 where there are several drafts and no two agree.
    - `without:WHO`: 1 where drafts agree, but not this one.
    - `told`: 1 where the guidance of the chosen draft held the answer; only among drafts of which any has guidance.
    - `unparsed`: how many drafts have no final answer.
    - `length`: the mean of the natural logarithms of their lengths in tokens, where there is any.
    - `odd`: 1 where the answer is neither a whole number nor a choice nor JSON: words, a fraction, a formula.
    - `doubt`: minus the mean log-probability of the chosen draft's tokens.
    - `worst`: minus that of its least likely token.
    - `unsure`: 1 where these two are not known, and stand at 0 for want of a number. What that means is for the weight
      of `unsure` to say; a policy that weighs them without it does not know (`Policy.blind`).
    """
    if not drafts:
        raise ValueError("no drafts")
    votes = [0 if one.answer is None else sum(one.answer == other.answer for other in drafts) for one in drafts]
    rank = {name: place for place, name in enumerate(prefer)}

    def place(i: int) -> tuple[int, bool, int, int]:
        draft = drafts[i]
        return -votes[i], draft.tokens == 0, rank.get(draft.who, rank.get(draft.student, len(rank))), i

    best = min(range(len(drafts)), key=place)
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
        "worst": -chosen.least if chosen.least is not None else 0.0,
        UNSURE: float(chosen.unsure),
    }
    if len(drafts) > 2:  # of two that agree nobody is left out
        for draft in drafts:
            signals[WITHOUT + draft.who] = float(several and draft.answer != chosen.answer)
    if any(draft.guidance for draft in drafts):
        signals["told"] = float(chosen.told)
    return Reading(best, votes[best], signals)


def likelihood(logprobs: Iterable[float]) -> tuple[float | None, float | None]:
    """The mean and the least of the natural log-probabilities of an answer's tokens, none below `FLOOR`.

    None for both where there are none, or one of them is no number.
    """
    told = [max(each, FLOOR) for each in logprobs]
    if not told or any(map(isnan, told)):
        return None, None
    return sum(told) / len(told), min(told)


def odd(answer: Answer | None) -> bool:
    """True for words, a fraction, a formula: what is neither a whole number nor a choice nor JSON."""
    if answer is None or answer.kind != "number":
        return answer is not None and answer.kind == "text"
    return Fraction(answer.value).denominator != 1
