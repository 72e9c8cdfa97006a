"""PriceBook: dated prices with their source. (Interface; see the docstrings.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pricing.money import Money
from pricing.usage import Usage

PriceSource = Literal["config", "genai-prices", "litellm"]


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens and seconds cost at one moment, and the row that says so.

    Rates are `Money` per million tokens; `per_hour` is `Money` per hour of the machine that a self-hosted model
    occupies. None: this row does not price that bucket. `cached` None: cached input costs as much as other input.
    """

    model: str
    source: PriceSource
    input: Money | None = None
    output: Money | None = None
    cached: Money | None = None
    cache_write: Money | None = None
    per_hour: Money | None = None
    row: str = ""

    def cost(self, usage: Usage) -> Money | None:
        """The amount of `usage`, rounded once; None when a needed count or rate is unknown."""
        raise NotImplementedError
