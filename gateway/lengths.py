"""Lengths: how much longer the teacher alone writes, as measured so far by all processes on the ledger."""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from gateway.ledger.entry import Ledger, LengthKey
from pricing.length_ratio import LengthRatio, Pairs

WINDOW_SECONDS = 90 * 86_400.0
"""How far back measurements count: models and their use change."""

log = structlog.get_logger("gateway.lengths")


class Lengths:
    """The length ratios by route, strategy and teacher's model; empty until `refresh`."""

    def __init__(self) -> None:
        self._ratios: Mapping[LengthKey, LengthRatio] = {}

    def ratio(self, route: str, strategy: str, model: str) -> LengthRatio | None:
        """How much longer that teacher writes than what that route shows; None while too little was measured."""
        return self._ratios.get((route, strategy, model))

    def know(self, pairs: Mapping[LengthKey, Pairs]) -> None:
        """Take these sums for what was measured."""
        found = {key: each.ratio() for key, each in pairs.items()}
        self._ratios = {key: ratio for key, ratio in found.items() if ratio is not None}

    async def refresh(self, ledger: Ledger) -> None:
        """Look at the ledger; when it does not answer, what was known stays."""
        try:
            self.know(await ledger.lengths(time.time() - WINDOW_SECONDS))
        except Exception as error:  # noqa: BLE001 - the database is away: answers go on, and so do their baselines
            log.warning("the measured lengths could not be read", error=str(error))
