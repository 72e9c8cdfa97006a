"""The card of types: how anything that can speak is asked to. The teacher is an `Engine` too.

Prompt -> Engine.stream -> Delta, Delta, ..., Finish
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pricing.usage import Usage
from students.runs import Run

Message = Mapping[str, Any]
"""One chat message in OpenAI's shape, as the caller wrote it; never changed in place."""


class Ability(enum.Flag):
    """What an engine can do; what it lacks, the planner works around or refuses."""

    NONE = 0
    CONTINUE = enum.auto()
    """Honours `Prompt.prefix`: its answer goes on from exactly that text, and yields only what is new."""
    SAMPLES = enum.auto()
    """Honours `Prompt.n` above 1 in one call."""
    LOGPROBS = enum.auto()
    TOOLS = enum.auto()
    SCHEMA = enum.auto()
    IMAGES = enum.auto()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. None: nothing was said, the engine's own default holds.

    `logit_bias` maps token ids of the engine's own vocabulary; `stop` strings end the text before themselves.
    """

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to one engine.

    `prefix`: the answer begins with exactly this text; go on (needs `Ability.CONTINUE`). Never ends in white space.
    `max_tokens`: the most new tokens, hidden reasoning included; None: the engine's own limit.
    `options`: further fields of the chat completions API, sent as they are (tools, response_format, unknown extras).
    `model`: asks the upstream for this model instead of the engine's own; None: the engine's own.
    `stream`: False lets an engine yield its whole text as one `Delta`; it never has to.
    `key`: somebody else's key for the upstream, used instead of the engine's own; None: the engine's own. It is in no
    message and no log; an engine that sends no key ignores it.
    `runs`: where the engine writes down each `Run` as it begins, and that it has ended, before `Finish` at the latest.
    Nothing is written for a call that was never sent. None: nobody wants to know.
    """

    messages: Sequence[Message]
    max_tokens: int | None = None
    prefix: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    stream: bool = True
    key: str | None = field(default=None, repr=False)
    runs: list[Run] | None = field(default=None, repr=False, compare=False)


@dataclass(slots=True)
class Delta:
    """New text of choice `index`; never empty of everything.

    `logprobs`: the entries of OpenAI's `logprobs.content` for this text, or None when none were given.
    `fields`: other members of the delta, as the upstream wrote them (tool_calls, refusal, reasoning_content, ...).
    `spent`: what a model that failed is thought to have used on the answer so far, before another one goes on with it;
    such a delta holds nothing else, and what is used from there on is in the `Finish` (see `students.pool`).
    """

    text: str
    index: int = 0
    logprobs: Sequence[Mapping[str, Any]] | None = None
    fields: Mapping[str, Any] | None = None
    spent: Usage | None = None


@dataclass(slots=True)
class Finish:
    """The end of an answer; nothing follows.

    `reasons`: one per choice, in OpenAI's words (stop, length, content_filter, tool_calls).
    `usage`: None when the upstream did not report any; an engine never makes one up.
    `model`, `service_tier`, `fingerprint`: what the upstream says answered; None when it does not say.
    """

    reasons: tuple[str, ...] = ("stop",)
    usage: Usage | None = None
    model: str | None = None
    service_tier: str | None = None
    fingerprint: str | None = None

    @property
    def reason(self) -> str:
        """The finish reason of the first choice."""
        return self.reasons[0]


Event = Delta | Finish


class Engine(Protocol):
    """One model that can be asked to speak, by many tasks at once.

    Whoever builds an engine closes it, with `aclose`, once; `students.build` builds.
    """

    @property
    def name(self) -> str:
        """The name from the configuration; appears in receipts, errors and metrics."""
        ...

    @property
    def model(self) -> str:
        """The model's name at its upstream; what the price book is asked for."""
        ...

    @property
    def abilities(self) -> Ability:
        """What the engine can do: as configured before `ready`, as proven after it."""
        ...

    def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Ask, and yield the answer: any number of `Delta`, then exactly one `Finish`.

        Raises a leaf of `EngineError` when the answer cannot come or cannot go on; a stream that ends without
        `Finish` is a `BadReply`, never a short answer. Nothing is sent before the first `__anext__`. The caller
        closes the generator (`contextlib.aclosing`); closing it early stops the upstream at once (within 100 ms)
        and frees its slot. Deadlines and retries inside one call are the engine's own.
        """
        ...

    async def ready(self) -> Ability:
        """Reach the upstream, prove by a probe what is claimed (`CONTINUE`), and return what was proven.

        Raises `EngineError` when the upstream cannot be used at all. May be called again at any time; a probe is
        a small real call, so it is made once and its result kept.
        """
        ...

    async def aclose(self) -> None:
        """Free connections and processes. Idempotent; running streams end in `Unavailable`."""
        ...


Vector = tuple[float, ...]
"""An embedding."""


class Embedded(NamedTuple):
    """A vector for each text, in their order, all of one length; `usage` is None where it was not reported."""

    vectors: Sequence[Vector]
    usage: Usage | None


@runtime_checkable
class Embedder(Protocol):
    """An engine that gives embeddings too."""

    async def embed(self, texts: Sequence[str], runs: list[Run] | None = None) -> Embedded:
        """The embeddings of all texts in one call; `runs` as `Prompt.runs`. Raises `EngineError`."""
        ...
