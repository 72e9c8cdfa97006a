"""Draft: what one rung of a cascade comes to. The student's whole answer is heard, and nobody is shown it yet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from gateway.answers import COMPARED, Answer, declared, final
from gateway.cascade.policy import Policy, Rung
from gateway.cascade.signals import Draft, likelihood
from gateway.chat import Chat, Climb, Exchange, Guidance, Opening, Plan, Taken
from gateway.strategies.base import Upstreams
from gateway.strategies.guided import Begun, across, begin, guided, student_prompt
from gateway.strategies.same import placed
from gateway.strategies.seam import Trim
from gateway.strategies.solo import one_of, whole
from gateway.strategies.voice import Choice, voiced
from pricing.tokens import count
from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Prompt
from students.errors import EngineError
from students.outlet import Outlet

WHOLE = frozenset({"stop", "tool_calls", "function_call"})
"""Reasons of an answer that its model brought to an end. What was cut or filtered has no final answer."""


@dataclass(slots=True)
class Heard:
    """A whole answer that was heard and not shown.

    `end` is None where none came: its model failed, or was not asked.
    """

    draft: Draft
    said: list[Delta]
    end: Finish | None

    @property
    def useful(self) -> bool:
        """True when there is something to give."""
        said = any(delta.text or (delta.fields and delta.fields.get("refusal")) for delta in self.said)
        return self.end is not None and (said or bool(tool_calls(self.said)))

    def shown(self, chat: Chat) -> list[Delta]:
        """What a client gets of it: log-probabilities only where it asked for them."""
        if chat.sampling.logprobs:
            return self.said
        kept = [Delta(delta.text, delta.index, None, delta.fields) for delta in self.said]
        return [delta for delta in kept if delta.text or delta.fields]


def policy_of(plan: Plan) -> Policy:
    """The policy of a cascade's plan; LookupError: it is no cascade."""
    if plan.policy is None:
        raise LookupError("the plan has no policy")  # the planner has checked
    return plan.policy


async def climbed(
    exchange: Exchange, upstreams: Upstreams, climb: Climb, place: int, *, index: int = 0, measuring: bool = False
) -> Heard:
    """Climb the rung at `place` for choice `index`: its student answers, alone or from the teacher's first words.

    What came of it is put down in `climb`, whose opening is gone on from. `measuring`: nobody is served by it, and its
    calls are booked as measurements. A model that fails has no answer, in no tokens: `Heard.end` is None. Raises
    `EngineError` only where the plan would rather end in an error, `LookupError` for a plan that is no cascade.
    """
    rung, made = policy_of(exchange.plan).rungs[place], len(exchange.calls)
    if rung.kind == "guidance":
        heard = await _guided(exchange, upstreams, rung, climb, index, measuring)
    else:
        heard = await _alone(exchange, upstreams, rung, index, measuring)
    known = [*(draft.answer for draft in climb.drafts), climb.teacher]
    answer = await placed(exchange, upstreams, climb, heard.draft.answer, known, measuring=measuring)
    heard.draft = heard.draft._replace(answer=answer)
    climb.drafts.append(heard.draft)
    climb.taken.append(Taken(place, [call.id for call in exchange.calls[made:]]))
    return heard


async def _alone(exchange: Exchange, upstreams: Upstreams, rung: Rung, index: int, measuring: bool) -> Heard:
    seat = exchange.plan.students[rung.student]
    prompt, own = whole(exchange, upstreams, "student", seat)
    prompt = _quiet(upstreams, one_of(prompt, index), seat, rung.max_tokens)
    choice = Choice(index, Outlet(exchange.chat.sampling.stop), Trim(own))
    heard = await _hear(exchange, upstreams, rung, prompt, choice, measuring)
    if heard is None:
        return Heard(Draft(rung.student, None, 0), [], None)
    said, end = heard
    return Heard(await _draft(exchange, rung, own, said, end), said, end)


async def listened(events: AsyncGenerator[Event, None]) -> tuple[list[Delta], Finish]:
    """A voiced answer to its end."""
    said: list[Delta] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finish):
                return said, event
            said.append(event)
    raise LookupError("an answer without its end")  # `voiced` always ends in one


async def _hear(
    exchange: Exchange, upstreams: Upstreams, rung: Rung, prompt: Prompt, choice: Choice, measuring: bool
) -> tuple[list[Delta], Finish] | None:
    """What the rung's student says; None: it failed."""
    seat = exchange.plan.students[rung.student]
    try:
        events = upstreams.ask("student", "measurement" if measuring else "answer", prompt, seat)
        return await listened(voiced(events, [choice]))
    except EngineError:
        if exchange.plan.on_student_failure == "error" and not measuring:
            raise
        return None


async def _guided(
    exchange: Exchange, upstreams: Upstreams, rung: Rung, climb: Climb, index: int, measuring: bool
) -> Heard:
    """The student goes on from the teacher's first words, or has them in its prompt where it cannot."""
    chat, plan = exchange.chat, exchange.plan
    if climb.opening is None or not climb.opening.serves(rung.guidance_tokens):
        climb.opening = await _opened(exchange, upstreams, rung, climb.opening, measuring)
    guidance, read = climb.opening.guidance, climb.opening.read
    if not measuring:
        exchange.guidance = guidance
    nothing = Heard(Draft(rung.student, None, 0, guidance=rung.guidance_tokens), [], None)
    if guidance.wasted is not None:
        return nothing
    outlet = Outlet(chat.sampling.stop)
    if guidance.complete:
        text = outlet.feed(guidance.text).text + outlet.finish().text
        said, end = [Delta(text, index)], Finish(usage=_shown(read, 0, guidance.tokens))
        answer = await answer_of(exchange, said, "stop", "")
        budget = rung.guidance_tokens
        return Heard(Draft(rung.student, answer, guidance.tokens, None, True, budget, complete=True), said, end)
    held = await asyncio.to_thread(declared, guidance.text)
    seat = plan.students[rung.student]
    goes_on = upstreams.can("student", Ability.CONTINUE, seat)
    alike = replace(plan, placement="prefix" if goes_on else "context")
    prompt = one_of(
        student_prompt(Exchange(chat, exchange.caller, alike, exchange.started), upstreams, guidance, ""), index
    )
    said = []
    shown = guidance.tokens if goes_on else 0
    if goes_on and (piece := outlet.feed(guidance.text)).text:
        said.append(Delta(piece.text, index))
    if outlet.stopped or (chat.max_tokens is not None and shown >= chat.max_tokens):
        end = Finish(("stop" if outlet.stopped else "length",), _shown(read, 0, shown))
    else:
        limit = None if rung.max_tokens is None else max(1, rung.max_tokens - shown)
        quiet = _quiet(upstreams, across(outlet, prompt), seat, limit)
        heard = await _hear(exchange, upstreams, rung, quiet, Choice(index, outlet), measuring)
        if heard is None:
            return nothing
        said, end = [*said, *heard[0]], heard[1]
        end.usage = None if end.usage is None else _shown(read or end.usage.input, end.usage.output, shown)
    return Heard((await _draft(exchange, rung, "", said, end))._replace(told=held), said, end)


async def _opened(
    exchange: Exchange, upstreams: Upstreams, rung: Rung, before: Opening | None, measuring: bool
) -> Opening:
    """The teacher's first words: those `before` and more where it can go on from its own text; else it begins anew."""
    chat, former, calls, made = exchange.chat, Guidance(), list[str](), len(exchange.calls)
    if before is not None and before.guidance.text and upstreams.can("teacher", Ability.CONTINUE):
        own = {"role": "assistant", "content": before.guidance.text}
        chat = replace(chat, messages=[*chat.messages, own], needs=chat.needs | {"prefix"})
        former, calls = before.guidance, [*before.calls]
    plan = replace(
        exchange.plan,
        guidance_tokens=max(1, min(rung.guidance_tokens, chat.max_tokens or rung.guidance_tokens) - former.tokens),
        guidance_prompt=None,
        placement="context",  # nothing is shown yet
        on_teacher_failure="student",
    )
    begun = Begun(Outlet())
    view = Exchange(chat, exchange.caller, plan, exchange.started)
    async with aclosing(begin(view, upstreams, begun, "measurement" if measuring else "guidance")) as deltas:
        async for _ in deltas:
            pass
    new, usage = guided(begun), begun.usage
    complete = new.wasted is None and begun.finish is not None and begun.finish.reason == "stop"
    read = None if usage is None or usage.input is None else max(0, usage.input - former.tokens)
    words = Guidance(former.text + new.text, former.tokens + new.tokens, complete, new.wasted)
    return Opening(words, rung.guidance_tokens, read, [*calls, *(call.id for call in exchange.calls[made:])])


def _quiet(upstreams: Upstreams, prompt: Prompt, seat: str, limit: int | None) -> Prompt:
    """The prompt of an answer that nobody reads along: within `limit` too, with logprobs where there are any."""
    limits = [each for each in (prompt.max_tokens, limit) if each is not None]
    sampling = prompt.sampling
    if upstreams.can("student", Ability.LOGPROBS, seat):
        sampling = replace(sampling, logprobs=True)
    return replace(prompt, max_tokens=min(limits, default=None), sampling=sampling, stream=False)


def _shown(read: int | None, written: int | None, guidance: int) -> Usage | None:
    """Usage as a client sees it: its own prompt, guidance and continuation; None where the latter is unknown."""
    return None if written is None else Usage(read, guidance + written, source="estimated")


async def _draft(exchange: Exchange, rung: Rung, own: str, said: Sequence[Delta], end: Finish) -> Draft:
    """What the policy sees of an answer."""
    written = end.usage.output if end.usage is not None else None
    if written is None:  # not reported: an estimate
        written = count("".join(delta.text for delta in said), "").tokens
    told = (entry.get("logprob") for delta in said for entry in delta.logprobs or ())
    logprob, least = likelihood(float(each) for each in told if isinstance(each, int | float))
    answer = await answer_of(exchange, said, end.reason, own)
    return Draft(rung.student, answer, max(written, 1), logprob, guidance=rung.guidance_tokens, least=least)


async def answer_of(exchange: Exchange, said: Sequence[Delta], reason: str, own: str) -> Answer | None:
    """What an answer finally says; calls of tools say the same where their names and arguments are the same JSON."""
    if reason not in WHOLE or any(delta.fields and delta.fields.get("refusal") for delta in said):
        return None
    calls = tool_calls(said)
    if calls:
        return Answer("json", json.dumps(calls, sort_keys=True, separators=(",", ":")))
    text, kind = own + "".join(delta.text for delta in said), exchange.plan.answers
    # On a thread: answers may be long, and the loop has chats to answer.
    if kind in COMPARED and "json" in exchange.chat.needs:  # an object is compared as one
        kind = "json"
    found = await asyncio.to_thread(final, text, kind)
    if found is None and kind is not None and "json" in exchange.chat.needs:
        found = await asyncio.to_thread(final, text)
    return found


def tool_calls(said: Sequence[Delta]) -> list[dict[str, Any]]:
    """The calls of tools that an answer makes, as names and arguments: parsed where they are JSON, in their order."""
    made: dict[int, list[str]] = {}
    for delta in said:
        fields = delta.fields or {}
        for number, call in enumerate(fields.get("tool_calls") or ()):
            if isinstance(call, Mapping):
                _add(made, call.get("index", number), call.get("function") or call.get("custom"))
        _add(made, 0, fields.get("function_call"))
    return [{"name": name, "arguments": _parsed(arguments)} for _, (name, arguments) in sorted(made.items())]


def _add(made: dict[int, list[str]], index: Any, piece: Any) -> None:
    if isinstance(piece, Mapping) and isinstance(index, int):
        call = made.setdefault(index, ["", ""])
        call[0] += str(piece.get("name") or "")
        call[1] += str(piece.get("arguments") or piece.get("input") or "")


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
