"""The ledger on an SQL database: what the gateway opens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import structlog

from gateway.cascade.kept import Kept
from gateway.chat import Call
from gateway.errors import ConfigError
from gateway.ledger import rows
from gateway.ledger.asking import asked
from gateway.ledger.backlog import Backlog, place
from gateway.ledger.engines import Synchronous
from gateway.ledger.entry import Entry, LengthKey, Listed, Made, Query, SavingsRow, Source, Timed, Traffic
from gateway.ledger.replay import replay
from gateway.ledger.store import Store
from gateway.ledger.sums import Brief, Sums
from gateway.ledger.writer import Writer
from pricing.length_ratio import Pairs

log = structlog.get_logger(__name__)

ALL = Query()

SPOOL_BYTES = 256 * 2**20
"""Room for what about a quarter of a million requests leave behind."""


class SqlLedger:
    """A `Ledger` over SQLite or PostgreSQL, for the tasks of the event loop in which it is opened.

    Several processes may have one database open; each recovers what others left when they died, at opening and
    with every heartbeat. With SQLite, a commit survives the death of the process; the last ones before a loss of
    power may be missing (WAL with `synchronous` normal), and then all of a commit is.

    What reads raises `Busy` while the database does not answer.
    """

    def __init__(self, store: Store, run: int, writer: Writer, clock: Callable[[], float], *, text: bool) -> None:
        self._store = store
        self._run = run
        self._writer = writer
        self._clock = clock
        self._text = text
        self._closed: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        text: bool = False,
        clock: Callable[[], float] = time.time,
        limit: int = 10_000,
        patience: float = 5.0,
        heartbeat: float = 15.0,
        spool: Path | None = None,
        spool_bytes: int = SPOOL_BYTES,
        synchronous: Synchronous = "normal",
    ) -> Self:
        """Open the database at `url` (see `Store.open`), write to it what dead processes left on disk, and settle
        what they left open.

        `text`: keep the text of entries that bring it. `limit`, `patience`: see `Writer`. `heartbeat` is in
        seconds. `spool` is the folder for what the database does not take, None for the usual one (see `place`),
        `spool_bytes` the most that may wait there; 0: nothing does. Raises `ConfigError` when the database or the
        folder cannot be used. Close it with `aclose`.
        """
        store = await asyncio.to_thread(Store.open, url, synchronous)
        backlog: Backlog | None = None
        try:
            backlog = await asyncio.to_thread(_backlog, url, spool, spool_bytes)
            run = await asyncio.to_thread(store.join, clock())

            def catch_up() -> None:
                if backlog is not None:
                    backlog.adopt()
                    while backlog.waits and replay(store, backlog):
                        pass

            def recover() -> None:
                try:
                    settled = store.recover(run, clock())
                except Exception as error:
                    if not store.transient(error):
                        raise
                    # Somebody has locked what it needs: no reason not to start, or to wait.
                    log.warning("ledger cannot settle now what dead processes left", error=type(error).__name__)
                    return
                if settled:
                    log.warning("ledger settled at their bounds calls that a dead process left open", calls=settled)

            def tick() -> None:
                if backlog is not None:
                    backlog.adopt()
                store.beat(run, clock())
                recover()

            await asyncio.to_thread(catch_up)
            await asyncio.to_thread(recover)
        except BaseException:
            if backlog is not None:
                backlog.close()
            store.close()
            raise
        writer = Writer(store, tick, backlog=backlog, limit=limit, patience=patience, every=heartbeat)
        return cls(store, run, writer, clock, text=text)

    @property
    def store(self) -> Store:
        """The open database, for others who keep something in it; closed with the ledger."""
        return self._store

    @property
    def run(self) -> int:
        """This process in the ledger: what it leaves behind is known by that."""
        return self._run

    @property
    def waiting(self) -> int:
        """How many intents and entries are neither committed nor on disk."""
        return self._writer.waiting

    @property
    def spooled(self) -> int:
        """Bytes on this process's disk that the database has not taken; 0 while it works."""
        return self._writer.spooled

    @property
    def away(self) -> bool:
        """Whether the database takes no rows now: they wait on disk, or in memory."""
        return self._writer.away

    @property
    def full(self) -> bool:
        """Whether new calls are refused for want of room on disk."""
        return self._writer.full

    async def intend(self, call: Call) -> None:
        """Put `call` on record, open, with its bound. Raises `Busy`: it is not on record and must not be made."""
        await self._writer.intend(rows.intent(call, self._run))

    async def settle(self, entry: Entry) -> None:
        """Write `entry` and close its calls; a second settle of the same id is ignored.

        An entry is never refused for want of room; while the database fails it waits on disk. Raises `Busy` when the
        ledger is closed, `GatewayError` when the database refuses the very row. A cancelled wait takes nothing
        back: the entry is written all the same.
        """
        await self._writer.settle(rows.settlement(entry, self._run, text=self._text))

    async def entry(self, request_id: str) -> dict[str, Any] | None:
        """One entry with its `calls`, `corrections` and `shadow` as plain data, or None; see `Store.entry`.

        Amounts are nano-dollars, None where unknown.
        """
        return await asked(self._store.entry, request_id)

    async def entries(
        self, query: Query = ALL, *, limit: int = 100, before: tuple[float, str] | None = None
    ) -> list[dict[str, Any]]:
        """The newest requests that `query` wants, newest first, as plain data without their calls or measurements.

        `before`: only those older than the entry with this `at` and `request_id`, for paging.
        """
        return await asked(self._store.entries, query, limit, before)

    async def listed(
        self, query: Query = ALL, *, limit: int = 100, before: tuple[float, str] | None = None
    ) -> Sequence[Listed]:
        """The same, as far as a list has room for it: of thousands, in a fraction of the time."""
        return await asked(self._store.listed, query, limit, before)

    async def calls(self, query: Query = ALL, *, limit: int = 1000) -> list[Made]:
        """The settled calls of the newest `limit` entries that `query` wants, in no order."""
        return await asked(self._store.calls, query, limit)

    async def timed(
        self, upstream: str, *, since: float | None = None, until: float | None = None, limit: int = 1000
    ) -> list[Timed]:
        """The newest `limit` settled calls to `upstream` that began in a range of time, newest first.

        Amounts are as booked: corrections are not in them.
        """
        return await asked(self._store.timed, upstream, since, until, limit)

    async def savings(self, query: Query = ALL) -> Sequence[SavingsRow]:
        """Sums of the settled entries, one row a group, ordered by group; ungrouped: one row named `all`.

        Baselines are summed over the requests that are compared, so that `saved` is `baseline - compared_spent`;
        `baseline_low` and `baseline_high` are None when one of those requests lacks them. Raises `BadRequest`
        for a grouping that there is not.
        """
        return await asked(self._store.savings, query)

    async def sums(self, query: Query = ALL) -> Mapping[str, Sums]:
        """The same by group, not yet made into rows: for who shows few of many groups, or adds them up."""
        return await asked(self._store.sums, query)

    async def brief(self, query: Query) -> Mapping[str, Brief]:
        """A few of the measures by group (no hours or days), in no order: several times as fast, of many groups."""
        return await asked(self._store.brief, query)

    async def names(self, query: Query, *, limit: int) -> Sequence[str]:
        """The groups of `query` that most requests are of, at most `limit`, in order; of whole hours."""
        return await asked(self._store.names, query, limit)

    async def lengths(self, since: float) -> Mapping[LengthKey, Pairs]:
        """Sums over the lengths of the answers that were measured from `since` on (seconds since the epoch)."""
        return await asked(self._store.lengths, since)

    async def climbed(self, route: str, since: float, limit: int) -> Sequence[Sequence[Kept]]:
        """The drafts of the newest `limit` requests since then that this route's cascade answered, its shadows' too."""
        return await asked(self._store.climbed, route, since, limit)

    async def score(self, request_id: str, source: Source, value: float, label: str | None = None) -> None:
        """Put a score from 0 to 1 on record, in place of an earlier one of the same source. Raises `Busy`."""
        await asked(self._store.score, request_id, source, value, label)

    async def observed(self, since: float | None = None, until: float | None = None) -> tuple[dict[str, Traffic], bool]:
        """The traffic of each route that was measured or scored in a range of time; and whether there was more."""
        return await asked(self._store.observed, since, until)

    async def aclose(self) -> None:
        """Write everything that waits, then close. Idempotent; goes on to its end when the caller is cancelled."""
        if self._closed is None:
            self._closed = asyncio.create_task(self._close())
        await asyncio.shield(self._closed)

    async def _close(self) -> None:
        await self._writer.close()
        try:
            await asyncio.to_thread(self._store.leave, self._run, self._clock())
        except Exception as error:  # noqa: BLE001 - a run that could not say goodbye is found dead later
            log.warning("ledger could not end its run", error=str(error))
        await asyncio.to_thread(self._store.close)


def _backlog(url: str, folder: Path | None, limit: int) -> Backlog | None:
    where = place(url, folder) if limit else None
    if where is None:
        return None
    try:
        return Backlog(*where, limit)
    except OSError as error:
        raise ConfigError(f"the ledger's spool cannot be made in {where[0]}: {error.strerror}") from error
