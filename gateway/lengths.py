"""Lengths: how much longer the teacher alone writes, as measured so far by all processes on the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

import structlog

from gateway.ledger.entry import Ledger, LengthKey
from pricing.length_ratio import LengthRatio, Pairs

REFRESH_SECONDS = 60.0
"""How long what other processes measured may go unseen."""

WINDOW_SECONDS = 90 * 86_400.0
"""How far back measurements count: models and their use change."""

PAUSE_SECONDS = 1.0
"""Between two looks, however many shadows settle."""

log = structlog.get_logger("gateway.lengths")


class Lengths:
    """The length ratios by route, strategy and teacher's model; empty until `refresh`."""

    def __init__(self) -> None:
        self._ratios: Mapping[LengthKey, LengthRatio] = {}
        self._news = asyncio.Event()

    def ratio(self, route: str, strategy: str, model: str) -> LengthRatio | None:
        """How much longer that teacher writes than what that route shows; None while too little was measured."""
        return self._ratios.get((route, strategy, model))

    def know(self, pairs: Mapping[LengthKey, Pairs]) -> None:
        """Take these sums for what was measured."""
        found = {key: each.ratio() for key, each in pairs.items()}
        self._ratios = {key: ratio for key, ratio in found.items() if ratio is not None}

    def stale(self) -> None:
        """Something was measured: look soon."""
        self._news.set()

    async def refresh(self, ledger: Ledger) -> None:
        """Look at the ledger; when it does not answer, what was known stays."""
        try:
            self.know(await ledger.lengths(time.time() - WINDOW_SECONDS))
        except Exception as error:  # noqa: BLE001 - the database is away: answers go on, and so do their baselines
            log.warning("the measured lengths could not be read", error=str(error))

    async def watch(self, ledger: Ledger) -> None:
        """Refresh when something was measured, and every `REFRESH_SECONDS`, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._news.wait()
            self._news.clear()
            await self.refresh(ledger)
            await asyncio.sleep(PAUSE_SECONDS)
