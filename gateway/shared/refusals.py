"""Refusals: how often limits and budgets refused whom, by the hour: what is refused is in no account.

A request that is refused must not wait for a database, and many of them at once must not load it: they are counted
here, and one task writes down every few seconds what has come.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.ledger.asking import asked
from gateway.ledger.schema import refusals
from gateway.ledger.store import Store

EVERY = 2.0
"""Seconds from a refusal until it is written down, with all that came meanwhile."""

ROOM = 10_000
"""So many hours, callers and reasons wait for a database that is away; what has no room is lost."""

KEPT_HOURS = 400 * 24
"""Older ones are forgotten."""

HOUR = 3600

Key = tuple[int, str, str]
"""The hour since the epoch, the caller, and what refused."""

log = structlog.get_logger("gateway.shared")


class Refusals:
    """The counts of one gateway, kept with those of its replicas in the ledger's `store`; without one, for itself.

    For the tasks of one event loop. What a process had not written down when it was killed, at most `EVERY` seconds of
    it, is lost; what a database took whose answer got lost may count twice. Close it with `aclose`, before the store.
    """

    def __init__(self, store: Store | None = None, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._waiting: Counter[Key] = Counter()
        self._moving = asyncio.Lock()  # held while counts are in neither place, or in both
        self._owner: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def add(self, caller: str, reason: str) -> None:
        """Count a refusal, now."""
        key = (int(self._clock() // HOUR), caller, reason)
        if key in self._waiting or len(self._waiting) < ROOM:
            self._waiting[key] += 1
        if self._store is not None and self._owner is None and not self._closing.is_set():
            self._owner = asyncio.create_task(self._own(self._store))

    async def counts(self, since: float | None = None, until: float | None = None) -> Mapping[tuple[str, str], int]:
        """The refusals of the hours from that of `since` to that before `until`, by caller and reason.

        Raises `Busy` when the database does not answer.
        """
        first = None if since is None else int(since // HOUR)
        last = None if until is None else -int(-until // HOUR)
        found: Counter[tuple[str, str]] = Counter()
        async with self._moving:
            waiting = dict(self._waiting)
            if self._store is not None:
                found.update(await asked(_read, self._store, first, last))
        for (hour, caller, reason), count in waiting.items():
            if (first is None or hour >= first) and (last is None or hour < last):
                found[caller, reason] += count
        return found

    async def aclose(self) -> None:
        """Write down what waits, if the database takes it now. Idempotent."""
        self._closing.set()
        if self._owner is not None:
            await asyncio.wait([self._owner])
        if self._store is not None and self._waiting:
            await self._write(self._store)

    async def _own(self, store: Store) -> None:
        while self._waiting and not self._closing.is_set():
            try:
                async with asyncio.timeout(EVERY):
                    await self._closing.wait()
            except TimeoutError:
                await self._write(store)
        self._owner = None

    async def _write(self, store: Store) -> None:
        async with self._moving:
            counts, self._waiting = self._waiting, Counter()
            try:
                await asyncio.to_thread(_add, store, counts, int(self._clock() // HOUR) - KEPT_HOURS)
            except Exception as error:  # noqa: BLE001 - whatever the database says: they wait on
                log.warning("refusals could not be written down", error=type(error).__name__)
                self._waiting += counts


def _add(store: Store, counts: Mapping[Key, int], forget: int) -> None:
    with store.transaction(write=True) as connection:
        into = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        for (hour, caller, reason), count in sorted(counts.items()):  # in order: replicas do not wait in a circle
            made = into(refusals).values(hour=hour, caller=caller, reason=reason, count=count)
            more = {"count": refusals.c.count + made.excluded.count}
            connection.execute(made.on_conflict_do_update(index_elements=["hour", "caller", "reason"], set_=more))
        connection.execute(delete(refusals).where(refusals.c.hour < forget))


def _read(store: Store, first: int | None, last: int | None) -> dict[tuple[str, str], int]:
    row = refusals.c
    within = [*([row.hour >= first] if first is not None else []), *([row.hour < last] if last is not None else [])]
    summed = select(row.caller, row.reason, func.sum(row.count)).where(*within).group_by(row.caller, row.reason)
    with store.transaction() as connection:
        return {(caller, reason): int(count) for caller, reason, count in connection.execute(summed)}
