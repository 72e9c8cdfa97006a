"""Logouts: sessions of the dashboard that are over before their time, for all replicas and after any restart.

A session proves itself by its signature, so that nothing is kept of it while it is good. What is kept of one that was
ended is a digest of its name, until it would have ended by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable

from sqlalchemy import delete, exc, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.errors import Busy
from gateway.ledger.schema import ended_sessions
from gateway.ledger.store import Store


class Logouts:
    """Those that any process on the ledger's `store` has ended. Any task may call any method."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    async def end(self, name: str, until: float) -> None:
        """The session of that name, which would have been good `until` then, is over once this returns.

        Idempotent. Raises `Busy`: nobody else may know of it.
        """
        try:
            await asyncio.to_thread(self._end, name, until)
        except (exc.DBAPIError, exc.TimeoutError):
            raise Busy("The ledger's database does not answer: the session may not be over. Try again.") from None

    async def ended(self, name: str) -> bool:
        """Whether it is over. Raises `Busy` when nobody can say: a session that may be over opens nothing."""
        try:
            return await asyncio.to_thread(self._ended, name)
        except (exc.DBAPIError, exc.TimeoutError):
            raise Busy("The ledger's database does not answer: nobody can say whether the session is over.") from None

    def _end(self, name: str, until: float) -> None:
        with self._store.transaction(write=True) as connection:
            into = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
            made = into(ended_sessions).values(digest=_digest(name), until=until)
            connection.execute(made.on_conflict_do_nothing())
            connection.execute(delete(ended_sessions).where(ended_sessions.c.until < self._clock()))

    def _ended(self, name: str) -> bool:
        # Found by its digest, not by comparing names: how long that takes tells nothing that opens anything.
        found = select(ended_sessions.c.until).where(ended_sessions.c.digest == _digest(name))
        with self._store.transaction() as connection:
            return connection.scalar(found) is not None


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
