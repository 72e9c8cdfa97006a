"""Guidance-based knowledge transfer: the teacher's first words, the student's answer.

The three methods of the paper (GKT, Findings of ACL 2024, section 4.2) are one strategy under different plans:

    cut-off   the teacher answers and is cut after the budget; the student continues its very text
    concise   the same, with the teacher asked to be brief
    hint      the teacher gives a hint, which stands in the student's prompt; the student writes the whole answer
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from gateway.chat import Exchange, Guidance, Stage
from gateway.strategies.base import Upstreams, merged, sampled
from gateway.strategies.prompts import after
from gateway.strategies.seam import Guide, Join, Rejoin, Trim
from gateway.strategies.solo import one_of, together
from gateway.strategies.voice import Choice, voiced
from pricing.tokens import count
from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Message, Prompt
from students.errors import EngineError
from students.outlet import Outlet, Piece


@dataclass(slots=True)
class Begun:
    """The teacher's part as it comes, and what it came to."""

    outlet: Outlet
    guide: Guide = field(default_factory=Guide)
    finish: Finish | None = None
    refused: bool = False
    dropped: str = ""
    ended: str | None = None
    """The finish reason of the whole answer, when no student is needed."""

    @property
    def usage(self) -> Usage | None:
        return self.finish.usage if self.finish else None


class Guided:
    """The teacher writes the first words under a small budget, the student the rest under the caller's settings."""

    async def run(self, exchange: Exchange, upstreams: Upstreams) -> AsyncGenerator[Event, None]:
        chat, plan = exchange.chat, exchange.plan
        begun = Begun(Outlet(chat.sampling.stop))
        async with aclosing(begin(exchange, upstreams, begun)) as deltas:
            async for delta in deltas:
                yield delta
        guidance = exchange.guidance = guided(begun)
        shown = guidance.tokens if plan.placement == "prefix" else 0
        if begun.ended is None and chat.max_tokens is not None and shown >= chat.max_tokens:
            begun.ended = "length"
            for delta in _shown(begun.outlet.finish(), chat.n):  # no stop string can end what nobody goes on from
                yield delta
        if begun.ended is not None:
            tokens = guidance.tokens if plan.placement == "prefix" or guidance.wasted else 0
            yield Finish((begun.ended,) * chat.n, self._visible(exchange, upstreams, begun, None, tokens))
            return
        ends: dict[int, Finish] = {}
        choices = [self._choice(exchange, upstreams, guidance, begun.outlet, index) for index in range(chat.n)]
        async with aclosing(merged(choices)) as events:
            async for index, event in events:
                if isinstance(event, Finish):
                    ends[index] = event
                else:
                    yield event
        if plan.placement == "context" and guidance.wasted is None and _all_failed(exchange):
            exchange.guidance = replace(guidance, wasted="student_failed")
        end = together([ends[index] for index in sorted(ends)])
        end.usage = self._visible(exchange, upstreams, begun, end.usage, shown)
        yield end

    async def _choice(
        self, exchange: Exchange, upstreams: Upstreams, guidance: Guidance, outlet: Outlet, index: int
    ) -> AsyncGenerator[Event, None]:
        """One choice after the guidance: the student's words or, if it fails before its first, the teacher's."""
        chat, plan = exchange.chat, exchange.plan
        own = chat.prefix if upstreams.can("student", Ability.CONTINUE) else ""
        prompt = across(outlet, one_of(student_prompt(exchange, upstreams, guidance, own), index))
        join = Trim(own) if own and not guidance.text else Join()
        begun = False
        try:
            spoken = voiced(upstreams.ask("student", "answer", prompt), [Choice(index, outlet.copy(), join)])
            async with aclosing(spoken) as events:
                async for event in events:
                    begun = True
                    yield event
            return
        except EngineError:
            if begun or plan.on_student_failure == "error" or plan.teacher is None:
                raise
        prompt, join = _fallback_prompt(exchange, upstreams, guidance)
        prompt = across(outlet, prompt)
        spoken = voiced(upstreams.ask("teacher", "fallback", prompt), [Choice(index, outlet.copy(), join)])
        async with aclosing(spoken) as events:
            async for event in events:
                yield event

    def _visible(
        self, exchange: Exchange, upstreams: Upstreams, begun: Begun, student: Usage | None, shown: int
    ) -> Usage | None:
        """Usage as the client sees it: its own prompt once, and the tokens of the text it was sent."""
        name = exchange.plan.guidance_prompt
        if begun.usage is not None and begun.usage.input is not None:
            prompt, added = begun.usage.input, upstreams.prompts[name].tokens if name is not None else 0
        elif student is not None and student.input is not None:
            prompt, added = student.input, shown
        else:
            return None
        if student is None and begun.ended is None:
            return None  # the student was stopped before it could report
        written = student.output if student is not None else 0
        if written is None:
            return None
        # What was added is an estimate; where it exceeds the whole, the whole is the better one.
        known = prompt - added if prompt > added else prompt
        exact = not added and not begun.dropped
        return Usage(known, shown + written, source="reported" if exact else "estimated")


async def begin(
    exchange: Exchange, upstreams: Upstreams, begun: Begun, stage: Stage = "guidance"
) -> AsyncGenerator[Delta, None]:
    """Ask the teacher, and yield what may already be shown of its words."""
    chat, plan, guide, outlet = exchange.chat, exchange.plan, begun.guide, begun.outlet
    show = plan.placement == "prefix"
    join = Trim(chat.prefix) if upstreams.can("teacher", Ability.CONTINUE) else Join()
    try:
        async with aclosing(upstreams.ask("teacher", stage, _teacher_prompt(exchange, upstreams))) as events:
            async for event in events:
                if isinstance(event, Finish):
                    begun.finish = event
                    break
                if event.fields and (event.fields.get("refusal") or event.fields.get("tool_calls")):
                    begun.refused = True
                    for index in range(chat.n):
                        yield Delta("", index, None, event.fields)
                released = guide.feed(join.feed(event.text), event.logprobs)
                if show:
                    for delta in _shown(outlet.feed(released.text, released.logprobs), chat.n):
                        yield delta
                    if outlet.stopped:
                        break
    except EngineError:
        if plan.on_teacher_failure == "error":
            raise
    reason = begun.finish.reason if begun.finish else None
    capped = chat.max_tokens is not None and chat.max_tokens <= plan.guidance_tokens
    if outlet.stopped:
        begun.ended = "stop"
    elif begun.refused or reason in ("content_filter", "tool_calls", "function_call"):
        begun.ended = reason or "stop"  # never a prefix: the answer ends as the teacher ended it
    elif reason == "stop" or (reason == "length" and capped and show):
        released = guide.complete()
        if show and (guide.kept.strip() or reason == "length"):
            for delta in _shown(outlet.feed(released.text, released.logprobs), chat.n):
                yield delta
            begun.ended = "stop" if outlet.stopped else reason
    if begun.ended is None:
        begun.dropped = guide.cut()
    elif show:
        for delta in _shown(outlet.finish(), chat.n):
            yield delta


def _all_failed(exchange: Exchange) -> bool:
    """True when no student said a word, and the teacher, who does not see its own hint, wrote the whole answer."""
    return all(call.error is not None for call in exchange.calls if call.seat == "student" and call.stage == "answer")


def _shown(piece: Piece, n: int) -> list[Delta]:
    """Guidance is the beginning of every choice."""
    return [Delta(piece.text, index, piece.logprobs) for index in range(n)] if piece.text else []


def guided(begun: Begun) -> Guidance:
    """What became of the guidance, with the reason when it was paid for in vain."""
    usage, kept = begun.usage, begun.guide.kept
    tokens = usage.visible if usage is not None else None
    if tokens is None:  # not reported: an estimate
        tokens = count(kept + begun.dropped, "").tokens
    if begun.refused or begun.ended in ("content_filter", "tool_calls", "function_call"):
        return Guidance(kept, tokens, complete=True, wasted="refused")
    if kept.strip() or begun.ended is not None:
        dropped = 0
        if begun.dropped.strip():  # the tail's share of the tokens is its share of the text
            dropped = max(1, round(tokens * len(begun.dropped) / len(kept + begun.dropped)))
        return Guidance(kept, max(tokens - dropped, 1 if kept else 0), complete=begun.ended is not None)
    if begun.finish is None:
        return Guidance(wasted="failed")
    if usage is not None and usage.reasoning:
        return Guidance(wasted="reasoning")
    return Guidance(wasted="torn" if begun.dropped.strip() else "empty")


def across(outlet: Outlet, prompt: Prompt) -> Prompt:
    """The prompt for words after a seam that a stop string may cross.

    It may begin before another one that the model's own server would find, and swallow with the text that completes
    the first: then the gateway alone looks for them.
    """
    return replace(prompt, sampling=replace(prompt.sampling, stop=())) if outlet.holding else prompt


def _left(max_tokens: int | None, used: int) -> int | None:
    return None if max_tokens is None else max(1, max_tokens - used)


def _teacher_prompt(exchange: Exchange, upstreams: Upstreams) -> Prompt:
    chat, plan = exchange.chat, exchange.plan
    messages, prefix, budget = chat.messages, "", plan.guidance_tokens
    if chat.prefix and upstreams.can("teacher", Ability.CONTINUE):
        messages, prefix = messages[:-1], chat.prefix.rstrip()
    if plan.guidance_prompt is not None:
        messages = after(messages, upstreams.prompts[plan.guidance_prompt].text)
    sampling = plan.teacher_sampling
    if plan.placement == "prefix":
        budget = budget if chat.max_tokens is None else min(budget, chat.max_tokens)
        if chat.sampling.logprobs and upstreams.can("teacher", Ability.LOGPROBS):
            sampling = replace(sampling, logprobs=True, top_logprobs=chat.sampling.top_logprobs)
    return Prompt(
        messages,
        budget,
        prefix,
        sampling,
        options=chat.teacher_options,
        model=plan.teacher_model,
        stream=chat.stream and plan.placement == "prefix",
    )


def student_prompt(exchange: Exchange, upstreams: Upstreams, guidance: Guidance, own: str) -> Prompt:
    chat, plan = exchange.chat, exchange.plan
    messages = chat.messages[:-1] if own else chat.messages
    sampling = sampled(chat.sampling, plan.student_sampling)
    if plan.placement == "prefix":
        left = _left(chat.max_tokens, guidance.tokens)
        prefix = (own + guidance.text).rstrip()
        return Prompt(messages, left, prefix, sampling, options=chat.options, stream=chat.stream)
    if guidance.text.strip():
        instruction = upstreams.prompts["context"].text.replace("{guidance}", guidance.text.strip())
        messages = after(messages, instruction)
    return Prompt(messages, chat.max_tokens, own.rstrip(), sampling, options=chat.options, stream=chat.stream)


def _fallback_prompt(exchange: Exchange, upstreams: Upstreams, guidance: Guidance) -> tuple[Prompt, Join]:
    """The teacher goes on from its own first words. One that cannot be given the very text is asked to."""
    chat, plan = exchange.chat, exchange.plan
    messages, prefix, join = list(chat.messages), "", Join()
    shown = guidance.text if plan.placement == "prefix" else ""
    if upstreams.can("teacher", Ability.CONTINUE):
        own = chat.prefix
        messages, prefix = messages[:-1] if own else messages, (own + shown).rstrip()
        join = Trim(own) if own and not shown else join
    elif shown:
        again: list[Message] = [
            {"role": "assistant", "content": shown},
            {"role": "user", "content": upstreams.prompts["continue"].text},
        ]
        messages, join = [*messages, *again], Rejoin(shown)
    left = _left(chat.max_tokens, guidance.tokens if shown else 0)
    sampling = replace(chat.sampling, logit_bias=None)  # its ids are of the student's vocabulary
    options = {**chat.options, **chat.teacher_options}
    model = plan.teacher_model
    return Prompt(messages, left, prefix, sampling, options=options, model=model, stream=chat.stream), join
