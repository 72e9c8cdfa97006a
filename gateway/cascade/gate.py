"""The gate of break-even: does a rung of guidance pay, at these prices and as seen lately? Pure.

A hint that may be escalated pays iff the share that it keeps from the teacher is above G / F, what it costs of the
teacher's whole answer (`pricing.breakeven.needed_accept_rate`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from gateway.cascade.kept import Kept
from gateway.cascade.policy import Policy, decide
from gateway.cascade.signals import Draft
from pricing.breakeven import needed_accept_rate
from pricing.price import Price

CALIBRATION = 100
"""Requests that a policy's own evidence counts for at most, beside what was seen since."""

ENOUGH = 30
"""Requests that must have been seen of a rung that nothing is known of otherwise."""


class Seen(NamedTuple):
    """What became of requests that came to a rung lately; `kept`: of how many the teacher was not asked for all."""

    asked: int
    kept: int


class Length(NamedTuple):
    """The teacher's mean answer where the policy was calibrated, in tokens of the teacher's: read and written."""

    read: int
    written: int

    @classmethod
    def of(cls, evidence: Mapping[str, Any]) -> Length | None:
        """What a policy's evidence says of it; None: nothing that is understood."""
        told = evidence.get("mean_teacher_tokens")
        read, written = (told.get("input"), told.get("output")) if isinstance(told, Mapping) else (None, None)
        if not isinstance(read, int | float) or not isinstance(written, int | float):
            return None
        return cls(round(read), round(written))


class Verdict(NamedTuple):
    """What break-even says of guidance of so many `tokens`.

    `kept`: the share of requests of which the teacher was not asked for all; None: nobody has seen yet. `needed`: the
    share above which guidance pays; None: nobody knows.
    """

    tokens: int
    kept: float | None
    needed: float | None

    @property
    def pays(self) -> bool | None:
        """None: that cannot be told yet. What costs all of the teacher's answer, or more, pays for nobody."""
        if self.needed is None or (self.kept is None and self.needed < 1):
            return None
        return self.kept is not None and self.kept > self.needed

    @property
    def named(self) -> str:
        """What it is of."""
        return f"guidance of {self.tokens} tokens"

    def __str__(self) -> str:
        if self.kept is None:
            return f"nobody has seen yet what {self.named} keeps from the teacher"
        if self.needed is None:
            return f"nobody knows what {self.named} costs of the teacher's answer"
        return f"{self.named} keeps {self.kept:.3f} from the teacher and pays above {self.needed:.3f}"


def closed(policy: Policy, teacher: Price | None, seen: Mapping[int, Seen] = MappingProxyType({})) -> dict[int, str]:
    """The rungs of guidance that do not pay, by their place, and why; see `verdicts`."""
    return {place: str(each) for place, each in verdicts(policy, teacher, seen).items() if not each.pays}


def verdicts(
    policy: Policy, teacher: Price | None, seen: Mapping[int, Seen] = MappingProxyType({})
) -> dict[int, Verdict]:
    """What break-even says of the rungs of guidance, by their place. `teacher`: its price; None: not known.

    What was `seen` counts beside the policy's evidence, which is `CALIBRATION` requests at most: the more is seen, the
    less the evidence matters.
    """
    guided = [place for place, rung in enumerate(policy.rungs) if rung.kind == "guidance"]
    return {place: _verdict(policy, place, teacher, seen.get(place, Seen(0, 0))) for place in guided}


def _verdict(policy: Policy, place: int, teacher: Price | None, seen: Seen) -> Verdict:
    rung, length = policy.rungs[place], Length.of(policy.evidence)
    told = rung.observed if rung.observed is not None and rung.observed.asked else None
    known = min(told.asked, CALIBRATION) if told is not None else 0
    kept = None
    if told is not None or seen.asked >= ENOUGH:
        kept = ((told.kept * known if told is not None else 0.0) + seen.kept) / (known + seen.asked)
    # What the calibration saw holds the student's part too, today's prices the teacher's alone.
    needed = told.needed if told is not None else None
    if policy.begins(place) and teacher is not None and length is not None:
        now = needed_accept_rate(
            teacher, input_tokens=length.read, guidance=rung.guidance_tokens, length=length.written
        )
        needed = needed if now is None else max(needed or 0.0, float(now))
    if needed is None and not policy.begins(place):
        needed = 0.0  # its words are paid for already
    return Verdict(rung.guidance_tokens, kept, needed)


def seen(policy: Policy, requests: Iterable[Sequence[Kept]]) -> dict[int, Seen]:
    """What became of requests at the rungs of guidance that this policy takes them to, by what is kept of them.

    Each is decided anew over the drafts that it had, or its shadow beside it, by this policy with all its rungs open:
    so a rung that is closed is seen too, as far as shadows climb it. One whose draft is not there, or was made
    otherwise, says nothing of the rungs that it would have come to.
    """
    asked: dict[int, int] = {}
    stayed: dict[int, int] = {}
    for request in requests:
        made = {each.place: each for each in request if each.place is not None}
        end = _walked(policy, made)
        if end is None:
            continue
        height, kept = end
        for place in range(height):
            if policy.rungs[place].kind == "guidance":
                asked[place] = asked.get(place, 0) + 1
                stayed[place] = stayed.get(place, 0) + kept
    return {place: Seen(count, stayed[place]) for place, count in asked.items()}


def _walked(policy: Policy, made: Mapping[int, Kept]) -> tuple[int, bool] | None:
    """How many rungs were climbed, and whether the teacher was not asked then; None: nobody knows."""
    drafts: list[Draft] = []
    while (decision := decide(policy, drafts)).action == "ask":
        rung, one = policy.rungs[len(drafts)], made.get(len(drafts))
        if one is None or (one.model, one.guidance, one.limit) != (rung.student, rung.guidance_tokens, rung.max_tokens):
            return None
        drafts.append(one.draft)
    return len(drafts), decision.action == "accept"
