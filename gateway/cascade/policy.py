"""The policy of a cascade: which student next, when to accept, when the teacher is worth its price.

A policy is a file that a person can read (YAML, no code), made by `gkt calibrate` together with its evidence. Deciding
is arithmetic on a handful of named signals: `worth` says what one teacher's answer must bring, the weights say what it
is expected to bring here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from gateway.answers import Kind
from gateway.cascade.signals import DOUBTS, UNSURE, Draft, Reading, read, who
from gateway.errors import ConfigError

Weights = dict[str, FiniteFloat]
"""A linear form over signals, by their names; a signal without a weight does not count."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Observed(_Part):
    """What a rung did on the questions it was calibrated on; shares of those that came to it."""

    asked: int = Field(ge=0, description="Questions that came to this rung.")
    accepted: float = Field(ge=0, le=1, description="Share that was answered here.")
    escalated: float = Field(ge=0, le=1, description="Share that went to the teacher from here.")
    kept: float = Field(ge=0, le=1, description="Share that never went to the teacher, answered here or further up.")
    needed: float = Field(
        ge=0, description="The share kept above which asking here pays: cost of the drafts / teacher's."
    )


class Rung(_Part):
    """One more draft, and what to do with all drafts so far.

    `kind: draft` is a student that answers alone; `guidance` one that continues `guidance_tokens` of the teacher's.
    Rungs of the same length go on from the same words, which the first of them pays for.
    """

    kind: Literal["draft", "guidance"] = "draft"
    student: str = Field(min_length=1)
    guidance_tokens: int = Field(0, ge=0)
    max_tokens: int | None = Field(None, ge=1, description="A longer draft is cut and has no answer. None: no limit.")
    logprobs: bool | None = Field(
        None, description="True: calibrated on drafts that all told their log-probabilities, as its upstream must."
    )
    gain: Weights = Field(description="Accuracy that the teacher is expected to add to the best draft so far.")
    cost: Weights = Field(description="What the teacher's answer is expected to cost, in mean teacher's answers.")
    next: Weights | None = Field(None, description="What the next rung is expected to add, less what it costs.")
    observed: Observed | None = None

    @model_validator(mode="after")
    def _guided(self) -> Self:
        if (self.kind == "guidance") != (self.guidance_tokens > 0):
            raise ValueError("a rung of guidance, and no other, has guidance_tokens")
        return self

    def weighs(self, *signals: str) -> bool:
        """Whether any of these signals counts here."""
        forms = (self.gain, self.cost, self.next or {})
        return any(form.get(signal) for form in forms for signal in signals)

    @property
    def who(self) -> str:
        """The name of its drafts, see `gateway.cascade.signals.who`."""
        return who(self.student, self.guidance_tokens)


class Teacher(_Part):
    """The last resort. `max_tokens` cuts it; an answer that was cut is not given, the best draft is."""

    model: str = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)


class Policy(_Part):
    """A calibrated cascade. See `load` and `decide`."""

    version: Literal[1] = 1
    name: str = Field(min_length=1, description="The workload it was calibrated on.")
    kind: Kind | None = Field(None, description="What final answers are looked for; None: whatever is marked as one.")
    teacher: Teacher
    worth: Annotated[FiniteFloat, Field(ge=0)] = Field(
        description="Accuracy that must be gained for the cost of one mean teacher's answer."
    )
    prefer: list[str] = Field(description="Whose draft is given where equally many agree.")
    rungs: list[Rung] = Field(min_length=1)
    evidence: dict[str, Any] = Field(
        default_factory=dict, description="What it was calibrated on, and with what result."
    )

    @model_validator(mode="after")
    def _ends(self) -> Self:
        for place, rung in enumerate(self.rungs):
            if (rung.next is None) != (place == len(self.rungs) - 1):
                raise ValueError("every rung but the last weighs the next one")
        guided = [rung.guidance_tokens for rung in self.rungs if rung.guidance_tokens]
        if guided != sorted(guided):
            raise ValueError("guidance grows up the ladder, or stays as long as it is")
        return self

    def begins(self, place: int) -> bool:
        """Whether the teacher is asked for guidance at this rung, and no rung below it has these words already."""
        tokens = self.rungs[place].guidance_tokens
        return tokens > 0 and all(rung.guidance_tokens < tokens for rung in self.rungs[:place])

    def blind(self, place: int, draft: int) -> bool:
        """Whether nobody knows what to do at the rung at `place` if the best draft, of the rung at `draft`, does not
        tell its log-probabilities: they count here, and none of its drafts was ever seen without them.
        """
        rung = self.rungs[place]
        return rung.weighs(*DOUBTS) and (bool(self.rungs[draft].logprobs) or not rung.weighs(UNSURE))

    @property
    def sure(self) -> list[str]:
        """The students whose upstreams must tell log-probabilities, or the policy is `blind`."""
        heights = range(len(self.rungs))
        blind = [draft for draft in heights if any(self.blind(place, draft) for place in heights[draft:])]
        return list(dict.fromkeys(self.rungs[draft].student for draft in blind))

    @classmethod
    def load(cls, path: Path) -> Policy:
        """The policy in a file. ConfigError: there is none, or it cannot be used."""
        try:
            told = yaml.safe_load(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"the policy {path.name} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # values that there are not, or nested too deep
            raise ConfigError(f"the policy {path.name} is no YAML") from error
        try:
            return cls.model_validate(told)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(f"the policy {path.name} cannot be used: {place}: {first['msg']}") from error

    def dump(self) -> str:
        """The file's text, which `load` reads back as an equal policy."""
        told = self.model_dump(mode="json", exclude_none=True)
        return yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=120)


class Decision(NamedTuple):
    """`accept` the draft at `best`, `ask` the next rung, or `escalate` to the teacher; `why` goes into the receipt."""

    action: Literal["accept", "ask", "escalate"]
    best: int | None
    why: str


def decide(policy: Policy, drafts: Sequence[Draft], closed: Mapping[int, str] = MappingProxyType({})) -> Decision:
    """What comes after these drafts, one for each rung that was climbed; ValueError for more than there are rungs.

    Of three moves the one with the highest expected value is made, accepting being 0: asking the teacher is worth its
    gain less `worth` times its cost, asking the next student what `next` says. Ties accept. Where the policy is `blind`
    for the best draft, it is not accepted: the next student is asked, else the teacher. A rung that is `closed`,
    for a reason, is not climbed: the ladder ends before it. An answer that the teacher ended within its guidance is
    accepted as it is: nobody could add to it.
    """
    if not drafts:
        if 0 in closed:
            return Decision("escalate", None, closed[0])
        return Decision("ask", None, "the first student answers")
    if len(drafts) > len(policy.rungs):
        raise ValueError(f"{len(drafts)} drafts for {len(policy.rungs)} rungs")
    if drafts[-1].complete:
        return Decision("accept", len(drafts) - 1, "the teacher ended within its guidance")
    rung = policy.rungs[len(drafts) - 1]
    seen = read(drafts, policy.prefer)
    if drafts[seen.best].unsure and policy.blind(len(drafts) - 1, seen.best):
        told = f"{_agreement(seen, len(drafts))}; its log-probabilities, which count here, are not known"
        return _onward(len(drafts), seen.best, rung, told, closed)
    gain, cost = weigh(rung.gain, seen.signals), weigh(rung.cost, seen.signals)
    teacher = gain - policy.worth * cost
    further = weigh(rung.next, seen.signals) if rung.next is not None else None
    told = f"{_agreement(seen, len(drafts))}; the teacher would add {gain:+.3f}, worth it from {gain - teacher:.3f} on"
    if further is not None and further > max(0.0, teacher):
        if len(drafts) not in closed:
            return Decision("ask", seen.best, f"{told}; the next student first")
        told = f"{told}; the next rung is closed: {closed[len(drafts)]}"
    return Decision("escalate" if teacher > 0 else "accept", seen.best, told)


def _onward(height: int, best: int, rung: Rung, told: str, closed: Mapping[int, str]) -> Decision:
    """Whoever comes next: a student where there is one that may be asked, else the teacher."""
    if rung.next is None or height in closed:
        return Decision("escalate", best, told)
    return Decision("ask", best, f"{told}; the next student first")


def weigh(weights: Mapping[str, float], signals: Mapping[str, float]) -> float:
    """The linear form; a signal that is not there is 0."""
    return sum(weight * signals.get(name, 0.0) for name, weight in weights.items())


def _agreement(seen: Reading, drafts: int) -> str:
    if drafts == 1:
        return "one draft" if seen.votes else "one draft without an answer"
    return f"{seen.votes} of {drafts} drafts agree" if seen.votes > 1 else f"no two of {drafts} drafts agree"
