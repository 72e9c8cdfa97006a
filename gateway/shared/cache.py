"""Cache: small values that may be forgotten at any time and are never older than was said."""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

CACHE_BYTES = 64 * 2**20
"""What all values together take, unless something else is said."""

LARGEST = 64 * 2**10
"""Bytes of the largest value that is kept."""

OVERHEAD = 512
"""What one value is counted for beside its key and its bytes: about what Python, or Redis, spends on it."""


class Cache(Protocol):
    """Values by their keys, for many tasks at once. It is a help and never a hindrance: nothing is raised when it
    cannot be asked, and nobody waits for it longer than a `Link` waits for Redis.
    """

    async def get(self, key: str) -> bytes | None:
        """What was last put there; None when that is too old, was forgotten, or nobody can say."""
        ...

    async def put(self, key: str, value: bytes, seconds: float) -> bool:
        """Keep `value` for so many seconds, in place of what was there; ValueError unless there are some.

        False: it is not kept, for it is too large, or because nobody can be told. Where there is no room, others go:
        those that were not asked for longest, or those that would soonest be too old.
        """
        ...


def weight(key: str, value: bytes, limit: int) -> int | None:
    """The bytes that a value is counted for; None when it is too large to be kept within `limit`."""
    counted = OVERHEAD + len(key.encode()) + len(value)
    return None if len(value) > LARGEST or counted > limit else counted


def lasting(seconds: float) -> float:
    """`seconds`, when it is a time for which something can be kept; raises ValueError."""
    if not 0 < seconds < float("inf"):
        raise ValueError(f"a value is kept for some seconds, not for {seconds}")
    return seconds


class MemoryCache:
    """A `Cache` for one process, of at most `limit` bytes; the longest not asked for goes first.

    What is too old goes with the next call, whichever key that is about. `clock` counts seconds and never goes back.
    """

    def __init__(self, limit: int = CACHE_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = 0
        self._limit = limit
        self._clock = clock
        self._kept: OrderedDict[str, tuple[bytes, float, int]] = OrderedDict()
        self._ends: list[tuple[float, str]] = []

    async def get(self, key: str) -> bytes | None:
        self._forget_old()
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    async def put(self, key: str, value: bytes, seconds: float) -> bool:
        ends = self._clock() + lasting(seconds)
        self._forget_old()
        self._forget(key)
        counted = weight(key, value, self._limit)
        if counted is None:
            return False
        while self.size + counted > self._limit:
            self._forget(next(iter(self._kept)))
        self._kept[key] = value, ends, counted
        self.size += counted
        heapq.heappush(self._ends, (ends, key))
        if len(self._ends) > 2 * len(self._kept) + 64:  # most of them are of values that are gone
            self._ends = [(end, name) for name, (_, end, _) in self._kept.items()]
            heapq.heapify(self._ends)
        return True

    def _forget_old(self) -> None:
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            if key in self._kept and self._kept[key][1] <= now:  # it may have been put again since
                self._forget(key)

    def _forget(self, key: str) -> None:
        if key in self._kept:
            self.size -= self._kept.pop(key)[2]
