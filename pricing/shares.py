"""Shares: the time of one machine, divided among the calls that run on it. Pure; whoever uses it brings the clock.

    call a  |-----------------------|             a: 2 alone, and half of 3
    call b        |------------|                  b: half of 3: from its begin to its end, a ran too
            2s       3s            ...

Each instant belongs in equal parts to the calls that run in it, so that what all calls got adds up to the time in
which at least one ran: that is what a machine at `$ per hour` is paid for.
"""

from __future__ import annotations


class Shares:
    """The account of one machine, in whole nanoseconds: once nobody runs, the shares add up to the busy time exactly.

    While somebody runs, at most as many nanoseconds as there are calls are not given out yet; the last one that ends
    gets them. A clock that goes backwards stands still here. Both steps take the same time, however many calls run.
    """

    __slots__ = ("_each", "_now", "_rest", "_running")

    def __init__(self) -> None:
        self._each = 0  # what a call would have got that ran from the beginning on
        self._rest = 0  # what could not be divided evenly so far
        self._now = 0
        self._running = 0

    @property
    def running(self) -> int:
        """How many calls run."""
        return self._running

    def begin(self, now: int) -> int:
        """A call begins to run. Returns what has to be handed to `end`."""
        self._advance(now)
        self._running += 1
        return self._each

    def end(self, begun: int, now: int) -> int:
        """The call that began with `begun` runs no more, which has to be said once. Returns its share."""
        self._advance(now)
        share = self._each - begun
        self._running -= 1
        if not self._running:
            share, self._rest = share + self._rest, 0
        return share

    def _advance(self, now: int) -> None:
        passed, self._now = max(0, now - self._now), max(now, self._now)
        if self._running:
            each, self._rest = divmod(passed + self._rest, self._running)
            self._each += each
