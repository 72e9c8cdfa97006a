"""Usage: what one call to a model consumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Source = Literal["reported", "counted", "estimated"]

SOURCES: tuple[Source, ...] = get_args(Source)
"""The surest first."""


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

    def plus(self, other: Usage) -> Usage:
        """Both together. A part (`cached`, ...) that only one of them knows is at least that; a whole is then unknown.

        The sum is only as sure as the less sure of them.
        """
        return Usage(
            input=_whole(self.input, other.input),
            output=_whole(self.output, other.output),
            cached=_part(self.cached, other.cached),
            cache_write=_part(self.cache_write, other.cache_write),
            reasoning=_part(self.reasoning, other.reasoning),
            seconds=None if self.seconds is None or other.seconds is None else self.seconds + other.seconds,
            source=max(self.source, other.source, key=SOURCES.index),
        )

    @property
    def visible(self) -> int | None:
        """Output tokens that a reader sees: `output` without `reasoning`."""
        return None if self.output is None else self.output - (self.reasoning or 0)


def _whole(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _part(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)
