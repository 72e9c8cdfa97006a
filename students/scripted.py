"""Says what it was told: an engine for tests and documentation, as strict about the contract as the real ones."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, Self

from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Prompt
from students.errors import EngineError, Unavailable
from students.runs import Machine
from students.script import script
from students.spec import ScriptedSpec

Says = str | Callable[[Prompt], str]
Fails = EngineError | Callable[[Prompt], EngineError | None]


class Scripted:
    """An `Engine` whose every answer, delay and failure is given beforehand. One piece of text is one token.

        Scripted("teacher", "The sky is blue.")                      # "The", " sky", " is", " blue."
        Scripted("teacher", "Well", error=Unavailable("gone"), fail_after=1)
        Scripted("teacher", lambda prompt: prompt.messages[-1]["content"].upper())

    `says`: the answer; after `Prompt.prefix`, what goes on from there. `chunks`: its pieces, instead of words.
    `max_tokens` and `stop` cut it as they cut a model; `n` samples are the same text.
    `finish`: the reason in place of `stop` (content_filter, tool_calls); a cut still ends in `length`.
    `usage`: "words" reports one token a word of the prompt and a piece of the answer; a `Usage` is reported as it is;
    None reports nothing.
    `reasoning`: hidden tokens before the first word; they count against `max_tokens`.
    `error`: raised after `fail_after` pieces; a callable decides call by call. `hang_after`: waits after that many
    pieces until it is closed. `delay`: seconds before each piece and before the end.
    `fields`: other members, sent as one `Delta` before the text (refusal, reasoning_content, tool_calls).
    `logprob`: the value that every token is said to have, when the prompt asks; None: there are none.

    Remembers for the test: every `Prompt` in `prompts`, and in `closed_early` how many answers were begun and left
    before their end.
    """

    def __init__(
        self,
        name: str = "scripted",
        says: Says = "Hello there.",
        *,
        model: str = "scripted",
        chunks: Sequence[str] | None = None,
        finish: str = "stop",
        usage: Usage | Literal["words"] | None = "words",
        reasoning: int = 0,
        error: Fails | None = None,
        fail_after: int = 0,
        hang_after: int | None = None,
        delay: float = 0.0,
        fields: Mapping[str, Any] | None = None,
        logprob: float | None = None,
        abilities: Ability = Ability.CONTINUE | Ability.SAMPLES,
    ) -> None:
        self.name = name
        self.model = model
        self.abilities = abilities if logprob is None else abilities | Ability.LOGPROBS
        self.prompts: list[Prompt] = []
        self.closed_early = 0
        self._says = says
        self._chunks = chunks
        self._finish = finish
        self._usage = usage
        self._reasoning = reasoning
        self._error = error
        self._fail_after = fail_after
        self._hang_after = hang_after
        self._delay = delay
        self._fields = fields
        self._logprob = logprob
        self._closing = asyncio.Event()
        self._machine = Machine(name)

    @classmethod
    def from_spec(cls, name: str, spec: ScriptedSpec) -> Self:
        """The engine that `config.yaml` describes."""
        return cls(name, spec.says, model=spec.model)

    def __repr__(self) -> str:
        return f"Scripted({self.name!r})"

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`."""
        if prompt.prefix and Ability.CONTINUE not in self.abilities:
            raise ValueError(f"{self.name} cannot continue a given text")
        if prompt.n > 1 and Ability.SAMPLES not in self.abilities:
            raise ValueError(f"{self.name} cannot answer n = {prompt.n} in one call")
        self.prompts.append(prompt)
        error = self._error(prompt) if callable(self._error) else self._error
        ended = False
        run = self._machine.run(prompt.runs)
        run.begin()
        try:
            async with aclosing(self._say(prompt, error)) as events:
                async for event in events:
                    ended = isinstance(event, Finish)
                    if ended:
                        run.end()
                    yield event
        except EngineError as failure:
            ended = True
            failure.engine = failure.engine or self.name
            if getattr(failure, "deadline", None) in ("place", "connect"):
                run.withdraw()  # it plays a server that was not reached
            raise
        finally:
            run.end()
            self.closed_early += not ended

    async def ready(self) -> Ability:
        """What it was told it can do. Raises `Unavailable` when it is closed."""
        if self._closing.is_set():
            raise Unavailable("the engine is closed", engine=self.name)
        return self.abilities

    async def aclose(self) -> None:
        """Idempotent; running streams end in `Unavailable`."""
        self._closing.set()

    async def _say(self, prompt: Prompt, error: EngineError | None) -> AsyncGenerator[Event, None]:
        limit = prompt.max_tokens
        hidden = self._reasoning if limit is None else min(self._reasoning, limit)
        said = script(self._pieces(prompt), limit=None if limit is None else limit - hidden, stop=prompt.sampling.stop)
        await self._reach(0, error)
        if self._fields:
            yield Delta("", fields=self._fields)
        for position, piece in enumerate(said.pieces, 1):
            if piece:
                for index in range(prompt.n):
                    yield Delta(piece, index, self._logprobs(piece, prompt))
            await self._reach(position, error)
        cut = said.reason == "length" or hidden < self._reasoning
        reason = "length" if cut else self._finish
        yield Finish((reason,) * prompt.n, self._report(prompt, said.tokens, hidden), model=self.model)

    async def _reach(self, position: int, error: EngineError | None) -> None:
        """Whatever happens after this many pieces."""
        if error is not None and position == self._fail_after:
            raise error
        if position == self._hang_after:
            await self._closing.wait()
        elif self._delay:
            await asyncio.sleep(self._delay)
        if self._closing.is_set():
            raise Unavailable("the engine is closed", engine=self.name)

    def _pieces(self, prompt: Prompt) -> Sequence[str]:
        if self._chunks is not None:
            return self._chunks
        return re.findall(r"\s*\S+|\s+", self._says(prompt) if callable(self._says) else self._says)

    def _logprobs(self, piece: str, prompt: Prompt) -> list[dict[str, Any]] | None:
        if self._logprob is None or not prompt.sampling.logprobs:
            return None
        return [{"token": piece, "logprob": self._logprob, "bytes": list(piece.encode()), "top_logprobs": []}]

    def _report(self, prompt: Prompt, tokens: int, hidden: int) -> Usage | None:
        if self._usage != "words":
            return self._usage
        words = sum(len(str(message.get("content", "")).split()) for message in prompt.messages)
        return Usage(
            input=words + len(prompt.prefix.split()),
            output=(tokens + hidden) * prompt.n,
            reasoning=hidden * prompt.n if self._reasoning else None,
        )
