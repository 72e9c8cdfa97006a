"""The way out for one answer's text: what could be the beginning of a stop string waits, with its tokens.

Pure; no I/O. Engines that cut their own text use it, and the gateway does for the whole visible text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Logprobs = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Piece:
    """Text that may be shown, with the log-probabilities of the tokens that end in it (None: there are none)."""

    text: str
    logprobs: list[Mapping[str, Any]] | None = None


@dataclass(slots=True)
class Buffer:
    """Text that waits, and the tokens it is made of."""

    text: str = ""
    tokens: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    """(characters of `text` up to and including this token, its entry)"""

    def add(self, text: str, logprobs: Logprobs | None) -> None:
        """Append `text`. Entries are laid along it by the bytes of their tokens."""
        if logprobs:
            reach = len(self.text.encode())
            total = self.text + text
            for entry in logprobs:
                raw = entry.get("bytes")
                reach += len(raw) if raw is not None else len(str(entry.get("token", "")).encode())
                self.tokens.append((len(total.encode()[:reach].decode(errors="ignore")), entry))
        self.text += text

    def take(self, length: int) -> Piece:
        """Remove and return the first `length` characters."""
        piece = Piece(self.text[:length])
        self.text = self.text[length:]
        if self.tokens:
            gone = [entry for end, entry in self.tokens if end <= length]
            self.tokens = [(end - length, entry) for end, entry in self.tokens if end > length]
            piece.logprobs = gone or None
        return piece


class Outlet:
    """The only way out for one choice's visible text: honours stop strings as if one model had written it all.

    Text that could be the beginning of a stop string is held until it is known. Once `stopped`, nothing more comes.
    """

    __slots__ = ("_buffer", "_stops", "stopped")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._buffer = Buffer()
        self.stopped = False

    @property
    def holding(self) -> bool:
        """True while the end of the text could be the beginning of a stop string."""
        return bool(self._buffer.text)

    def feed(self, text: str, logprobs: Logprobs | None = None) -> Piece:
        """Add text; returns what may be shown now, perhaps nothing."""
        if not self._stops:
            return Piece(text, list(logprobs) if logprobs else None)
        if self.stopped:
            return Piece("")
        self._buffer.add(text, logprobs)
        waiting = self._buffer.text
        ends = [(at + len(stop), at) for stop in self._stops if (at := waiting.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return self._buffer.take(min(ends)[1])  # the one that was complete first
        return self._buffer.take(len(waiting) - self._held(waiting))

    def finish(self) -> Piece:
        """No more text comes: what was held was no stop string after all."""
        return Piece("") if self.stopped else self._buffer.take(len(self._buffer.text))

    def copy(self) -> Outlet:
        """An outlet in the same state, for another choice that goes on from the same text."""
        twin = Outlet(self._stops)
        twin.stopped = self.stopped
        twin._buffer = Buffer(self._buffer.text, list(self._buffer.tokens))
        return twin

    def _held(self, waiting: str) -> int:
        """The length of the longest end of `waiting` with which some stop string begins."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(waiting)), longest, -1):
                if stop.startswith(waiting[-length:]):
                    longest = length
                    break
        return longest
