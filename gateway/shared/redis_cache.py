"""Redis, the cache that all replicas share: one script a step, and a bound on what all values take there."""

from __future__ import annotations

from gateway.shared.cache import CACHE_BYTES, OVERHEAD, lasting, weight
from gateway.shared.link import Away, Link, Script

GET, PUT = Script.load("cache_get"), Script.load("cache_put")


class RedisCache:
    """A `Cache` for all replicas that share one Redis; nothing is found and nothing kept while that is away.

    Its values count for at most `limit` bytes, so that they leave room for what must not be forgotten; those that
    would soonest be too old go first.
    """

    def __init__(self, link: Link, *, limit: int = CACHE_BYTES, prefix: str = "gkt") -> None:
        self._link = link
        self._limit = limit
        # The braces keep all of it together where Redis is many servers.
        self._base = f"{prefix}:{{cache}}"

    async def get(self, key: str) -> bytes | None:
        try:
            found = await self._link.run(GET, [self._key(key)], [])
        except Away:
            return None
        return None if found is None else _bytes(found)

    async def put(self, key: str, value: bytes, seconds: float) -> bool:
        milliseconds = max(1, round(lasting(seconds) * 1000))
        kept = self._key(key)
        text = _text(value)
        fits = weight(kept, text.encode(), self._limit) is not None
        # What does not fit still takes the place of what was there.
        args: list[str | int] = [text if fits else "", milliseconds if fits else 0, OVERHEAD, self._limit]
        try:
            await self._link.run(PUT, [kept, f"{self._base}:index", f"{self._base}:size"], args)
        except Away:
            return False
        return fits

    def _key(self, key: str) -> str:
        return f"{self._base}:value:{key}"


def _text(value: bytes) -> str:
    """The link speaks text. Any bytes are text in this encoding, and ASCII, which values mostly are, stays as it is."""
    return value.decode("latin-1")


def _bytes(text: str) -> bytes | None:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:  # somebody else has written there
        return None
