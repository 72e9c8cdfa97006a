"""The time line of one request: when each stage was asked, when it began to speak, and when it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage. Places and widths are percentages of the whole; None: it is not known, or did not happen.

    `wait` lasts from the question to the first word, `speech` from there to the end. `cached`: nobody was asked,
    since the words were kept.
    """

    stage: str
    seat: str
    upstream: str
    begin: float
    wait: float
    speech: float | None
    began: float
    first_token: float | None
    ended: float | None
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of the scale, at a percentage of the whole."""

    place: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """All stages on one scale, which ends after `seconds`."""

    bars: Sequence[Bar]
    ticks: Sequence[Tick]
    seconds: float

    @property
    def summary(self) -> str:
        """The same in words, for who does not see it."""
        return "; ".join(
            f"{bar.stage} by {bar.upstream}: from the cache, at once"
            if bar.cached
            else f"{bar.stage} by {bar.upstream}: asked at {bar.began:.2f} s, "
            + ("no word came" if bar.first_token is None else f"first word at {bar.first_token:.2f} s")
            + (", end unknown" if bar.ended is None else f", ended at {bar.ended:.2f} s")
            for bar in self.bars
        )


def timeline(entry: Mapping[str, Any]) -> Timeline | None:
    """The time line of an entry with its calls; None where no time is known."""
    start, calls = entry["at"], entry["calls"]
    # Clocks of the wall may be set back during a request; nothing then begins before the request did.
    begins = [max(0.0, call["started"] - start) for call in calls]
    ends = [begin + (call["duration"] or 0.0) for begin, call in zip(begins, calls, strict=True)]
    whole = max([entry["duration"] or 0.0, *ends])
    bars = [_bar(call, begin, whole) for call, begin in zip(calls, begins, strict=True)] if whole > 0 else []
    if entry["guidance_cache"] == "hit":
        bars.insert(0, Bar("guidance", "teacher", entry["teacher"], 0.0, 0.0, None, 0.0, None, None, cached=True))
    return Timeline(bars, _ticks(whole), whole) if bars and whole > 0 else None


def _bar(call: Mapping[str, Any], begin: float, whole: float) -> Bar:
    duration, first = call["duration"], call["first_token"]
    wait = duration if first is None else first
    return Bar(
        stage=call["stage"],
        seat=call["seat"],
        upstream=call["upstream"],
        begin=100 * begin / whole,
        wait=100 * (wait or 0.0) / whole,
        speech=None if first is None or duration is None else 100 * max(0.0, duration - first) / whole,
        began=begin,
        first_token=None if first is None else begin + first,
        ended=None if duration is None else begin + duration,
    )


def _ticks(whole: float) -> list[Tick]:
    """Between three and seven round marks."""
    rough = whole / 5
    power = 10.0 ** floor(log10(rough))
    size = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    return [Tick(100 * number * size / whole, number * size) for number in range(int(whole / size + 1e-9) + 1)]
