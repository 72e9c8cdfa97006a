"""Waste: teachers whose guidance came to nothing several times in a row are not asked for any for a while. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

IN_A_ROW = 3
"""Guidances without a word, one after the other, until none is asked for."""

REST_SECONDS = 300.0
"""How long none is asked for; then one more decides."""

MOST = 1024
"""Models that are remembered; callers may name any."""

COUNTED = frozenset(["reasoning", "empty"])
"""What a model does rather than a network, and will do again."""


@dataclass(slots=True)
class _Row:
    wasted: int = 0
    until: float = 0.0


class Waste:
    """Remembers, for each model of each teacher, how many guidances in a row came to nothing; of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: dict[tuple[str, str], _Row] = {}

    def paused(self, teacher: str, model: str) -> bool:
        """True while this model is not worth asking for guidance."""
        row = self._rows.get((teacher, model))
        return row is not None and row.wasted >= IN_A_ROW and self._clock() < row.until

    def saw(self, teacher: str, model: str, wasted: str | None) -> bool:
        """One guidance is over; `wasted`: why it came to nothing, None: it did not. True when that begins a pause."""
        key = teacher, model
        if wasted is not None and wasted not in COUNTED:
            return False
        if wasted is None:
            self._rows.pop(key, None)
            return False
        if key not in self._rows and len(self._rows) >= MOST:
            del self._rows[next(iter(self._rows))]
        row = self._rows.setdefault(key, _Row())
        row.wasted += 1
        if row.wasted < IN_A_ROW or self._clock() < row.until:  # what was under way when the pause began adds nothing
            return False
        row.until = self._clock() + REST_SECONDS
        return True
