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
from gateway.ledger.store import Store

log = structlog.get_logger(__name__)

LARGEST = 1000
"""The most items of one transaction; a longer one would keep other processes waiting."""

RETRY = (0.05, 1.0)
"""Seconds between attempts on a database that fails: the first pause, doubled up to the last."""


@dataclass(slots=True)
class _Ticket:
    item: Intent | Settlement
    future: asyncio.Future[None]
    since: float


_Result = tuple[asyncio.Future[None], GatewayError | None]


class Writer:
    """Writes intents and settlements for the tasks of one event loop.

    At most `limit` items wait. Beyond it, and when a failing database has kept an intent waiting for `patience`
    seconds, `intend` raises `Busy`: the call must not be made. A settlement is money that was spent: it is taken
    beyond the limit and tried until it is written; only `close` gives up on it, and says so in the log.
    """

    def __init__(
        self,
        store: Store,
        tick: Callable[[], None],
        *,
        limit: int = 10_000,
        patience: float = 5.0,
        every: float = 15.0,
    ) -> None:
        """`tick` is called on the writer's thread every `every` seconds; must be made inside the event loop."""
        self._store = store
        self._tick = tick
        self._limit = limit
        self._patience = patience
        self._every = every
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Ticket | None] = SimpleQueue()
        self._waiting = 0
        self._closing = False  # of the loop: nothing more is put
        self._closed = False  # of the thread: nothing more will come
        self._thread = Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many items are not yet committed."""
        return self._waiting

    def intend(self, item: Intent) -> asyncio.Future[None]:
        """Queue an intent; the future is done when it is committed. Raises `Busy` at once when the queue is full."""
        if self._waiting >= self._limit:
            raise Busy("the ledger has too much to write")
        return self._put(item)

    def settle(self, item: Settlement) -> asyncio.Future[None]:
        """Queue a settlement; the future is done when it is committed. Raises `Busy` only after `close`."""
        return self._put(item)

    def _put(self, item: Intent | Settlement) -> asyncio.Future[None]:
        if self._closing:
            raise Busy("the ledger is closing")
        ticket = _Ticket(item, self._loop.create_future(), time.monotonic())
        self._waiting += 1
        self._queue.put(ticket)
        return ticket.future

    async def close(self) -> None:
        """Write what waits, for at most `patience` seconds on a database that fails; then stop the thread."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        """The thread. It ends when `close` was called and nothing is held."""
        held: list[_Ticket] = []
        pause = RETRY[0]
        beat = time.monotonic() + self._every
        last = float("inf")
        while not self._closed or held:
            if held:
                time.sleep(pause)
                pause = min(pause * 2, RETRY[1])
                self._take(held, 0.0)
            else:
                pause = RETRY[0]
                self._take(held, max(0.0, beat - time.monotonic()))
            now = time.monotonic()
            if self._closed and last == float("inf"):
                last = now + self._patience
            held = self._write(held, final=now > last)
            if now >= beat:
                self._beat()
                beat = now + self._every

    def _take(self, held: list[_Ticket], wait: float) -> None:
        """Move all that is queued to `held`; with nothing queued, wait for the first."""
        try:
            ticket = self._queue.get(timeout=wait) if wait else self._queue.get_nowait()
            while ticket is not None:
                held.append(ticket)
                ticket = self._queue.get_nowait()
            self._closed = True  # nothing is queued behind the mark
        except Empty:
            pass

    def _write(self, held: list[_Ticket], *, final: bool) -> list[_Ticket]:
        """Write `held` and wake its callers; what must be tried again is returned, unless this was the final try."""
        done: list[_Result] = []
        left: list[_Ticket] = []
        for start in range(0, len(held), LARGEST):
            left += self._attempt(held[start : start + LARGEST], done)
            if left:
                left += held[start + LARGEST :]
                break
        kept, dropped = self._sort(left, final=final)
        done += [(ticket.future, Busy("the ledger's database does not take writes")) for ticket in dropped]
        lost = [ticket.item.request_id for ticket in dropped if isinstance(ticket.item, Settlement)]
        if lost:
            log.critical("ledger closed with entries that the database did not take", request_ids=lost)
        if done:
            self._wake(done)
        return kept

    def _sort(self, left: list[_Ticket], *, final: bool) -> tuple[list[_Ticket], list[_Ticket]]:
        """What is to be tried again, and what is given up: intents that waited too long; at the end, everything."""
        patient = time.monotonic() - self._patience
        kept: list[_Ticket] = []
        dropped: list[_Ticket] = []
        for ticket in left:
            again = not final and (isinstance(ticket.item, Settlement) or ticket.since > patient)
            (kept if again else dropped).append(ticket)
        return kept, dropped

    def _attempt(self, tickets: Sequence[_Ticket], done: list[_Result]) -> list[_Ticket]:
        """Write `tickets` in one transaction. Rows that the database refuses fail alone; halving finds them."""
        try:
            self._store.write([ticket.item for ticket in tickets])
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers must hear of it and the thread live on
            if self._store.transient(error):
                log.warning("ledger write failed, will be tried again", items=len(tickets), error=str(error))
                return list(tickets)
            if len(tickets) > 1:
                half = len(tickets) // 2
                return self._attempt(tickets[:half], done) + self._attempt(tickets[half:], done)
            log.error("ledger refused a row", error=str(error))
            done.append((tickets[0].future, _refused(error)))
            return []
        done += [(ticket.future, None) for ticket in tickets]
        return []

    def _wake(self, done: list[_Result]) -> None:
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


def _refused(error: Exception) -> GatewayError:
    refused = GatewayError("the ledger refused a row")
    refused.__cause__ = error
    return refused
