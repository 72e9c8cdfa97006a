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


def closed(policy: Policy, teacher: Price | None, seen: Mapping[int, Seen] = MappingProxyType({})) -> dict[int, str]:
    """The rungs of guidance that do not pay, by their place, and why. `teacher`: its price; None: not known.

    What was `seen` counts beside the policy's evidence, which is `CALIBRATION` requests at most: the more is seen, the
    less the evidence matters.
    """
    guided = [place for place, rung in enumerate(policy.rungs) if rung.kind == "guidance"]
    shut = {place: _shut(policy, place, teacher, seen.get(place, Seen(0, 0))) for place in guided}
    return {place: why for place, why in shut.items() if why is not None}


def _shut(policy: Policy, place: int, teacher: Price | None, seen: Seen) -> str | None:
    rung, length = policy.rungs[place], Length.of(policy.evidence)
    words = f"guidance of {rung.guidance_tokens} tokens"
    told = rung.observed if rung.observed is not None and rung.observed.asked else None
    known = min(told.asked, CALIBRATION) if told is not None else 0
    if told is None and seen.asked < ENOUGH:
        return f"nobody has seen yet what {words} keeps from the teacher"
    kept = ((told.kept * known if told is not None else 0.0) + seen.kept) / (known + seen.asked)
    # What the calibration saw holds the student's part too, today's prices the teacher's alone.
    needed = told.needed if told is not None else None
    if policy.begins(place) and teacher is not None and length is not None:
        now = needed_accept_rate(
            teacher, input_tokens=length.read, guidance=rung.guidance_tokens, length=length.written
        )
        needed = needed if now is None else max(needed or 0.0, float(now))
    if needed is None and policy.begins(place):
        return f"nobody knows what {words} costs of the teacher's answer"
    if kept > (needed or 0.0):
        return None
    return f"{words} keeps {kept:.3f} from the teacher and pays above {needed or 0.0:.3f}"


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
