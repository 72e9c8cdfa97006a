"""Redis: the limiter that all replicas share. Each take and each give is one script, timed by the server's clock."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby
from typing import cast
from urllib.parse import quote

from gateway.allowance import Limits
from gateway.errors import Busy
from gateway.shared.limits import Kind, Levels, Taken, check_size, headers, refusal
from gateway.shared.link import Away, Link, Script
from gateway.shared.memory import MemoryLimiter

TAKE, GIVE, RENEW = Script.load("take"), Script.load("give"), Script.load("renew")
PLACE_SECONDS = 30.0
"""How long the places of a process that died stay taken. Those of a living one are renewed, however long it takes."""


def away() -> Busy:
    """What a request is told that nobody can admit."""
    return Busy("The gateway cannot reach what its replicas share; try again shortly.")


class RedisLimiter:
    """A `Limiter` for all replicas that share one Redis. `lease` is in seconds.

    `local` admits while Redis is away, each process by its own count; None: nobody is admitted then. Requests that it
    admitted stay on its count when Redis is back, so that for their duration more may be under way than a limit says.
    """

    def __init__(
        self, link: Link, *, local: MemoryLimiter | None, prefix: str = "gkt", lease: float = PLACE_SECONDS
    ) -> None:
        self._link = link
        self._local = local
        self._prefix = prefix
        self._lease = lease
        self._held: dict[str, str] = {}
        self._unfreed: dict[str, str] = {}
        self._renewing = False
        link.on_return(self._catch_up)

    async def take(self, subject: str, limits: Limits, tokens: int) -> Taken:
        check_size(limits, tokens)
        taken = Taken(subject, limits, tokens, secrets.token_hex(8))
        if not limits:
            return taken
        asked = (limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent)
        args = [taken.id, self._lease_ms, tokens, *(_text(limit) for limit in asked)]
        try:
            refused, requests, used = await self._link.run(TAKE, self._keys(subject), args)
        except Away as error:
            if error.sent and limits.concurrent is not None:
                self._unfreed[taken.id] = subject
            return await self._without(subject, limits, tokens)
        except asyncio.CancelledError:
            self._link.spawn(self.give(taken, 0))
            raise
        levels = Levels(float(requests), float(used), cast("Kind", refused) or None)
        if levels.refused is not None:
            raise refusal(limits, levels, tokens)
        taken.headers = headers(limits, levels)
        if limits.concurrent is not None:
            self._hold(taken)
        return taken

    async def give(self, taken: Taken, tokens: int | None) -> None:
        if taken.local and self._local is not None:
            await self._local.give(taken, tokens)
            return
        if taken.over:
            return
        taken.over = True
        self._held.pop(taken.id, None)
        limit = taken.limits.tokens_per_minute
        change = taken.correction(tokens, time.monotonic())
        if change or taken.limits.concurrent is not None:
            try:
                await self._link.run(GIVE, self._keys(taken.subject), [taken.id, change or "", _text(limit)])
            except Away:  # the bucket refills by itself, and the place would expire, but somebody waits for it
                self._unfreed[taken.id] = taken.subject

    async def _without(self, subject: str, limits: Limits, tokens: int) -> Taken:
        if self._local is None:
            self._link.refused += 1
            raise away() from None
        taken = await self._local.take(subject, limits, tokens)
        self._link.local += 1
        taken.local = True
        return taken

    def _hold(self, taken: Taken) -> None:
        self._held[taken.id] = taken.subject
        if not self._renewing:
            self._renewing = True
            self._link.spawn(self._renew())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            held = sorted(self._held.items(), key=lambda item: item[1])
            for subject, places in groupby(held, key=lambda item: item[1]):
                with suppress(Away):
                    await self._renew_places(subject, [place for place, _ in places])

    async def _renew_places(self, subject: str, places: Iterable[str]) -> None:
        keys = self._keys(subject)
        sent = [place for place in places if place in self._held]
        if not sent:
            return
        await self._link.run(RENEW, keys[1:], [self._lease_ms, *sent])
        for place in sent:
            if place not in self._held:  # given back meanwhile, over another connection
                await self._link.run(GIVE, keys, [place, "", ""])

    async def _catch_up(self) -> None:
        for place, subject in list(self._unfreed.items()):
            await self._link.ask(GIVE, self._keys(subject), [place, "", ""])
            self._unfreed.pop(place, None)

    @property
    def _lease_ms(self) -> int:
        return int(self._lease * 1000)

    def _keys(self, subject: str) -> list[str]:
        # The braces keep what belongs to one subject together where Redis is many servers.
        base = f"{self._prefix}:limit:{{{quote(subject, safe='')}}}"
        return [f"{base}:rates", f"{base}:places"]


def _text(limit: int | None) -> str | int:
    return "" if limit is None else limit
