"""Continuous batching, without tensors: requests join and leave between two steps of one model.

    submit -> waiting -> reading -> running -> over
                 └─────────┴──leave───┴──────> over

One thread owns the model and everything below `_turn`. The other threads submit, leave and close; they share `waiting`
with it, behind one lock, and nothing else. Each turn lets go of those that left, admits those that wait, reads prompts
up to a number of tokens, and takes one step for all that run.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import perf_counter
from typing import Generic, Protocol, TypeVar

import structlog

from students.errors import EngineError, Overloaded, Unavailable
from students.rows import Chosen, Row

log = structlog.get_logger("students.batching")


class Model(Protocol):
    """What reads and writes tokens; used by the owner thread only."""

    def read(self, row: Row) -> int:
        """Read the next piece of the row's prompt. Returns how many tokens that was; 0: everything is read."""
        ...

    def step(self, rows: Sequence[Row]) -> Sequence[Chosen]:
        """One token for each of these rows, in this order. Rows that were in the last step and are not here left."""
        ...

    def forget(self, row: Row) -> None:
        """Free what is kept for a row, which need not be known."""
        ...


M = TypeVar("M", bound=Model)


class Batcher(Generic[M]):
    """The owner of a model, and of the thread that alone touches it.

    `load` makes the model, in that thread. `slots`: rows that are read or run at once. `places`: rows in all, those
    that wait included. `read_tokens`: prompt tokens read between two steps, so that a long prompt does not silence
    the others. Whoever builds it closes it.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], M],
        *,
        slots: int,
        places: int,
        read_tokens: int,
    ) -> None:
        self.name = name
        self.loaded: Future[M] = Future()
        """The model once it is there, or why it is not."""
        self._load = load
        self._slots = slots
        self._places = places
        self._read_tokens = read_tokens
        self._changed = threading.Condition()
        self._waiting: deque[Row] = deque()
        self._reading: list[Row] = []
        self._running: list[Row] = []
        self._closed = False
        self._thread = threading.Thread(target=self._live, name=f"model {name}", daemon=True)

    def start(self) -> None:
        """Begin to load; `loaded` says when it is done. To be called once."""
        self._thread.start()

    @property
    def occupancy(self) -> tuple[int, int]:
        """How many rows wait, and how many are read or run, at about this moment."""
        return len(self._waiting), len(self._reading) + len(self._running)

    def submit(self, row: Row) -> None:
        """Let a row wait for its turn. Raises `Overloaded` when all places are taken, `Unavailable` after the end."""
        with self._changed:
            if self._closed:
                raise self._gone()
            if sum(self.occupancy) >= self._places:
                raise Overloaded(f"all {self._places} places of the model are taken", engine=self.name)
            self._waiting.append(row)
            self._changed.notify()

    def leave(self, row: Row) -> None:
        """Nobody listens to this row any more: it is in no further step. Idempotent; returns at once."""
        row.left = True
        with self._changed:
            if row in self._waiting:
                self._waiting.remove(row)

    def close(self) -> None:
        """End all rows in `Unavailable`, after the step that is under way. Idempotent; returns at once."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if not self._thread.is_alive():
            self._end(self._gone())

    def join(self, seconds: float) -> bool:
        """Wait until the owner thread has ended; False when it has not in that time."""
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _live(self) -> None:
        """The owner thread, from loading the model to letting it go."""
        try:
            model = self._load()
        except BaseException as error:  # noqa: BLE001 - handed to all who wait for the model
            with self._changed:
                self._closed = True
            self.loaded.set_exception(error)
            self._end(self._gone())
            return
        self.loaded.set_result(model)
        try:
            while self._turn(model):
                pass
        finally:
            with self._changed:
                self._closed = True
            self._end(self._gone())

    def _turn(self, model: M) -> bool:
        """Wait for work and do one step of it. False: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._reading or self._running)
            if self._closed:
                return False
            self._reading = self._staying(model, self._reading)
            self._running = self._staying(model, self._running)
            while self._waiting and len(self._reading) + len(self._running) < self._slots:
                self._reading.append(self._waiting.popleft())
        self._read(model)
        self._step(model)
        self._running = self._staying(model, self._running)
        return True

    def _staying(self, model: M, rows: list[Row]) -> list[Row]:
        for row in rows:
            if row.left or row.over:
                model.forget(row)
        return [row for row in rows if not (row.left or row.over)]

    def _read(self, model: M) -> None:
        budget = self._read_tokens
        while budget > 0 and self._reading:
            row, began = self._reading[0], perf_counter()
            try:
                read = 0 if row.left else model.read(row)
            except Exception as error:  # noqa: BLE001 - whatever the model raises ends this row, not the thread
                self._reading.pop(0)
                model.forget(row)
                self._failed([row], error)
                continue
            row.seconds += perf_counter() - began
            budget -= read
            if read == 0:
                self._running.append(self._reading.pop(0))

    def _step(self, model: M) -> None:
        rows = [row for row in self._running if not row.left]
        if not rows:
            return
        began = perf_counter()
        try:
            tokens = model.step(rows)
        except Exception as error:  # noqa: BLE001 - as above, but nobody knows which of them it was
            for row in self._running:
                model.forget(row)
            self._running = []
            self._failed(rows, error)
            return
        share = (perf_counter() - began) / len(rows)
        for row, token in zip(rows, tokens, strict=True):
            row.seconds += share
            row.take(token)

    def _failed(self, rows: Sequence[Row], error: Exception) -> None:
        # The message of a library's error may hold anything, so it goes to the log of this process only.
        log.error("the model failed", engine=self.name, rows=len(rows), exc_info=error)
        for row in rows:
            row.fail(Unavailable(f"the model failed ({type(error).__name__})", engine=self.name))

    def _end(self, error: EngineError) -> None:
        with self._changed:
            rows = [*self._waiting, *self._reading, *self._running]
            self._waiting.clear()
            self._reading, self._running = [], []
        for row in rows:
            row.fail(error)

    def _gone(self) -> Unavailable:
        return Unavailable("the engine is closed", engine=self.name)
