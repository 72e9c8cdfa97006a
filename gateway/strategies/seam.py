"""The seam: where one model's words end and another's begin. Pure; no I/O.

A cut can tear a word, a number or a character, so the end of the guidance is held back until it is known to be whole
(`Guide`). What comes after a cut joins on in one of three ways (`Join`). Stop strings across the seam are found by
`students.outlet.Outlet`.
"""

from __future__ import annotations

import regex

from students.outlet import Buffer, Logprobs, Piece

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
