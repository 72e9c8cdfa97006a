"""Runs: when calls ran on the machine of an engine, and how much of its time was theirs.

A call runs from when it was sent to the model until its answer has ended, failed or was broken off. The wait for a
place before it is not in it, nor what a slow reader takes to fetch words that are here already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pricing.shares import Shares

NANO = 1_000_000_000


class Run:
    """One stay of one call on the machine of `engine`.

    `began` is seconds since the epoch, `lasted` seconds, and `share` whole nanoseconds: what of that time was this
    call's, see `pricing.shares`. None: it has not begun, or not ended.
    """

    __slots__ = ("_begun", "_log", "_machine", "_over", "_since", "began", "engine", "lasted", "share")

    def __init__(self, engine: str, machine: Machine, log: list[Run] | None = None) -> None:
        self.engine = engine
        self.began: float | None = None
        self.lasted: float | None = None
        self.share: int | None = None
        self._machine = machine
        self._log = log
        self._begun = 0
        self._since = 0
        self._over = False

    def __repr__(self) -> str:
        return f"Run({self.engine!r}, began={self.began}, lasted={self.lasted}, share={self.share})"

    def begin(self) -> None:
        """From now on it runs, and is in the log of its call. Of no effect the second time, and after `end`."""
        if self.began is not None or self._over:
            return
        self.began = time.time()
        self._since = self._machine.clock()
        self._begun = self._machine.shares.begin(self._since)
        if self._log is not None:
            self._log.append(self)

    def end(self, share: float | None = None) -> None:
        """It runs no more. `share`: its seconds, where the engine has measured them itself. Idempotent."""
        over, self._over = self._over, True
        if over or self.began is None:
            return
        now = self._machine.clock()
        own = self._machine.shares.end(self._begun, now)
        self.lasted = max(0, now - self._since) / NANO
        self.share = own if share is None else round(share * NANO)

    def withdraw(self) -> None:
        """It never ran: the machine was not reached. What others shared with it meanwhile is nobody's."""
        self.end()
        if self._log is not None and self in self._log:
            self._log.remove(self)


class Machine:
    """What an engine runs its calls on. The calls of other processes that run there too are not seen."""

    def __init__(self, engine: str, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.shares = Shares()
        self.clock = clock
        self._engine = engine

    def run(self, log: list[Run] | None) -> Run:
        """A run that has not begun. `log`: `Prompt.runs` of the call that it is for."""
        return Run(self._engine, self, log)


def seconds(runs: Sequence[Run]) -> float:
    """The shares of those that have ended, together."""
    return sum(run.share for run in runs if run.share is not None) / NANO
