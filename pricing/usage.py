"""Usage: what one call to a model consumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["reported", "counted", "estimated"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and machine time of one call. Buckets are inclusive, as OpenAI reports them.

    `input` holds all prompt tokens; `cached` and `cache_write` are parts of it. `output` holds all completion
    tokens; `reasoning` is a part of it. `seconds` is machine time that a self-hosted engine was busy with this
    call. None means unknown: the upstream did not say and nobody counted; it never means 0.

    `source` says who found the token counts: `reported` by the upstream, `counted` by us with the model's own
    vocabulary, or `estimated` by us without it.
    """

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    seconds: float | None = None
    source: Source = "reported"

    @property
    def visible(self) -> int | None:
        """Output tokens that a reader sees: `output` without `reasoning`."""
        return None if self.output is None else self.output - (self.reasoning or 0)
