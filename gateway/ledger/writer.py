"""One thread owns the writing: it takes everything that waits and commits it together.

A request must not pay for a transaction of its own, and the event loop must not wait for a disk. Callers put an
item and await its future; the thread writes all that has gathered meanwhile as one transaction, and wakes them
together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread

import structlog

from gateway.errors import Busy, GatewayError
from gateway.ledger.backlog import Backlog
from gateway.ledger.replay import LARGEST, commit, replay
from gateway.ledger.rows import Intent, Settlement
from gateway.ledger.spool import Item
from gateway.ledger.store import Store

log = structlog.get_logger(__name__)

RETRY = (0.05, 1.0)
"""Seconds between attempts on a database that fails: the first pause, doubled up to the last."""

PATIENT = (2.0, 0.1)
"""Seconds of silence after which rows go to disk: of a database that worked the last time, and of one that failed.

The first is longer than what the database itself waits for a lock: a disk that is slow for a moment is no outage.
"""

GLANCE = 0.1
"""Seconds between looks at how long the database has been silent."""


@dataclass(slots=True)
class _Ticket:
    item: Item
    future: asyncio.Future[None]
    since: float
    told: bool = False  # its caller was: it is on disk, or refused


_Result = tuple[asyncio.Future[None], GatewayError | None]


class Writer:
    """Writes intents and settlements for the tasks of one event loop.

    At most `limit` items wait. While the database fails or says nothing, items go to the `backlog` on disk, which is as
    good to their callers, and from there to the database, in order, when it works again. Beyond `limit`, when the
    backlog is nearly full, and when neither has taken an intent for `patience` seconds, `intend` raises `Busy`: the
    call must not be made. A settlement is money that was spent: it is taken beyond the limit and tried until it is
    written; only `close` gives up on one that is not even on disk, and says so in the log.

    A second thread guards the first: a database that is locked or frozen does not fail, it keeps who asks it waiting.
    What is under way there may so be both written and on disk, and the database's keys make the second time nothing.
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
        # The thread's own, but for the time in which it asks the database: then they are the guard's, which only adds.
        self._held: list[_Ticket] = []
        self._asked: float | None = None  # since when the database is being asked
        self._asking = 0  # so many of what is held are under way there
        self._turn = Lock()
        self._ended = Event()
        self._thread = Thread(target=self._run, name="ledger-writer", daemon=True)
        self._guard = Thread(target=self._watch, name="ledger-guard", daemon=True)
        self._thread.start()
        if backlog is not None:
            self._guard.start()

    @property
    def waiting(self) -> int:
        """How many items are neither committed nor on disk."""
        return self._waiting

    @property
    def spooled(self) -> int:
        """How many bytes wait on disk."""
        return self._backlog.size if self._backlog is not None and self._backlog.own_waits else 0

    @property
    def away(self) -> bool:
        """Whether the database fails, or says nothing."""
        return bool(self._pause) or self._silent() > PATIENT[0]

    @property
    def full(self) -> bool:
        """Whether intents are refused for want of room on disk."""
        return self._backlog is not None and self._backlog.full

    def intend(self, item: Intent) -> asyncio.Future[None]:
        """Queue an intent; the future is done when it is on record. Raises `Busy` at once when there is no room."""
        if self._waiting >= self._limit:
            raise Busy("the ledger has too much to write")
        if self.full:
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
        beat = time.monotonic() + self._every
        again = 0.0
        last = float("inf")
        while not self._closed or self._held or (self._spooled and (not self._pause or time.monotonic() < last)):
            now = time.monotonic()
            until = again if self._pause else now if self._spooled else beat
            # What the disk did not take is not tried again before its time; new items may still find room there.
            self._take(max(0.0, min(until, beat) - now))
            now = time.monotonic()
            if self._closed and last == float("inf"):
                last = now + self._patience
            if now >= again:
                self._write()
                again = time.monotonic() + self._pause
            self._spill()
            self._give_up(final=now > last)
            self._keep_untold()
            if now >= beat:
                self._beat()
                beat = now + self._every
        self._ended.set()
        if self._backlog is not None:
            self._guard.join()
            self._backlog.close()

    @property
    def _spooled(self) -> bool:
        return self._backlog is not None and self._backlog.waits

    def _take(self, wait: float) -> None:
        """Move all that is queued to what is held; with nothing queued, wait for the first."""
        if self._closed:
            time.sleep(wait)
            return
        try:
            ticket = self._queue.get(timeout=wait) if wait else self._queue.get_nowait()
            while ticket is not None:
                self._held.append(ticket)
                ticket = self._queue.get_nowait()
            self._closed = True  # nothing is queued behind the mark
        except Empty:
            pass

    @contextmanager
    def _asks(self, count: int = 0) -> Iterator[None]:
        """The database is asked, about the first `count` of what is held: may it say nothing, the guard looks on."""
        self._asking = count
        self._asked = time.monotonic()
        try:
            yield
        finally:
            with self._turn:
                self._asked = None

    def _silent(self) -> float:
        """Seconds for which the database has been asked and said nothing."""
        asked = self._asked
        return 0.0 if asked is None else time.monotonic() - asked

    def _watch(self) -> None:
        """The guard's thread: while the database says nothing, what waits for it goes to disk."""
        while not self._ended.wait(GLANCE):
            if self._silent() < PATIENT[bool(self._pause)]:
                continue
            try:
                with self._turn:
                    if self._asked is not None:
                        self._take(0.0)
                        self._spill()
                        self._give_up(final=False, first=self._asking)
            except Exception as error:  # noqa: BLE001 - the next look tries again; the thread must live
                log.error("ledger cannot put on disk what waits", error=str(error))

    def _write(self) -> None:
        """Write to the database what waits on disk, then what is held, until it fails."""
        if self._backlog is not None and self._backlog.waits:
            with self._asks():
                works = replay(self._store, self._backlog)
            self._tried(works=works)
            self._keep_untold()
            if self._pause:
                return
        while self._held and not (self._backlog is not None and self._backlog.own_waits):
            batch = self._held[:LARGEST]
            refused: dict[int, Exception] = {}
            with self._asks(len(batch)):
                count = commit(self._store, [ticket.item for ticket in batch], refused)
            self._keep([batch[n].item for n in refused if not batch[n].told])
            self._tell([(ticket, _refused(refused.get(n))) for n, ticket in enumerate(batch[:count])])
            self._tried(works=count == len(batch))
            self._keep_untold()
            if self._pause:
                return

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

    def _keep_untold(self) -> None:
        self._held = [ticket for ticket in self._held if not ticket.told]

    def _spill(self) -> None:
        """Put on disk what the database did not come to, and tell its callers, as far as there is room."""
        untold = [ticket for ticket in self._held if not ticket.told]
        if not untold or self._backlog is None:
            return
        taken = self._backlog.take([ticket.item for ticket in untold])
        self._tell([(ticket, None) for ticket, is_on_disk in zip(untold, taken, strict=True) if is_on_disk])

    def _give_up(self, *, final: bool, first: int = 0) -> None:
        """Refuse intents that waited too long; at the end, everything. Not before the `first` of what is held."""
        patient = time.monotonic() - self._patience
        dropped: list[_Ticket] = []
        for ticket in self._held[first:]:
            again = not final and (isinstance(ticket.item, Settlement) or ticket.since > patient)
            if not (again or ticket.told):
                dropped.append(ticket)
        lost = [ticket.item.request_id for ticket in dropped if isinstance(ticket.item, Settlement)]
        if lost:
            log.critical("ledger closed with entries that the database did not take", request_ids=lost)
        self._tell([(ticket, Busy("the ledger's database does not take writes")) for ticket in dropped])

    def _tell(self, done: Sequence[tuple[_Ticket, GatewayError | None]]) -> None:
        """Wake the callers, each once."""
        heard: list[_Result] = []
        for ticket, error in done:
            if not ticket.told:
                ticket.told = True
                heard.append((ticket.future, error))
        if not heard:
            return
        try:
            self._loop.call_soon_threadsafe(self._resolve, heard)
        except RuntimeError:
            log.warning("ledger's event loop ended before its callers heard", items=len(heard))

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
            with self._asks():
                self._tick()
        except Exception as error:  # noqa: BLE001 - the next beat tries again; the thread must live
            log.warning("ledger heartbeat failed", error=str(error))
        self._keep_untold()


def _refused(error: Exception | None) -> GatewayError | None:
    if error is None:
        return None
    refused = GatewayError("the ledger refused a row")
    refused.__cause__ = error
    return refused
