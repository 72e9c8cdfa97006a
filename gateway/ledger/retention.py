"""Retention: a running gateway removes by itself, once a day, what is older than it is to be kept.

In small batches with pauses between them, so that the rows of requests do not wait. Several gateways on one database
may all do it: what one is just removing, the others leave to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from sqlalchemy import select, update

from gateway.ledger import upkeep
from gateway.ledger.savings import DAY, HOUR
from gateway.ledger.schema import entries
from gateway.ledger.store import Store

FIRST = 60.0
"""Seconds after the start: then there is other work."""

BATCH = 200
"""Entries of one transaction."""

PAUSE = 0.05
"""Seconds between two, for those who wait."""

log = structlog.get_logger(__name__)


class Retention:
    """Keeps entries `days` days, their texts `texts` days; None: for ever. `aside` removes files older than a moment.

    A day (UTC) is removed as a whole, when its last moment is that old.
    """

    def __init__(
        self,
        store: Store,
        days: int | None,
        texts: int | None,
        aside: Callable[[float], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._days = days
        self._texts = texts
        self._aside = aside
        self._clock = clock

    async def run(self) -> None:
        """Once a day until cancelled."""
        await asyncio.sleep(FIRST)
        while True:
            try:
                await self.once()
            except Exception as error:  # noqa: BLE001 - the database is away: tomorrow is early enough
                log.warning("the ledger could not remove what is old", error=type(error).__name__)
            await asyncio.sleep(DAY * HOUR)

    async def once(self) -> tuple[int, int]:
        """Remove what is old now: how many texts and entries that were."""
        texts = entries = 0
        if self._texts is not None:
            texts = await self._remove_texts(self._start(self._texts))
        if self._days is not None:
            start = self._start(self._days)
            while count := await asyncio.to_thread(self._remove_entries, start):
                entries += count
                await asyncio.sleep(PAUSE)
        days = min((each for each in (self._texts, self._days) if each is not None), default=None)
        files = 0 if days is None else await asyncio.to_thread(self._aside, self._start(days))
        if texts or entries or files:
            log.info("the ledger removed what is old", texts=texts, entries=entries, files=files)
        return texts, entries

    def _start(self, days: int) -> float:
        """The beginning of the first day that is kept."""
        return (self._clock() - days * DAY * HOUR) // (DAY * HOUR) * DAY * HOUR

    def _remove_entries(self, start: float) -> int:
        with self._store.transaction(write=True) as connection:
            return upkeep.prune_some(connection, start, "entries", BATCH)

    async def _remove_texts(self, start: float) -> int:
        removed, place = 0, (float("-inf"), "")
        while found := await asyncio.to_thread(self._next, place, start):
            await asyncio.to_thread(self._clear, [name for _, name in found])
            removed += len(found)
            place = found[-1]
            await asyncio.sleep(PAUSE)
        return removed

    def _next(self, place: tuple[float, str], start: float) -> list[tuple[float, str]]:
        """The next entries with a text behind `place`: found before anybody has to wait, and each looked at once."""
        row = entries.c
        behind = (row.at > place[0]) | ((row.at == place[0]) & (row.request_id > place[1]))
        chosen = select(row.at, row.request_id).where(row.at >= place[0], behind, row.at < start, row.text.is_not(None))
        with self._store.transaction() as connection:
            found = connection.execute(chosen.order_by(row.at, row.request_id).limit(BATCH))
            return [(at, request_id) for at, request_id in found]

    def _clear(self, names: list[str]) -> None:
        with self._store.transaction(write=True) as connection:
            connection.execute(update(entries).where(entries.c.request_id.in_(names)).values(text=None))
