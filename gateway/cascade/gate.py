"""The gate of break-even: does a rung of guidance pay at these prices? Pure.

A hint that may be escalated pays iff the share that it keeps from the teacher is above G / F, what it costs of the
teacher's whole answer (`pricing.breakeven.needed_accept_rate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.cascade.policy import Policy, Rung
from pricing.breakeven import needed_accept_rate
from pricing.price import Price


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


def closed(policy: Policy, teacher: Price | None) -> dict[int, str]:
    """The rungs of guidance that do not pay, by their place, and why. `teacher`: its price; None: not known."""
    length = Length.of(policy.evidence)
    shut = {place: _shut(rung, teacher, length) for place, rung in enumerate(policy.rungs)}
    return {place: why for place, why in shut.items() if why is not None}


def _shut(rung: Rung, teacher: Price | None, length: Length | None) -> str | None:
    if rung.kind != "guidance":
        return None
    words = f"guidance of {rung.guidance_tokens} tokens"
    if rung.observed is None or rung.observed.asked == 0:
        return f"nobody has seen yet what {words} keeps from the teacher"
    kept, needed = rung.observed.kept, rung.observed.needed
    if teacher is not None and length is not None:
        # Today's prices; what was observed holds the student's part too.
        now = needed_accept_rate(
            teacher, input_tokens=length.read, guidance=rung.guidance_tokens, length=length.written
        )
        needed = max(needed, float(now)) if now is not None else needed
    if kept > needed:
        return None
    return f"{words} keeps {kept:.3f} from the teacher and pays above {needed:.3f}"
