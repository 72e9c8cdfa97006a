"""Build: what replicas share: in Redis, in the ledger's database, or in this process's memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gateway.ledger.store import Store
from gateway.shared.budget import Budget
from gateway.shared.cache import CACHE_BYTES, Cache, MemoryCache
from gateway.shared.limits import Limiter
from gateway.shared.memory import MemoryBudget, MemoryLimiter
from gateway.shared.sql_budget import SqlBudget
from students.breaker import MemorySwitches, Switches

if TYPE_CHECKING:
    from gateway.shared.link import Link

WhenAway = Literal["refuse", "local"]
"""While Redis is away: answer 503, or serve on limits and budgets that each process keeps by itself."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What replicas agree on. `link` is None where there is no Redis; metrics read it."""

    limiter: Limiter
    budget: Budget
    cache: Cache
    switches: Switches
    link: Link | None = None


@asynccontextmanager
async def open_shared(
    redis_url: str | None = None,
    *,
    when_away: WhenAway = "refuse",
    prefix: str = "gkt",
    store: Store | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> AsyncGenerator[Shared, None]:
    """Redis where there is a `redis_url`, else memory, with budgets in the ledger's `store` where that is given.

    Closed at the end, before whoever opened `store` closes that. `prefix` begins every key in Redis; `cache_bytes`
    bounds what the cache takes there, or in memory.

    Raises `ConfigError` for a URL that is none. A Redis that is away now is logged, and `when_away` holds.
    """
    if redis_url is None:
        if store is None:
            yield Shared(MemoryLimiter(), MemoryBudget(), MemoryCache(cache_bytes), MemorySwitches())
            return
        kept = SqlBudget(store)
        try:
            yield Shared(MemoryLimiter(), kept, MemoryCache(cache_bytes), MemorySwitches())
        finally:
            await kept.aclose()
        return
    # Redis's own package takes a while to import, and a part of OpenTelemetry with it.
    from gateway.shared.link import Link
    from gateway.shared.redis import RedisLimiter
    from gateway.shared.redis_budget import RedisBudget
    from gateway.shared.redis_cache import RedisCache
    from gateway.shared.redis_switches import RedisSwitches

    link = Link(redis_url, prefix=prefix)
    try:
        local = when_away == "local"
        limiter = RedisLimiter(link, local=MemoryLimiter() if local else None, prefix=prefix)
        budget = RedisBudget(link, local=local, prefix=prefix, store=store)
        await link.look()
        try:
            cache = RedisCache(link, limit=cache_bytes, prefix=prefix)
            yield Shared(limiter, budget, cache, RedisSwitches(link, prefix=prefix), link)
        finally:
            await budget.aclose()
    finally:
        await link.aclose()
