"""Limits: how many requests and tokens a minute, and how many requests at once, one subject may have.

Rates are buckets that refill continuously: a subject may use a whole minute's allowance at once and then goes on at
the pace of its limit. That is what OpenAI's `x-ratelimit-*` headers describe, needs two numbers a subject instead of
a list of the last minute's requests, and can be corrected when the true tokens are known. (GCRA is the same rule in
other clothes. Its price, here as there: some 60 seconds may see up to twice the limit.)

The `limits` package was weighed and left: its `hit` takes one limit at a time and not several atomically, nothing can
be given back, it knows no requests at once, and its exact window keeps one list element for every token.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Literal, Protocol

from gateway.allowance import Limits
from gateway.errors import RateLimited

MINUTE = 60.0
GRAIN = 1e-6
"""Parts of a unit that floating point may be wrong by; less than this is not missing."""
PLACE_SECONDS = 1.0
"""When to try again for a place: nobody knows when a request ends."""

GRACE_SECONDS = 1.0
"""What leaks in this time is given back all the same: the clock of the bucket may be another machine's."""

Kind = Literal["requests", "tokens", "concurrent"]


@dataclass(slots=True, eq=False)
class Taken:
    """What a request holds until it is given back. `headers` belong to its answer, also to a good one.

    `at` is when it was taken, in seconds of a clock that never goes back. `id` names its place; `local`: it was granted
    while replicas could not agree; `over`: it was given back.
    """

    subject: str
    limits: Limits
    tokens: int
    id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    local: bool = False
    over: bool = False
    at: float = field(default_factory=time.monotonic)

    def correction(self, tokens: int | None, now: float) -> int:
        """By how many tokens the bucket changes when the request turns out to have taken `tokens`; None: by none.

        What has leaked since it was taken is no longer in the bucket, and cannot be given back.
        """
        limit = self.limits.tokens_per_minute
        if tokens is None or limit is None:
            return 0
        leaked = max(0.0, now - self.at - GRACE_SECONDS) * limit / MINUTE
        return max(tokens - self.tokens, -max(0, ceil(self.tokens - leaked)))


class Limiter(Protocol):
    """Admits requests, for one process or for all replicas."""

    async def take(self, subject: str, limits: Limits, tokens: int) -> Taken:
        """Take a request, `tokens` (the estimate for all of it) and a place, or nothing at all.

        `subject` is the id of a key, never the key. Raises `RateLimited`, with the time after which it may be
        granted; `Busy` when nobody can say. Every `Taken` must be given back.
        """
        ...

    async def give(self, taken: Taken, tokens: int | None) -> None:
        """The request is over: free its place, and count `tokens` instead of the estimate (None: the estimate stays).

        A second call does nothing. Never raises for a limiter that is out of reach: its places expire.
        """
        ...


@dataclass(frozen=True, slots=True)
class Levels:
    """What a limiter found: the units in use, with this request in them when it was admitted; and what refused it."""

    requests: float = 0.0
    tokens: float = 0.0
    refused: Kind | None = None


def check_size(limits: Limits, tokens: int) -> None:
    """Raises `RateLimited` for a request that no waiting would admit, `ValueError` for a negative estimate."""
    if tokens < 0:
        raise ValueError("a request cannot take fewer than no tokens")
    limit = limits.tokens_per_minute
    if limit is not None and tokens > limit:
        raise RateLimited(
            f"Request too large: it may take {tokens} tokens, the limit is {limit} tokens per minute. "
            "Shorten the messages or lower max_tokens.",
            headers={"x-ratelimit-limit-tokens": str(limit), "x-should-retry": "false"},
            limit="tokens",
        )


def headers(limits: Limits, levels: Levels) -> Mapping[str, str]:
    """OpenAI's `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` for the limits that are set."""
    said: dict[str, str] = {}
    for name, limit, used in _rates(limits, levels):
        said[f"x-ratelimit-limit-{name}"] = str(limit)
        said[f"x-ratelimit-remaining-{name}"] = str(max(0, floor(limit - used + GRAIN)))
        said[f"x-ratelimit-reset-{name}"] = spell(used * MINUTE / limit)
    return said


def refusal(limits: Limits, levels: Levels, tokens: int) -> RateLimited:
    """What a refused request is told: which limit, and when there will be room under all of them."""
    wait = PLACE_SECONDS if levels.refused == "concurrent" else 0.0
    for name, limit, used in _rates(limits, levels):
        wanted = 1 if name == "requests" else tokens
        wait = max(wait, (used + wanted - limit) * MINUTE / limit)
    if levels.refused == "concurrent":
        why = f"{limits.concurrent} requests at once"
    elif levels.refused == "requests":
        why = f"{limits.requests_per_minute} requests per minute"
    else:
        why = f"{limits.tokens_per_minute} tokens per minute ({tokens} asked for)"
    return RateLimited(
        f"Rate limit reached: {why}. Please try again in {spell(wait)}.",
        retry_after=wait,
        headers=headers(limits, levels),
        limit=levels.refused,
    )


def spell(seconds: float) -> str:
    """A time span as OpenAI's headers spell it, rounded up to a millisecond: `0s`, `20ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    milliseconds = max(0, ceil(seconds * 1000 - GRAIN))
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}" if minutes else text


def _rates(limits: Limits, levels: Levels) -> list[tuple[Kind, int, float]]:
    rates: list[tuple[Kind, int | None, float]] = [
        ("requests", limits.requests_per_minute, levels.requests),
        ("tokens", limits.tokens_per_minute, levels.tokens),
    ]
    return [(name, limit, used) for name, limit, used in rates if limit is not None]
