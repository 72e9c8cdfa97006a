"""Breaker: an upstream that fails again and again is left alone for a while, and then tried by one call.

    closed ──enough failures──> open ──open_seconds──> half-open ──the one trial──> closed, or open again

Policy is `Breaker`, one for each upstream in each process; it counts. What all processes know, that an upstream is
open and since when, and who may try it, are `Switches`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Literal, Protocol

import structlog

from students.errors import Unavailable
from students.spec import BreakerSpec

State = Literal["closed", "half-open", "open"]

OPEN = "breaker_open"
"""The code of the `Unavailable` of a call that was not made."""

TRIAL_SECONDS = 60.0
"""After so long without a word from the one that tries, another call may try."""

log = structlog.get_logger("students.breaker")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a switch stands. `wait`: seconds until it may be tried; 0 unless it is open or a trial is under way."""

    state: State = "closed"
    wait: float = 0.0


class Switches(Protocol):
    """Which upstreams are open, by name: known to one process, or agreed on by all. None of it raises. When who keeps
    them is away, each process goes by what it knows; what a process does is told to others behind its back.
    """

    def position(self, name: str) -> Position:
        """Where the switch stands as far as this process knows; no I/O, so that calls may ask each time."""
        ...

    async def claim(self, name: str, seconds: float) -> bool:
        """Become the one that tries, for so long. True: nobody else does, or the switch is closed already."""
        ...

    def open(self, name: str, seconds: float) -> None:
        """Let nobody ask for so long, after which one call may try. One that is open for longer stays so."""
        ...

    def release(self, name: str) -> None:
        """Try no more, and know nothing: the next call may."""
        ...

    def close(self, name: str) -> None:
        """It answers again: everybody may ask."""
        ...


@dataclass(slots=True)
class _Switch:
    until: float
    trial: float = 0.0


class MemorySwitches:
    """`Switches` of one process. `clock` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._open: dict[str, _Switch] = {}

    def position(self, name: str) -> Position:
        switch = self._open.get(name)
        if switch is None:
            return Position()
        now = self._clock()
        if now < switch.until:
            return Position("open", switch.until - now)
        return Position("half-open", max(0.0, switch.trial - now))

    def open(self, name: str, seconds: float) -> None:
        self.put(name, seconds, 0.0)

    async def claim(self, name: str, seconds: float) -> bool:
        position = self.position(name)
        if position.wait:
            return False
        if position.state != "closed":
            self._open[name].trial = self._clock() + seconds
        return True

    def release(self, name: str) -> None:
        if name in self._open:
            self._open[name].trial = 0.0

    def close(self, name: str) -> None:
        self._open.pop(name, None)

    def put(self, name: str, wait: float, trial: float) -> None:
        """Open for `wait` seconds more, at least; with a trial under way that has `trial` seconds left."""
        now = self._clock()
        known = self._open.get(name)
        until = now + wait if known is None else max(known.until, now + wait)
        self._open[name] = _Switch(until, now + trial if trial else 0.0)


class Breaker:
    """The breaker of one upstream in one process. `rules` None: it stays closed, whatever happens.

    Each try asks `enter`, and then tells how it went. The one that tries an open one also tells `close` at its first
    word, or `leave` when nothing was found out.
    """

    def __init__(self, name: str, rules: BreakerSpec | None, clock: Callable[[], float] = monotonic) -> None:
        self.name = name
        self._rules = rules
        self._switches: Switches = MemorySwitches(clock)
        self._clock = clock
        self._since = -inf
        self._calls = self._failures = 0

    def share(self, switches: Switches) -> None:
        """Go by these switches from now on, which others know too."""
        self._switches = switches

    @property
    def position(self) -> Position:
        """Where it stands now."""
        return Position() if self._rules is None else self._switches.position(self.name)

    async def enter(self) -> bool:
        """May the upstream be asked? True: as the one that tries. Raises `Unavailable` that says when to come again."""
        position = self.position
        if position.state == "closed":
            return False
        if not position.wait and await self._switches.claim(self.name, TRIAL_SECONDS):
            return True
        position = self.position
        when = f"it is tried again in {position.wait:.0f} s" if position.state == "open" else "it is being tried now"
        raise Unavailable(
            f"not asked, as it failed too often lately; {when}",
            engine=self.name,
            code=OPEN,
            retry_after=position.wait if position.state == "open" else None,
        )

    def close(self) -> None:
        """The one that tried was answered."""
        self._since = -inf
        self._switches.close(self.name)
        log.info("breaker closed", upstream=self.name)

    def good(self) -> None:
        """A try ended well."""
        self._count(failed=False)

    def bad(self, *, trial: bool = False) -> None:
        """A try failed, by the upstream's own fault."""
        rules = self._rules
        if rules is None:
            return
        self._count(failed=True)
        enough = self._failures >= rules.failures and self._failures >= rules.share * self._calls
        if trial or (enough and self.position.state == "closed"):
            self._since = -inf
            self._switches.open(self.name, rules.open_seconds)
            log.warning("breaker open", upstream=self.name, seconds=rules.open_seconds)

    def leave(self) -> None:
        """The one that tried found nothing out: its caller left, or the upstream had no room."""
        self._switches.release(self.name)

    def _count(self, *, failed: bool) -> None:
        now = self._clock()
        if self._rules is not None and now - self._since > self._rules.seconds:
            self._since, self._calls, self._failures = now, 0, 0
        self._calls += 1
        self._failures += failed
