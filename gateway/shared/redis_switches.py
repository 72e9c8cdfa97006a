"""Redis, the breakers that all replicas share: which upstreams are left alone, and who may try them.

A call never waits for Redis, but for the one that tries an upstream again: each process keeps a picture of the switches
and looks at them every second. While Redis is away it goes by that picture and by what it finds itself, and nobody is
refused for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import quote

from gateway.shared.link import Away, Link, Script
from students.breaker import MemorySwitches, Position

TRIP, TRIAL, MEND, TRIPPED = (Script.load(name) for name in ("trip", "trial", "mend", "tripped"))

LOOK_SECONDS = 1.0
REMEMBERED = 3_600_000
"""Milliseconds: an upstream that nobody tried for so long after it could be is thought well."""


class RedisSwitches:
    """`Switches` for all replicas that share one Redis. `look`: seconds between two looks at what others did.

    Looking begins with the first call that asks for a position, and ends with the link.
    """

    def __init__(self, link: Link, *, prefix: str = "gkt", look: float = LOOK_SECONDS) -> None:
        self._link = link
        self._prefix = prefix
        self._look_seconds = look
        self._seen = MemorySwitches()
        self._names: set[str] = set()
        self._telling: asyncio.Task[None] | None = None
        link.on_return(self._catch_up)

    def position(self, name: str) -> Position:
        if name not in self._names:
            self._names.add(name)
            if len(self._names) == 1:
                self._link.spawn(self._watch())
        return self._seen.position(name)

    async def claim(self, name: str, seconds: float) -> bool:
        await _over(self._telling)
        try:
            may, wait, trial = await self._link.run(TRIAL, [self._key(name)], [int(seconds * 1000)])
        except Away:
            return await self._seen.claim(name, seconds)
        self._picture(name, wait, trial)
        return bool(may)

    def open(self, name: str, seconds: float) -> None:
        self._seen.open(name, seconds)
        self._tell(name, TRIP, int(seconds * 1000), REMEMBERED)

    def release(self, name: str) -> None:
        self._seen.release(name)
        self._tell(name, TRIAL, "")

    def close(self, name: str) -> None:
        self._seen.close(name)
        self._tell(name, MEND)

    def _tell(self, name: str, script: Script, *args: str | int) -> None:
        """Tell Redis behind the caller's back, one thing after the other."""
        before = self._telling

        async def tell() -> None:
            await _over(before)
            with suppress(Away):
                await self._link.run(script, [self._key(name)], args)

        self._telling = self._link.spawn(tell())

    async def _watch(self) -> None:
        while True:
            for name in sorted(self._names):
                await _over(self._telling)
                told = self._telling
                with suppress(Away):
                    wait, trial = await self._link.run(TRIPPED, [self._key(name)], [])
                    if self._telling is told:  # else this process has found something out meanwhile
                        self._picture(name, wait, trial)
            await asyncio.sleep(self._look_seconds)

    async def _catch_up(self) -> None:
        """Redis is back: it learns which upstreams this process leaves alone."""
        for name in self._names:
            position = self._seen.position(name)
            if position.state == "open":
                await self._link.ask(TRIP, [self._key(name)], [int(position.wait * 1000), REMEMBERED])

    def _picture(self, name: str, wait: int, trial: int) -> None:
        self._seen.close(name)
        if wait >= 0:
            self._seen.put(name, wait / 1000, trial / 1000)

    def _key(self, name: str) -> str:
        return f"{self._prefix}:breaker:{{{quote(name, safe='')}}}"


async def _over(telling: asyncio.Task[None] | None) -> None:
    if telling is not None:
        await asyncio.wait([telling])
