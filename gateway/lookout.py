"""Lookout: what was measured is looked at again when something was, and now and then for what others measured."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

REFRESH_SECONDS = 60.0
"""How long what other processes measured may go unseen."""

PAUSE_SECONDS = 1.0
"""Between two looks, however much is measured."""


class Lookout:
    """Calls `look`, which raises nothing, while `watch` runs."""

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        self._look = look
        self._news = asyncio.Event()

    def stale(self) -> None:
        """Something was measured: look soon."""
        self._news.set()

    async def watch(self) -> None:
        """Look when something was measured, and every `REFRESH_SECONDS`, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._news.wait()
            self._news.clear()
            await self._look()
            await asyncio.sleep(PAUSE_SECONDS)
