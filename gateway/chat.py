"""The data that moves: a `Chat` comes in, a `Plan` is made, `Call`s happen, an `Exchange` remembers it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from gateway.allowance import NO_LIMITS, Allowance, Limits
from gateway.answers import Answer, Kind
from gateway.cascade.policy import Policy
from gateway.cascade.signals import Draft
from pricing.bill import Line
from pricing.money import Money
from pricing.usage import Usage
from students.engine import Message, Prompt, Sampling
from students.runs import Run, seconds

Speaker = Literal["teacher", "student"]
Seat = Literal[Speaker, "checker"]
"""Who was asked: the paid model, one's own, or whoever says whether two answers are the same."""

Stage = Literal["guidance", "answer", "fallback", "measurement"]
"""Why a model was asked: for the first words; for the answer, or the rest of it; because another one failed; or, after
the client was served, to see what the teacher alone would have written."""

StrategyName = Literal["teacher", "student", "cut-off", "concise", "hint", "cascade"]
Placement = Literal["prefix", "context"]
"""Where guidance goes: the student continues the very text, or finds it in its prompt and writes the whole answer."""

Unguidable = Literal["tools", "json", "images", "audio", "prefix", "predicted_output", "web_search"]
"""What guidance cannot honour, since two models' texts cannot be glued there."""

Need = Unguidable | Literal["samples", "logprobs"]
Arm = Literal["policy", "holdout"]
"""What was drawn for a chat: to be answered by its route's strategy, or by the teacher alone."""

Outcome = Literal["ok", "failed", "abandoned", "recovered", "skipped"]
"""`skipped`: a shadow that was drawn and not made, for want of room; never a client's request."""
"""How a request ended: answered; answered with an error; the client left; or settled after the process died."""


CacheOutcome = Literal["hit", "stored", "miss", "bypassed"]
"""What came of a route's guidance cache: the guidance was there; it was not, and is now; it was not, and what the
teacher said is not for keeping, or could not be kept; or the cache was not asked."""

PROVIDER_KEY = "x-gkt-provider-key"
"""The header with a caller's own key for the teacher's provider."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What one request asks to be done otherwise than its route says (`gkt` in the body, `x-gkt-*` headers)."""

    strategy: StrategyName | None = None
    guidance_tokens: int | None = None
    teacher: str | None = None
    student: str | None = None
    guidance_prompt: str | None = None
    placement: Placement | None = None
    cache: Literal[False] | None = None

    def named(self) -> list[str]:
        """The fields that are set, in the order of the class."""
        return [name for name in self.__slots__ if getattr(self, name) is not None]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what its key allows: names or patterns (`gpt-*`) of models, strategies, overrides; None: all.

    `expires_at`: seconds since the epoch at which the key ends; None: it does not. `limits` and `budgets` are the key's
    own: where there is none (`budgets` None), those of the configuration hold.
    """

    id: str = "anonymous"
    overrides: frozenset[str] | None = None
    models: tuple[str, ...] | None = None
    strategies: tuple[StrategyName, ...] | None = None
    tags: tuple[str, ...] = ()
    expires_at: float | None = None
    limits: Limits = NO_LIMITS
    budgets: tuple[Allowance, ...] | None = None

    def may_ask(self, model: str) -> bool:
        """True when the key allows this model name."""
        return self.models is None or any(fnmatchcase(model, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True)
class Chat:
    """One request, parsed once; nothing inside sees JSON again.

    `options` are the fields for whichever model writes the answer (tools, response_format, unknown extras);
    `teacher_options` go to the teacher only. `size` is the length of the request body in bytes, an upper bound of
    its prompt tokens. `max_tokens` bounds the visible answer; None: no limit was given. `provider_key` is the caller's
    own key for the teacher's provider: for that upstream alone, and to be written down nowhere.
    """

    id: str
    model: str
    messages: Sequence[Message]
    sampling: Sampling
    max_tokens: int | None = None
    n: int = 1
    stream: bool = False
    stream_usage: bool = False
    needs: frozenset[Need] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict)
    teacher_options: Mapping[str, Any] = field(default_factory=dict)
    overrides: Overrides = Overrides()
    metadata: Mapping[str, str] = field(default_factory=dict)
    size: int = 0
    provider_key: str | None = field(default=None, repr=False)

    @property
    def prefix(self) -> str:
        """The caller's own beginning of the answer: the text of a trailing assistant message, else empty."""
        if "prefix" not in self.needs:
            return ""
        content = self.messages[-1].get("content")
        return content if isinstance(content, str) else ""


@dataclass(frozen=True, slots=True)
class Comparing:
    """How answers are compared whose form does not tell: `checker`, an upstream, says whether two texts mean the same.

    `threshold`: by their embeddings, the cosine from which on they do; None: by judging, in `max_tokens` at most.
    `run`: programs are run against the tests that the chat brings. Without either only the very same words are equal.
    """

    checker: str | None = None
    threshold: float | None = None
    max_tokens: int = 16
    run: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Who speaks, and why. `teacher` and `student` name upstreams of the configuration.

    `teacher_model`: the model to ask the teacher's upstream for; None: its own. `propensity` is the probability
    with which this plan was chosen among those that were possible; 1.0 where nothing was drawn. `pass_key`: the
    teacher is asked with the caller's own key, where it sent one. `arm`: what was drawn, None where nothing was.
    `shadow`: the teacher is to answer too, once the client has been served; `shadow_propensity` is the probability
    of that, None where it was not drawn. `guidance_cache`: guidance is kept for so many seconds; None: it is not.
    `policy` is that of a cascade, `students` the upstreams of the students that it names, `closed` its rungs that are
    not climbed for this chat (by their place) and why, `barred` those of them that it cannot have, so that not even a
    shadow climbs them; `answers` the kind of final answer that drafts are compared by, `comparing` how, where their
    form does not tell.
    """

    route: str
    strategy: StrategyName
    why: str
    teacher: str | None = None
    student: str | None = None
    teacher_model: str | None = None
    guidance_tokens: int = 0
    guidance_prompt: str | None = None
    placement: Placement = "prefix"
    on_teacher_failure: Literal["student", "error"] = "student"
    on_student_failure: Literal["teacher", "error"] = "teacher"
    teacher_sampling: Sampling = field(default_factory=Sampling)
    student_sampling: Sampling = field(default_factory=Sampling)
    propensity: float = 1.0
    pass_key: bool = False
    arm: Arm | None = None
    shadow: bool = False
    shadow_propensity: float | None = None
    guidance_cache: int | None = None
    policy: Policy | None = None
    students: Mapping[str, str] = field(default_factory=dict)
    closed: Mapping[int, str] = field(default_factory=dict)
    barred: frozenset[int] = frozenset()
    answers: Kind | None = None
    comparing: Comparing = Comparing()


@dataclass(slots=True)
class Call:
    """One call to one model, written down by `Upstreams` while it happens.

    `bound` is the most it can cost, None when that is unknown. Times are seconds: `started` since the epoch,
    `first_token` and `duration` since `started`; None: it has not happened. `usage` is None until known.
    `tier` is the service tier that the upstream says it used. `error` is the name of an `EngineError` leaf. `cut` is
    True when we ended the call before its own end.
    `asked`, `route`, `strategy` and `caller` are the request's (its model name, its plan, its caller's id), so that
    the ledger can tell whose call it was when the process died before the request was settled; None: not told.
    `prompt` and `spoken` (the text so far) serve to count what an upstream did not report; they are never stored.
    `former` is what models of a pool used that failed before the last one went on; then `prompt` and `spoken` are the
    last one's. None: only one was asked.
    `runs`: when it ran on which engine's machine, written down by the engines; empty: it was never sent, or the engine
    does not say.
    """

    id: str
    request_id: str
    stage: Stage
    seat: Seat
    upstream: str
    model: str
    stand_in: str | None
    started: float
    bound: Money | None
    first_token: float | None = None
    duration: float | None = None
    usage: Usage | None = None
    finish: str | None = None
    error: str | None = None
    cut: bool = False
    tier: str | None = None
    line: Line | None = None
    asked: str | None = None
    route: str | None = None
    strategy: StrategyName | None = None
    caller: str | None = None
    prompt: Prompt | None = None
    spoken: list[str] = field(default_factory=list)
    former: Usage | None = None
    runs: list[Run] = field(default_factory=list)

    @property
    def occupied(self) -> float | None:
        """The seconds of machines that were its own: of those that others shared, its part. None: nobody knows."""
        if self.runs:
            return seconds(self.runs)
        # Words came from somewhere; whoever wrote them down did not say when it ran.
        return self.duration if self.spoken or self.usage is not None else 0.0


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the teacher's first words came to.

    `text` is what was kept; `tokens` its length in the teacher's tokens, an estimate when a tail was dropped.
    `complete`: the teacher ended its answer by itself within the budget. `wasted` says why guidance that was asked
    for could not be used (reasoning, empty, torn, refused, failed; student_failed: a hint, and only the teacher was
    left to answer); None: it was used.
    """

    text: str = ""
    tokens: int = 0
    complete: bool = False
    wasted: str | None = None


class Opening(NamedTuple):
    """The teacher's first words in a cascade, kept for all rungs that go on from them.

    `budget` is the most tokens that they were asked for with, `read` the tokens of the client's own prompt as the
    teacher counts them; None: not reported. `calls` are the ids of the calls that they are the words of.
    """

    guidance: Guidance
    budget: int
    read: int | None
    calls: Sequence[str]

    def serves(self, budget: int) -> bool:
        """True when a rung of that budget has these words, and the teacher need not be asked."""
        return self.guidance.complete or budget <= self.budget


class Taken(NamedTuple):
    """The rung of a draft, by its place in the policy, and the ids of its calls (of a chat for one answer)."""

    place: int
    calls: Sequence[str]


@dataclass(slots=True)
class Climb:
    """How one choice of a cascade came to its answer: a draft for each rung, in their order, and what was decided last.

    `given` is the place of the draft that was given; None: the teacher's answer was, or none yet. `taken` says of each
    draft which rung it is of; the first `former` were made for another exchange, the one that this one measures.
    `teacher` is the final answer of the teacher's; None: it has none, or was not asked. `opening` are the longest first
    words of the teacher's so far. `vectors` are embeddings of answers, by their words. Of an exchange that measures
    another, `resort` is the call by which the teacher answered that one, `stood` its answer before it was compared.
    """

    drafts: list[Draft] = field(default_factory=list)
    given: int | None = None
    why: str = ""
    taken: list[Taken] = field(default_factory=list)
    former: int = 0
    teacher: Answer | None = None
    opening: Opening | None = None
    vectors: dict[str, Sequence[float]] = field(default_factory=dict)
    resort: Call | None = None
    stood: Answer | None = None


@dataclass(slots=True)
class Exchange:
    """Everything that happened for one chat; what the books are made from.

    `visible` is the usage as the client sees it: the prompt once, and the tokens of the text it was sent.
    `started` is seconds since the epoch, `first_token` and `duration` seconds since `started`.
    `answer` is the text that was sent, in pieces; `receipt` is plain JSON data, None until the exchange is settled.
    `admitted`: it was let in, and will be settled; `headers` belong to its answer then.
    `rules` is what the pipeline planned it under, and keeps to its end; None: those that hold when it is answered.
    `shadow_of`: no client's, but a measurement of the request with that id.
    `guidance_cache` is what came of it; None: the route has none, or no guidance was asked for. `recalled` is the call
    that a hit made needless: never made, and in no bill. It began when the words were asked for again, and took what
    the call took whose words they are. `climbs` are a cascade's, one for each choice that the caller asked for;
    `drafts` are those of the first choice: what the rungs came to, in their order.
    """

    chat: Chat
    caller: Caller
    plan: Plan
    started: float
    calls: list[Call] = field(default_factory=list)
    guidance: Guidance | None = None
    visible: Usage | None = None
    outcome: Outcome = "ok"
    error: str | None = None
    first_token: float | None = None
    duration: float | None = None
    answer: list[str] = field(default_factory=list)
    admitted: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    receipt: Mapping[str, Any] | None = None
    rules: object = None
    shadow_of: str | None = None
    guidance_cache: CacheOutcome | None = None
    recalled: Call | None = None
    drafts: list[Draft] = field(default_factory=list)
    climbs: list[Climb] = field(default_factory=list)

    @property
    def own_key(self) -> bool:
        """True when the caller's own key pays for the teacher."""
        return self.plan.pass_key and self.chat.provider_key is not None
