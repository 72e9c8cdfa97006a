"""Baseline: what the teacher alone would have cost. (Interface; see the docstrings.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pricing.money import Money

Method = Literal["measured", "calibrated", "same_length"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The teacher-only cost of one request, as a range and a likely value; None when it cannot be priced.

    `method` is always shown beside the number: `measured` (the teacher did answer all of it), `calibrated` (from
    measured length ratios), `same_length` (the teacher is taken to write as many tokens as were shown).
    `output_tokens` is the teacher output behind `likely`: the paper's own measure compares those alone.
    """

    method: Method
    low: Money | None
    likely: Money | None
    high: Money | None
    output_tokens: int | None = None
