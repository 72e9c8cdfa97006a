"""A known text, said as a server would say it: token after token, up to a limit or a stop string. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Script:
    """What is said of a text: the pieces that are shown, the tokens that were generated for them, and why it ended.

    A stop string ends the text before itself, though its own tokens were generated and count.
    """

    pieces: tuple[str, ...]
    tokens: int
    reason: Literal["stop", "length"]


def script(texts: Sequence[str], *, limit: int | None = None, stop: Sequence[str] = ()) -> Script:
    """Cut a text, given as the text of each of its tokens ("" for one that only begins a character).

    A text of exactly `limit` tokens is complete. Of several stop strings the one that is completed first counts.
    """
    kept = texts if limit is None else texts[: max(limit, 0)]
    reason: Literal["stop", "length"] = "stop" if len(kept) == len(texts) else "length"
    said = "".join(kept)
    ends = [(at + len(text), at) for text in stop if text and (at := said.find(text)) >= 0]
    if not ends:
        return Script(tuple(kept), len(kept), reason)
    end, shown = min(ends)
    pieces, length = [], 0
    for piece in kept:
        pieces.append(piece[: max(shown - length, 0)])
        length += len(piece)
        if length >= end:
            break
    return Script(tuple(pieces), len(pieces), "stop")
