"""One thread owns the writing: it takes everything that waits and commits it together.

A request must not pay for a transaction of its own, and the event loop must not wait for a disk. Callers put an
item and await its future; the thread writes all that has gathered meanwhile as one transaction, and wakes them
together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

import structlog

from gateway.errors import Busy, GatewayError
from gateway.ledger.rows import Intent, Settlement
from gateway.ledger.spool import Backlog, Item
from gateway.ledger.store import Store

log = structlog.get_logger(__name__)

LARGEST = 1000
"""The most items of one transaction; a longer one would keep other processes waiting."""

RETRY = (0.05, 1.0)
"""Seconds between attempts on a database that fails: the first pause, doubled up to the last."""


@dataclass(slots=True)
class _Ticket:
    item: Item
    future: asyncio.Future[None]
    since: float


_Result = tuple[asyncio.Future[None], GatewayError | None]


class Writer:
    """Writes intents and settlements for the tasks of one event loop.

    At most `limit` items wait. While the database fails, items go to the `backlog` on disk, which is as good to their
    callers, and from there to the database, in order, when it works again. Beyond `limit`, when the backlog is nearly
    full, and when neither has taken an intent for `patience` seconds, `intend` raises `Busy`: the call must not be
    made. A settlement is money that was spent: it is taken beyond the limit and tried until it is written; only
    `close` gives up on one that is not even on disk, and says so in the log.
    """

    def __init__(
        self,
        store: Store,
        tick: Callable[[], None],
        *,
        backlog: Backlog | None = None,
        limit: int = 10_000,
        patience: float = 5.0,
        every: float = 15.0,
    ) -> None:
        """`tick` is called on the writer's thread every `every` seconds; must be made inside the event loop."""
        self._store = store
        self._tick = tick
        self._backlog = backlog
        self._limit = limit
        self._patience = patience
        self._every = every
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Ticket | None] = SimpleQueue()
        self._waiting = 0
        self._closing = False  # of the loop: nothing more is put
        self._closed = False  # of the thread: nothing more will come
        self._pause = 0.0  # of the thread: how long to leave a failing database alone; 0: it works
        self._thread = Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many items are neither committed nor on disk."""
        return self._waiting

    @property
    def spooled(self) -> int:
        """How many bytes wait on disk."""
        return self._backlog.size if self._backlog is not None and self._backlog.own_waits else 0

    def intend(self, item: Intent) -> asyncio.Future[None]:
        """Queue an intent; the future is done when it is on record. Raises `Busy` at once when there is no room."""
        if self._waiting >= self._limit:
            raise Busy("the ledger has too much to write")
        if self._backlog is not None and self._backlog.full:
            raise Busy("the ledger's database is away, and the room on disk is used up")
        return self._put(item)

    def settle(self, item: Settlement) -> asyncio.Future[None]:
        """Queue a settlement; the future is done when it is on record. Raises `Busy` only after `close`."""
        return self._put(item)

    def _put(self, item: Item) -> asyncio.Future[None]:
        if self._closing:
            raise Busy("the ledger is closing")
        ticket = _Ticket(item, self._loop.create_future(), time.monotonic())
        self._waiting += 1
        self._queue.put(ticket)
        return ticket.future

    async def close(self) -> None:
        """Write what waits, for at most `patience` seconds on a database that fails; then stop the thread.

        What is on disk by then stays there for a later process.
        """
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        """The thread. It ends when `close` was called, nothing is held and nothing can be brought in from disk."""
        held: list[_Ticket] = []
        beat = time.monotonic() + self._every
        again = 0.0
        last = float("inf")
        while not self._closed or held or (self._spooled and (not self._pause or time.monotonic() < last)):
            now = time.monotonic()
            until = again if self._pause else now if self._spooled else beat
            # What the disk did not take is not tried again before its time; new items may still find room there.
            self._take(held, max(0.0, min(until, beat) - now))
            now = time.monotonic()
            if self._closed and last == float("inf"):
                last = now + self._patience
            if now >= again:
                held = self._write(held)
                again = time.monotonic() + self._pause
            held = self._give_up(self._spill(held), final=now > last)
            if now >= beat:
                self._beat()
                beat = now + self._every
        if self._backlog is not None:
            self._backlog.close()

    @property
    def _spooled(self) -> bool:
        return self._backlog is not None and self._backlog.waits

    def _take(self, held: list[_Ticket], wait: float) -> None:
        """Move all that is queued to `held`; with nothing queued, wait for the first."""
        if self._closed:
            time.sleep(wait)
            return
        try:
            ticket = self._queue.get(timeout=wait) if wait else self._queue.get_nowait()
            while ticket is not None:
                held.append(ticket)
                ticket = self._queue.get_nowait()
            self._closed = True  # nothing is queued behind the mark
        except Empty:
            pass

    def _write(self, held: list[_Ticket]) -> list[_Ticket]:
        """Write to the database what waits on disk, then `held`; what it did not come to is returned."""
        if self._backlog is not None and self._backlog.waits:
            self._tried(works=replay(self._store, self._backlog))
            if self._pause or self._backlog.own_waits:
                return held
        done: list[_Result] = []
        start = 0
        while start < len(held):
            batch = held[start : start + LARGEST]
            refused: dict[int, Exception] = {}
            count = commit(self._store, [ticket.item for ticket in batch], refused)
            self._keep([batch[n].item for n in refused])
            done += [(ticket.future, _refused(refused.get(n))) for n, ticket in enumerate(batch[:count])]
            start += count
            self._tried(works=count == len(batch))
            if self._pause:
                break
        self._wake(done)
        return held[start:]

    def _keep(self, refused: Sequence[Item]) -> None:
        """Keep aside the settlements among them: they are money. The call of an intent is not made."""
        settled = [item for item in refused if isinstance(item, Settlement)]
        if not settled or self._backlog is None:
            return
        try:
            self._backlog.refuse(settled)
            log.critical("ledger keeps aside what its database refused", items=len(settled))
        except OSError as error:
            lost = [item.request_id for item in settled]
            log.critical("ledger cannot keep aside what its database refused", request_ids=lost, error=str(error))

    def _tried(self, *, works: bool) -> None:
        self._pause = 0.0 if works else min(self._pause * 2, RETRY[1]) or RETRY[0]

    def _spill(self, held: list[_Ticket]) -> list[_Ticket]:
        """Put on disk what the database did not come to, and wake its callers; what has no room is returned."""
        if not held or self._backlog is None:
            return held
        taken = self._backlog.take([ticket.item for ticket in held])
        self._wake([(ticket.future, None) for ticket, is_on_disk in zip(held, taken, strict=True) if is_on_disk])
        return [ticket for ticket, is_on_disk in zip(held, taken, strict=True) if not is_on_disk]

    def _give_up(self, held: list[_Ticket], *, final: bool) -> list[_Ticket]:
        """Refuse intents that waited too long; at the end, everything. What is to be tried again is returned."""
        patient = time.monotonic() - self._patience
        kept: list[_Ticket] = []
        dropped: list[_Ticket] = []
        for ticket in held:
            again = not final and (isinstance(ticket.item, Settlement) or ticket.since > patient)
            (kept if again else dropped).append(ticket)
        lost = [ticket.item.request_id for ticket in dropped if isinstance(ticket.item, Settlement)]
        if lost:
            log.critical("ledger closed with entries that the database did not take", request_ids=lost)
        self._wake([(ticket.future, Busy("the ledger's database does not take writes")) for ticket in dropped])
        return kept

    def _wake(self, done: list[_Result]) -> None:
        if not done:
            return
        try:
            self._loop.call_soon_threadsafe(self._resolve, done)
        except RuntimeError:
            log.warning("ledger's event loop ended before its callers heard", items=len(done))

    def _resolve(self, done: list[_Result]) -> None:
        """On the loop: tell the callers."""
        self._waiting -= len(done)
        for future, error in done:
            if future.done():
                continue  # its caller was cancelled
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def _beat(self) -> None:
        try:
            self._tick()
        except Exception as error:  # noqa: BLE001 - the next beat tries again; the thread must live
            log.warning("ledger heartbeat failed", error=str(error))


def commit(store: Store, items: Sequence[Item], refused: dict[int, Exception], start: int = 0) -> int:
    """Write `items`; how many of the first are dealt with: fewer than all when the database fails.

    One transaction, unless the database refuses a row: rows fail alone, and halving finds them. They are put into
    `refused` by their number, counted from `start`.
    """
    if not items:
        return 0
    try:
        store.write(items)
    except Exception as error:  # noqa: BLE001 - whatever it is, the callers must hear of it and the thread live on
        if store.transient(error):
            log.warning("ledger write failed, will be tried again", items=len(items), error=str(error))
            return 0
        if len(items) == 1:
            log.error("ledger refused a row", error=str(error))
            refused[start] = error
            return 1
        half = len(items) // 2
        count = commit(store, items[:half], refused, start)
        return count if count < half else half + commit(store, items[half:], refused, start + half)
    return len(items)


def replay(store: Store, backlog: Backlog) -> bool:
    """Write one batch from disk to the database; False when that did not work now."""
    spool = backlog.first()
    refused: dict[int, Exception] = {}
    try:
        items, end = spool.read(LARGEST)
        late = _late(store, items) if backlog.is_adopted(spool) else []
        gone = {item.request_id for item in late}
        items = [item for item in items if item.request_id not in gone]
        if commit(store, items, refused) < len(items):
            return False
        aside = [*late, *(items[n] for n in refused)]
        for item in aside:
            spool.refuse(item)
        spool.drop(end)
        backlog.finished(spool)
    except Exception as error:  # noqa: BLE001 - what waits is tried again, whatever it is; the thread must live on
        log.error("ledger cannot write what waits in its spool", spool=str(spool.path), error=str(error))
        return False
    if aside:
        log.critical(
            "ledger keeps aside what its database refused", spool=str(spool.path), items=len(aside), pruned=len(late)
        )
    if not backlog.waits:
        log.warning("ledger has written everything that waited on disk")
    return True


def _late(store: Store, items: Sequence[Item]) -> list[Item]:
    """What of a dead process's items is from before `upkeep.prune`.

    It may have been written, counted and pruned by now: nothing would keep it from counting again.
    """
    since = store.kept_from()

    def before(item: Item) -> bool:
        try:
            return item.at < since
        except (IndexError, TypeError, ValueError):
            return False  # no row of ours, of a file whose head is damaged: the database will say so

    gone = {item.request_id for item in items if before(item)}
    return [item for item in items if item.request_id in gone]


def _refused(error: Exception | None) -> GatewayError | None:
    if error is None:
        return None
    refused = GatewayError("the ledger refused a row")
    refused.__cause__ = error
    return refused
