"""Pool: several engines that serve one model, as one.

    pick ──> ask ──first word──> speak ──Finish──> over
      ^       └─ failed, nothing said ─┐    └─ failed in the middle: spent, and the text so far is the next one's prefix
      └────────────────────────────────┴────────────────────┘

Who is picked has the least work, but for a conversation that a member has read the most of already: it goes there
again, for that one's cache, as long as it has not much more work than the others. Members that are drained, that
failed just now or whose breaker is open are passed over while there are others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import structlog

from pricing.usage import Usage
from students.affinity import Memory, beginnings
from students.counting import prompt_tokens, text_tokens
from students.engine import Ability, Delta, Engine, Event, Finish, Prompt
from students.errors import BadReply, EngineError, Overloaded, TimedOut, Unavailable
from students.guard import MAYBE_BILLED, Guard
from students.resume import OWN_FORM
from students.spec import PoolSpec

REST_SECONDS = 2.0
"""A member that failed is asked again after so long, or when there is nobody else. Its breaker has a longer memory."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

log = structlog.get_logger("students.pool")


@dataclass(slots=True)
class Member:
    """One engine of a pool. `work`: answers under way that the pool asked it for. `there`: it was ready, or spoke, when
    it was last seen, so that its abilities count. `drained`: it is asked for nothing more; what is under way goes on.
    """

    number: int
    engine: Engine
    work: int = 0
    there: bool = True
    drained: bool = False
    resting_until: float = 0.0

    @property
    def well(self) -> bool:
        """True when there is no reason to ask another one first."""
        if monotonic() < self.resting_until:
            return False
        return not (isinstance(self.engine, Guard) and self.engine.breaker.position.wait)


class Pool:
    """An `Engine` over several, which it closes too. Their abilities are those that all members which are there have.

    After the first word, an answer whose member fails goes on on another member, from the very text that was given:
    if it is one text (`n` 1, no log-probabilities, no tools or schema) and that member has `Ability.CONTINUE`. White
    space at the end is given only with what follows it, since the next member writes its own. A `Delta` with `spent`
    tells what the one that failed is thought to have cost. Each member is asked at most once in a call, and at most
    `PoolSpec.moves` of them after one that may have to be paid.
    """

    def __init__(self, name: str, spec: PoolSpec, members: Sequence[Engine]) -> None:
        self.name = name
        self.model = spec.model
        self.members = [Member(number, engine) for number, engine in enumerate(members)]
        self.moved = 0
        self._spec = spec
        self._memory = Memory()
        self._turn = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"Pool({self.name!r}, {[member.engine for member in self.members]!r})"

    @property
    def abilities(self) -> Ability:
        """What can be asked for whoever answers."""
        common = ~Ability.NONE
        for member in self._there():
            common &= member.engine.abilities
        return common

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`, and the class."""
        if (prompt.prefix and Ability.CONTINUE not in self.abilities) or (
            prompt.n > 1 and Ability.SAMPLES not in self.abilities
        ):
            raise ValueError(f"{self.name} cannot continue a given text, or give {prompt.n} samples")
        answer = _Answer(prompt, self.model)
        digests = beginnings(prompt)
        asked: set[int] = set()
        moves = self._spec.moves
        while True:
            member = self._pick(answer.asked, digests, asked)
            asked.add(member.number)
            member.work += prompt.n
            spoke = False
            try:
                async with aclosing(member.engine.stream(answer.asked)) as events:
                    async for event in events:
                        if isinstance(event, Finish):
                            for delta in answer.end():
                                yield delta
                            yield event
                            return
                        if not spoke:
                            spoke = member.there = True
                            self._memory.read(digests, member.number)
                        for delta in answer.feed(event):
                            yield delta
                        if answer.stopped:
                            yield Finish(("stop",))
                            return
                    raise BadReply("the answer ended without its end", engine=member.engine.name)
            except EngineError as error:
                paid = spoke or _maybe_billed(error)
                self._failed(member, error)
                if not self._others(answer, error, asked, paid=paid, moves=moves):
                    raise
                moves -= paid
                log.warning("moved", pool=self.name, member=member.engine.name, error=type(error).__name__)
            finally:
                member.work -= prompt.n
            self.moved += 1
            if paid:
                yield Delta("", spent=answer.move())
                if answer.asked.max_tokens == 0:
                    yield Finish(("length",), Usage(0, 0, source="counted"))
                    return

    async def ready(self) -> Ability:
        """See `Engine.ready`. Raises the error of the first member when none is there."""
        found = await asyncio.gather(*(member.engine.ready() for member in self.members), return_exceptions=True)
        for member, proven in zip(self.members, found, strict=True):
            if isinstance(proven, BaseException) and not isinstance(proven, EngineError):
                raise proven
            member.there = isinstance(proven, Ability)
            if not member.there:
                member.resting_until = monotonic() + REST_SECONDS
        if not any(member.there for member in self.members):
            raise Unavailable(f"no member is there: {found[0]}", engine=self.name)
        return self.abilities

    async def aclose(self) -> None:
        """Close all members. Idempotent."""
        self._closed = True
        await asyncio.gather(*(member.engine.aclose() for member in self.members))

    def drain(self, member: str, drain: bool) -> None:
        """Ask `member` for nothing more, or again. Raises `LookupError` when the pool has no such member."""
        found = next((each for each in self.members if each.engine.name == member), None)
        if found is None:
            raise LookupError(member)
        found.drained = drain
        if drain:
            self._memory.forget(found.number)  # it is drained to be restarted, and will have read nothing then

    def state(self) -> dict[str, dict[str, Any]]:
        """Each member by name, as plain data."""
        return {
            each.engine.name: {"there": each.there, "well": each.well, "drained": each.drained, "work": each.work}
            for each in self.members
        }

    def _there(self) -> Sequence[Member]:
        open_to = [member for member in self.members if not member.drained]
        return [member for member in open_to if member.there] or open_to or self.members

    def _pick(self, prompt: Prompt, digests: Sequence[bytes], asked: set[int]) -> Member:
        """Who is asked next. Raises `Unavailable` when nobody is left."""
        able = self._able(prompt, asked)
        if self._closed or not able:
            raise Unavailable(
                "the engine is closed" if self._closed else "no member can be asked: all are drained", engine=self.name
            )
        well = [member for member in able if member.well] or able
        self._turn += 1

        def by_work(member: Member) -> tuple[int, int]:
            return member.work, (member.number - self._turn) % len(self.members)  # equals take turns

        most = self._spec.spread * sum(member.work for member in well) / len(well) + 1
        near = [member for member in well if member.work < most]
        best = max((self._memory.known(digests, member.number) for member in near), default=0)
        return min((m for m in near if self._memory.known(digests, m.number) == best), key=by_work, default=well[0])

    def _able(self, prompt: Prompt, asked: set[int]) -> Sequence[Member]:
        """Members that may be asked, were not yet, and can do what the prompt needs."""
        needs = Ability.CONTINUE if prompt.prefix else Ability.NONE
        needs |= Ability.SAMPLES if prompt.n > 1 else Ability.NONE
        return [
            member
            for member in self.members
            if not member.drained and member.number not in asked and needs in member.engine.abilities
        ]

    def _others(self, answer: _Answer, error: EngineError, asked: set[int], *, paid: bool, moves: int) -> bool:
        """Whether the answer can be had from another member."""
        if self._closed or not isinstance(error, Unavailable | Overloaded | TimedOut | BadReply):
            return False
        if answer.begun and not answer.movable:
            return False
        return (not paid or moves > 0) and bool(self._able(answer.next(), asked))

    def _failed(self, member: Member, error: EngineError) -> None:
        if isinstance(error, Unavailable | TimedOut | BadReply | Overloaded):
            member.resting_until = monotonic() + REST_SECONDS
        if isinstance(error, Unavailable):
            member.there = False
            self._memory.forget(member.number)


class _Answer:
    """What was said so far, by whomever, and what is to be asked next.

    `asked` is the prompt of the one that speaks now. `movable`: what was said can be given to another one to go on.
    """

    def __init__(self, prompt: Prompt, model: str) -> None:
        self.asked = prompt
        self.begun = False
        self.stopped = False
        self.movable = prompt.n == 1 and not prompt.sampling.logprobs and not OWN_FORM & prompt.options.keys()
        self._model = prompt.model or model
        self._holds = self.movable
        self._said: list[str] = []
        self._held = ""
        self._seam = ""
        self._waiting: str | None = None

    def feed(self, delta: Delta) -> Sequence[Delta]:
        """What may be given of it now."""
        self.begun = True
        if delta.fields is not None or delta.logprobs is not None or delta.index:
            self.movable = False
        if not self._holds:
            return [delta]
        text = self._joined(delta.text)
        text = self._held + text
        kept = text.rstrip().rstrip(REPLACEMENT).rstrip() if self.movable else text
        self._held = text[len(kept) :]
        self._said.append(kept)
        return [replace(delta, text=kept)] if kept or delta.fields or delta.logprobs else []

    def end(self) -> Sequence[Delta]:
        """The one that speaks ended by itself: what was held is given too."""
        waiting, self._waiting = self._waiting or "", None
        rest, self._held = self._held + waiting, ""
        return [Delta(rest)] if rest else []

    def next(self) -> Prompt:
        """What another one would be asked: to go on from what was said."""
        said = "".join(self._said)
        if not said:
            return self.asked
        limit = self.asked.max_tokens
        left = None if limit is None else max(0, limit - text_tokens(said, self._model).tokens)
        # Its own white space at the end is given by nobody: a prefix never ends in any.
        return replace(self.asked, prefix=(self.asked.prefix + said).rstrip(), max_tokens=left)

    def move(self) -> Usage:
        """The one that spoke is gone: what it is thought to have used."""
        said = "".join(self._said)
        read, written = prompt_tokens(self.asked, self._model), text_tokens(said, self._model)
        exact = read.source == written.source == "counted"
        self.asked = self.next()
        self._said.clear()
        self._held = ""
        reach = max((len(stop) for stop in self.asked.sampling.stop), default=0) - 1
        self._seam = (self._seam + said)[-reach:] if reach > 0 else ""
        self._waiting = "" if self._seam else None
        return Usage(read.tokens, written.tokens, source="counted" if exact else "estimated")

    def _joined(self, text: str) -> str:
        """Text after a seam, which a stop string may cross: held until it is as long as that could reach."""
        if self._waiting is None:
            return text
        self._waiting += text
        both = self._seam + self._waiting
        if any(stop in both for stop in self.asked.sampling.stop):
            self.stopped, self._waiting = True, None
            return ""
        if len(self._waiting) < max(map(len, self.asked.sampling.stop)) - 1:
            return ""
        waiting, self._waiting = self._waiting, None
        return waiting


def _maybe_billed(error: EngineError) -> bool:
    """Whether the one that said nothing may have to be paid all the same."""
    if isinstance(error, TimedOut):
        return error.deadline not in ("place", "connect")
    return isinstance(error, BadReply) or error.status in MAYBE_BILLED
