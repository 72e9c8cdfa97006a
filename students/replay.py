"""Recorded answers, played back as a model: cut at `max_tokens` by the tokenizer, usage exact, no network, no cost.

Anything that the recording cannot answer is refused; nothing is made up.
"""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

from pricing.tokens import Vocabulary
from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Message, Prompt
from students.errors import Refused, Unavailable
from students.runs import Machine
from students.script import script
from students.spec import ReplaySpec

MESSAGE_TOKENS = 3
REPLY_TOKENS = 3
"""What OpenAI documents a chat to cost beside its roles and contents: per message, and once for the answer's start."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded answer. `model` is the one that gave it, None when the recording does not say."""

    response: str
    model: str | None


class Replay:
    """An `Engine` that answers from JSON lines with `prompt`, `response` and optionally `model`.

    An answer is found by the text of the last user message: the prompt that equals it, else the longest prompt that
    it contains; of equal prompts the first row counts. Each `Delta` is one token's text, a character that spans
    tokens comes with its last one, and one that the limit cuts is not said, though its tokens count. `n` samples are
    the same text `n` times; sampling, apart from `stop`, has no effect on what was recorded.

    The file is read at the first use. `Refused`: nothing was recorded for this prompt. `Unavailable`: the file or the
    vocabulary is not at hand, or the engine is closed.
    """

    def __init__(self, name: str, spec: ReplaySpec) -> None:
        self.name = name
        self.model = spec.model
        self.abilities = Ability.SAMPLES
        self._spec = spec
        self._tape: _Tape | None = None
        self._reading = asyncio.Lock()
        self._places = asyncio.Semaphore(spec.max_concurrent)
        self._machine = Machine(name)
        self._closed = False

    def __repr__(self) -> str:
        return f"Replay({self.name!r}, {str(self._spec.file)!r})"

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`."""
        if prompt.prefix:
            raise ValueError(f"{self.name} cannot continue a given text")
        async with self._places:
            tape = await self._loaded()
            recorded = tape.find(_question(prompt.messages))
            if recorded is None:
                raise Refused("nothing was recorded for this prompt", engine=self.name)
            said = script(tape.texts(recorded.response), limit=prompt.max_tokens, stop=prompt.sampling.stop)
            run = self._machine.run(prompt.runs)
            run.begin()
            try:
                for piece in said.pieces:
                    if self._spec.delay:
                        await asyncio.sleep(self._spec.delay)
                    self._check_open()
                    if piece:
                        for index in range(prompt.n):
                            yield Delta(piece, index)
            finally:
                run.end()
        yield Finish(
            reasons=(said.reason,) * prompt.n,
            usage=Usage(input=tape.input_tokens(prompt.messages), output=said.tokens * prompt.n),
            model=recorded.model or self.model,
        )

    async def ready(self) -> Ability:
        """Read the recording. See the class for what is raised."""
        await self._loaded()
        return self.abilities

    async def aclose(self) -> None:
        """Forget the recording. Idempotent; running streams end in `Unavailable`."""
        self._closed = True
        self._tape = None

    async def _loaded(self) -> _Tape:
        async with self._reading:
            self._check_open()
            if self._tape is None:
                try:
                    self._tape = await asyncio.to_thread(_Tape, self._spec)
                except (OSError, ValueError, LookupError) as error:
                    raise Unavailable(f"the recording cannot be played: {error}", engine=self.name) from None
            return self._tape

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the engine is closed", engine=self.name)


class _Tape:
    """A recording and its tokenizer. Raises OSError, ValueError or LookupError when either cannot be had."""

    def __init__(self, spec: ReplaySpec) -> None:
        vocabulary = Vocabulary.load(spec.vocabulary)
        if vocabulary is None:
            raise LookupError(
                f"vocabulary {spec.vocabulary!r} is not on this machine; `pip install litellm` brings it, "
                "or TIKTOKEN_CACHE_DIR names a folder that holds it"
            )
        self._vocabulary = vocabulary
        self._answers: dict[str, Recorded] = {}
        with spec.file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    prompt, recorded = _row(line, f"{spec.file}:{number}")
                    self._answers.setdefault(prompt, recorded)

    def find(self, question: str) -> Recorded | None:
        """The answer to this question; None when nothing fits."""
        recorded = self._answers.get(question)
        if recorded is None:
            within = max((prompt for prompt in self._answers if prompt in question), key=len, default="")
            recorded = self._answers.get(within) if within else None
        return recorded

    def texts(self, response: str) -> list[str]:
        """The text of each token; "" where a token ends within a character."""
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        return [decode(self._vocabulary.decode_bytes([token])) for token in self._vocabulary.encode(response)]

    def input_tokens(self, messages: Sequence[Message]) -> int:
        """The prompt's tokens, as OpenAI documents their counting: roles, contents and names, and the frame."""
        total = REPLY_TOKENS
        for message in messages:
            total += MESSAGE_TOKENS + self._vocabulary.count(str(message.get("role", "")))
            total += self._vocabulary.count(_text(message))
            if "name" in message:
                total += self._vocabulary.count(str(message["name"])) + 1
        return total


def _row(line: str, place: str) -> tuple[str, Recorded]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON: {error.msg}") from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not isinstance(row.get("response"), str):
        raise ValueError(f"{place} does not have the texts `prompt` and `response`")
    model = row.get("model")
    return row["prompt"], Recorded(row["response"], model if isinstance(model, str) else None)


def _question(messages: Sequence[Message]) -> str:
    """The text of the last user message; empty when there is none."""
    return next((_text(message) for message in reversed(messages) if message.get("role") == "user"), "")


def _text(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, Mapping))
    return "".join(text for text in parts if isinstance(text, str))
