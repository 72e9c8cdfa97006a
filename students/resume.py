"""Going on elsewhere with an answer that broke off: what to ask, and what of the reply is new. Pure; no I/O."""

from __future__ import annotations

from dataclasses import replace

from students.engine import Delta, Prompt

OWN_FORM = frozenset(
    {
        *("tools", "functions", "response_format", "guided_json", "guided_regex", "grammar"),
        *("prediction", "modalities", "audio", "web_search_options"),
    }
)
"""Options that ask for an answer which is one piece, such as a form that a grammar writes from its beginning; it cannot
begin in the middle."""


class Broken:
    """What has come of one answer so far. Feed it every delta that is passed on.

    `tokens`: the deltas that came, a lower bound: a server may send several tokens at once. So an answer that was
    continued may have a few tokens more than its limit, and never fewer than it asked for.
    """

    __slots__ = ("_plain", "_prompt", "_text", "tokens")

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._text = ""
        self._plain = prompt.n == 1 and not OWN_FORM & prompt.options.keys()
        self.tokens = 0

    def add(self, delta: Delta) -> None:
        """Take note of a delta that was passed on."""
        self._text += delta.text
        self._plain = self._plain and not delta.fields
        self.tokens += 1

    @property
    def begun(self) -> bool:
        """Whether anything was passed on; if not, the same prompt can be asked anew."""
        return self.tokens > 0

    @property
    def resumable(self) -> bool:
        """Whether a model that can continue a text can go on: one answer, of nothing but text."""
        return not self.begun or self._plain

    @property
    def ended(self) -> bool:
        """Whether the token limit was reached already."""
        limit = self._prompt.max_tokens
        return limit is not None and self.tokens >= limit

    def rest(self) -> tuple[Prompt, Seam]:
        """What to ask for the rest, and how to join it. Needs `Ability.CONTINUE` once anything was passed on."""
        prompt = self._prompt
        if not self.begun:
            return prompt, Seam("")
        whole = prompt.prefix + self._text
        prefix = whole.rstrip()
        limit = None if prompt.max_tokens is None else prompt.max_tokens - self.tokens
        return replace(prompt, prefix=prefix, max_tokens=limit), Seam(whole[len(prefix) :])


class Seam:
    """Joins a continuation to a text that ended in `white` space, which no prefix may: it is not shown twice."""

    __slots__ = ("_white",)

    def __init__(self, white: str) -> None:
        self._white = white

    def new(self, text: str) -> str:
        """What of the next piece of the continuation was not there already."""
        shared = 0
        while shared < min(len(text), len(self._white)) and text[shared] == self._white[shared]:
            shared += 1
        self._white = self._white[shared:] if shared == len(text) else ""
        return text[shared:]
