"""Build: what replicas share, in this process's memory or in Redis."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from gateway.shared.budget import Budget
from gateway.shared.limits import Limiter
from gateway.shared.link import Link
from gateway.shared.memory import MemoryBudget, MemoryLimiter
from gateway.shared.redis import RedisLimiter
from gateway.shared.redis_budget import RedisBudget

WhenAway = Literal["refuse", "local"]
"""While Redis is away: answer 503, or serve on limits and budgets that each process keeps by itself."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What replicas agree on. `link` is None where there is one process and no Redis; metrics read it."""

    limiter: Limiter
    budget: Budget
    link: Link | None = None


@asynccontextmanager
async def open_shared(
    redis_url: str | None = None, *, when_away: WhenAway = "refuse", prefix: str = "gkt"
) -> AsyncGenerator[Shared, None]:
    """Memory without a `redis_url`, else Redis; closed at the end. `prefix` begins every key in Redis.

    Raises `ConfigError` for a URL that is none. A Redis that is away now is logged, and `when_away` holds.
    """
    if redis_url is None:
        yield Shared(MemoryLimiter(), MemoryBudget())
        return
    link = Link(redis_url)
    try:
        local = when_away == "local"
        limiter = RedisLimiter(link, local=MemoryLimiter() if local else None, prefix=prefix)
        budget = RedisBudget(link, local=local, prefix=prefix)
        await link.look()
        try:
            yield Shared(limiter, budget, link)
        finally:
            await budget.aclose()
    finally:
        await link.aclose()
