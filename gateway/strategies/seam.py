"""The seam: where one model's words end and another's begin. Pure; no I/O.

Three problems are solved here. A cut can tear a word, a number or a character, so the end of the guidance is held
back until it is known to be whole (`Guide`). Engines look for stop strings only in what they generate themselves, so
the whole visible text is scanned, across the seam too (`Outlet`). And log-probabilities belong to tokens, which do
not end where words do, so they travel with the text they describe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex

Logprobs = Sequence[Mapping[str, Any]]

REPLACEMENT = "\ufffd"
LONGEST_WORD = 64
"""A run without white space longer than this (base64, minified code) is cut inside rather than held for ever."""

# What a following token could still be part of: an unfinished run without white space that ends in a letter, a digit,
# a joiner, or in punctuation that follows a digit ("3." may become "3.14"). Scripts written without spaces end a
# word at every character, of which only the last can still change (by a combining mark). `(?r)`: searched from the end.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_OPEN_RUN = regex.compile(
    rf"(?r)(?:[^\s{_UNSPACED}]*(?:[\p{{L}}\p{{M}}\p{{N}}_'’\-\\$€£#@&~^=+*/<>|%\u200d\ufe0f]|\d[.,:;]+))\Z", regex.V1
)
_OPEN_PIECE = regex.compile(r"(?r)(?:[\p{L}\p{M}\p{N}_'’\-\u200d\ufe0f]+|\d[\d.,:;]*)\Z", regex.V1)
_LAST_CLUSTER = regex.compile(r"\X\Z", regex.V1)


def whole(text: str) -> int:
    """The length of the longest beginning of `text` that ends where a word ends, whatever may follow `text`.

    White space at the end is left out, since the student writes its own.
    """
    end = len(text)
    while end and text[end - 1] == REPLACEMENT:  # bytes of a character that was cut
        end -= 1
    if end and not text[end - 1].isspace():
        match = _OPEN_RUN.search(text, max(0, end - 4 * LONGEST_WORD), end)
        if match is not None and match.end() - match.start() > LONGEST_WORD:
            match = _OPEN_PIECE.search(text, max(0, end - LONGEST_WORD), end)
        if match is not None and match.end() > match.start():
            end = match.start()
        elif not text[end - 1].isascii():
            cluster = _LAST_CLUSTER.search(text, max(0, end - 32), end)
            end = cluster.start() if cluster else end - 1
    while end and (text[end - 1].isspace() or text[end - 1] == REPLACEMENT):
        end -= 1
    return end


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


class Guide:
    """Takes the teacher's words as they come and lets go of what can no longer be torn by a cut.

    `kept` is everything let go so far. After `cut` it is the guidance: it ends with a whole word and without white
    space. After `complete` it is the teacher's whole answer, to the last character.
    """

    __slots__ = ("_buffer", "kept")

    def __init__(self) -> None:
        self._buffer = Buffer()
        self.kept = ""

    def feed(self, text: str, logprobs: Logprobs | None = None) -> Piece:
        """Add words; returns what may be shown now, perhaps nothing."""
        self._buffer.add(text, logprobs)
        return self._release(whole(self._buffer.text))

    def complete(self) -> Piece:
        """The teacher ended by itself: nothing can be torn any more, so the rest is let go."""
        return self._release(len(self._buffer.text))

    def cut(self) -> str:
        """The teacher was cut: what is still held is dropped, and returned for the accounts."""
        dropped, self._buffer = self._buffer.text, Buffer()
        return dropped

    def _release(self, length: int) -> Piece:
        piece = self._buffer.take(length)
        self.kept += piece.text
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


class Join:
    """How a continuation meets what stands before it; this one changes nothing."""

    __slots__ = ()

    def feed(self, text: str) -> str:
        """What may be shown of the continuation now."""
        return text

    def finish(self) -> str:
        """No more text comes: what was held back."""
        return ""


class Trim(Join):
    """Takes white space from the start of a continuation that the caller's own prefix already ended with.

    The caller wrote `"The answer is "`; engines are given it without the space and write `" 42"`: shown is `"42"`.
    """

    __slots__ = ("_owed",)

    def __init__(self, before: str) -> None:
        self._owed = before[len(before.rstrip()) :]

    def feed(self, text: str) -> str:
        while self._owed and text and text[0] == self._owed[0]:
            self._owed, text = self._owed[1:], text[1:]
        if text:
            self._owed = ""
        return text


class Rejoin(Join):
    """Joins a continuation by a model that was *asked* to go on, but cannot be given the very text.

    Such a model may repeat what stands already, which is taken away, or start without the space that is needed
    between two words, which is added: the one place where a character is written that no model wrote.
    """

    __slots__ = ("_shown", "_waiting")

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._waiting: str | None = "" if shown else None

    def feed(self, text: str) -> str:
        if self._waiting is None:
            return text
        self._waiting += text
        if len(self._waiting) < len(self._shown) and self._shown.startswith(self._waiting):
            return ""
        return self.finish()

    def finish(self) -> str:
        if not self._waiting:
            return ""
        held, self._waiting = self._waiting, None
        if held.startswith(self._shown):
            return held[len(self._shown) :]
        between_words = not self._shown[-1].isspace() and (held[0].isalnum() or held[0] in "([{\"'$\\")
        return f" {held}" if between_words else held
